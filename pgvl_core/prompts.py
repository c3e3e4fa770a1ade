"""Conversation templates: the exact text that the language model reads, the video's slot in it.

The texts are those of the official `video_chatgpt/video_conversation.py` and `inference.py`, to the
character: a model trained on a prompt answers best when asked with the same one.
"""

from __future__ import annotations

from collections.abc import Sequence

VID_PATCH, VID_START, VID_END = "<vid_patch>", "<vid_start>", "<vid_end>"
VIDEO_WORDS = (VID_PATCH, VID_START, VID_END)  # in the order in which they join a vocabulary
TRANSCRIPT = "The noisy audio transcript of this video is:"

SYSTEM = {
    "vicuna_v1": (
        "A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions."
    ),
    "pg-video-llava": (
        "You are PG-Video-LLaVA, a large vision-language assistant. You are able to understand "
        "the video content that the user provides, and assist the user with a variety of tasks "
        "using natural language."  # no space follows in the official text either
        "Follow the instructions carefully and explain your answers in detail based on the "
        "provided video."
    ),
}


def video_slot(tokens: int, marks: bool = True) -> str:
    """The place of that many video tokens, between two marks if the model has learned them."""
    patches = VID_PATCH * tokens
    return f"{VID_START}{patches}{VID_END}" if marks else patches


def render(
    template: str,
    turns: Sequence[tuple[str, str | None]],
    *,
    eos: str,
    video: str = "",
    transcript: str = "",
    video_first: bool = False,
) -> str:
    """A conversation as the text that the model reads.

    Parameters
    ----------
    template : str
        A key of `SYSTEM`.
    turns : sequence of (question, answer)
        Answer None, in the last turn, asks the model for it.
    eos : str
        The tokenizer's end-of-sequence word, which ends every answer.
    video : str
        A `video_slot`; it goes with the first question. "" for plain text.
    transcript : str
        What is said in the video. Without one there is no transcript line at all.
    video_first : bool
        Whether the video stands before the question. Answers are asked for with the question
        first; VideoInstruct-100K trains on both.

    Raises
    ------
    ValueError
        When there is no such template.
    """
    if template not in SYSTEM:
        raise ValueError(f"no template is called {template!r}; there are {', '.join(SYSTEM)}")
    text = SYSTEM[template] + " "
    for i, (question, answer) in enumerate(turns):
        if i == 0 and video:
            question = f"{video}\n{question}" if video_first else f"{question}\n{video}"
        if i == 0 and transcript:
            question = f'{question}\n{TRANSCRIPT}\n"{transcript}"'
        text += f"USER: {question} ASSISTANT:"
        if answer is not None:
            text += f" {answer}{eos}"
    return text
