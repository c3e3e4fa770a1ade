"""The prompts, written out; their source is the paper's code, `video_conversation.py`."""

import pytest

from pgvl_core.prompts import render, video_slot

ASK, ANSWER = "What is the man doing?", "He is cooking."
MORE = [("Where?", "In a kitchen."), ("Is he alone?", None)]
SAID = "First, chop the onions."

VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)
PG = (
    "You are PG-Video-LLaVA, a large vision-language assistant. You are able to understand the "
    "video content that the user provides, and assist the user with a variety of tasks using "
    "natural language.Follow the instructions carefully and explain your answers in detail based "
    "on the provided video."
)

OFFICIAL = [  # template, turns, marks, transcript, the text after the system's
    (
        "vicuna_v1",
        [(ASK, None)],
        True,
        "",
        " USER: What is the man doing?\n"
        "<vid_start><vid_patch><vid_patch><vid_patch><vid_end> ASSISTANT:",
    ),
    (
        "vicuna_v1",
        [(ASK, None)],
        False,
        "",
        " USER: What is the man doing?\n<vid_patch><vid_patch><vid_patch> ASSISTANT:",
    ),
    (
        "vicuna_v1",
        [(ASK, ANSWER), *MORE],
        False,
        SAID,
        " USER: What is the man doing?\n<vid_patch><vid_patch><vid_patch>\n"
        'The noisy audio transcript of this video is:\n"First, chop the onions." '
        "ASSISTANT: He is cooking.</s>"
        "USER: Where? ASSISTANT: In a kitchen.</s>"
        "USER: Is he alone? ASSISTANT:",
    ),
    (
        "pg-video-llava",
        [(ASK, None)],
        True,
        SAID,
        " USER: What is the man doing?\n"
        "<vid_start><vid_patch><vid_patch><vid_patch><vid_end>\n"
        'The noisy audio transcript of this video is:\n"First, chop the onions." ASSISTANT:',
    ),
    (
        "pg-video-llava",
        [(ASK, ANSWER), *MORE],
        True,
        "",
        " USER: What is the man doing?\n"
        "<vid_start><vid_patch><vid_patch><vid_patch><vid_end> "
        "ASSISTANT: He is cooking.</s>"
        "USER: Where? ASSISTANT: In a kitchen.</s>"
        "USER: Is he alone? ASSISTANT:",
    ),
    (  # a training text: the last answer is there too
        "pg-video-llava",
        [(ASK, ANSWER)],
        True,
        "",
        " USER: What is the man doing?\n"
        "<vid_start><vid_patch><vid_patch><vid_patch><vid_end> "
        "ASSISTANT: He is cooking.</s>",
    ),
]


@pytest.mark.parametrize(("template", "turns", "marks", "transcript", "text"), OFFICIAL)
def test_prompts_are_the_official_ones(template, turns, marks, transcript, text):
    system = {"vicuna_v1": VICUNA, "pg-video-llava": PG}[template]
    slot = video_slot(3, marks)
    assert render(template, turns, eos="</s>", video=slot, transcript=transcript) == system + text


def test_video_may_come_first():
    text = render("vicuna_v1", [(ASK, None)], eos="</s>", video=video_slot(2), video_first=True)
    assert text == (
        f"{VICUNA} USER: <vid_start><vid_patch><vid_patch><vid_end>\n"
        "What is the man doing? ASSISTANT:"
    )


def test_plain_text_has_neither_video_nor_transcript():
    text = render("vicuna_v1", [("Hello", "Hi."), ("Bye", None)], eos="<end>")
    assert text == f"{VICUNA} USER: Hello ASSISTANT: Hi.<end>USER: Bye ASSISTANT:"


def test_unknown_template_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'mpt'; there are vicuna_v1, pg-video-llava"):
        render("mpt", [(ASK, None)], eos="</s>")
