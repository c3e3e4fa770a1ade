"""A conversation about a video: many turns, streamed, nothing already said computed again."""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from .files import write_text
from .model import SHORT_SIDE, PGVideoLLaVA
from .video import Video


@dataclass(frozen=True)
class Answer:
    """One turn of a conversation and what it took."""

    question: str
    text: str
    notes: tuple[str, ...]  # what was left out: of the transcript, the history, or the answer
    prompt_tokens: int
    reused_tokens: int  # of the prompt: they were in the KV cache
    first_token: float  # seconds from the question to the first token
    seconds: float  # to the last one

    def __str__(self) -> str:
        return self.text + "".join(f" [{note}]" for note in self.notes)


class Conversation:
    """Questions and answers about one video, which is encoded once.

    Parameters
    ----------
    model : PGVideoLLaVA
    video : path, Video, uint8 array ``[T, H, W, 3]``, or None to talk about nothing in particular
    transcript : str
        What is said in the video; "" when there is nothing.

    Attributes
    ----------
    answers : list of Answer
    frames : Frames or None
        What the model saw of a video file.
    """

    def __init__(
        self,
        model: PGVideoLLaVA,
        video: str | Path | Video | np.ndarray | None = None,
        transcript: str = "",
    ) -> None:
        self.model, self.transcript = model, transcript
        self.name, self.frames, self.tokens = "", None, None
        if isinstance(video, (str, Path)):
            video = Video(video)
        if isinstance(video, Video):
            self.name = Path(video.path).name
            self.frames = video.sample(model.frames, SHORT_SIDE)
            self.tokens = model.encode(self.frames)
        elif video is not None:
            self.tokens = model.encode(video)
        self._pieces: Callable[[], Generator[str] | None] = lambda: None
        self.clear()

    def __repr__(self) -> str:
        return f"Conversation({self.name or 'no file'}, {len(self.answers)} turns)"

    def clear(self) -> None:
        """Forget what was said; the video stays."""
        self._end()
        self.answers: list[Answer] = []
        self._forget()

    def _forget(self) -> None:
        self._cache, self._cached = DynamicCache(), torch.tensor([], dtype=torch.long)

    def _end(self) -> None:
        """Close an answer that nobody read to its end: the next one takes over its cache."""
        if pieces := self._pieces():
            pieces.close()

    def stop(self) -> None:
        """End the answer that is being streamed, after its next token."""
        self._stopped = True

    def ask(self, question: str, **decoding: Any) -> Answer:
        """The whole answer; `decoding` as for `stream`."""
        for _ in self.stream(question, **decoding):
            pass
        return self.answers[-1]

    def stream(
        self,
        question: str,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[str]:
        """The answer piece by piece; what was said so far is kept even if nobody reads on.

        Parameters
        ----------
        question : str
        max_new_tokens, temperature, top_p, seed
            As for `PGVideoLLaVA.stream`; temperature 0 is greedy.

        Raises
        ------
        ValueError
            When there is no question, or it does not fit the model's context.
        """
        self._end()
        pieces = self._stream(question, max_new_tokens, temperature, top_p, seed)
        self._pieces = weakref.ref(pieces)
        return pieces

    def _stream(
        self, question: str, max_new_tokens: int, temperature: float, top_p: float, seed: int
    ) -> Generator[str]:
        if not question.strip():
            raise ValueError("there is no question to answer")
        begin, self._stopped = time.perf_counter(), False
        turns = [(each.question, each.text) for each in self.answers]
        prompt = self.model.fit(
            [*turns, (question, None)], self.transcript, self.tokens is not None, max_new_tokens
        )
        reused = self._keep(prompt.ids)
        notes, tokens, text, first = list(prompt.notes), [], "", 0.0
        try:
            for token in self.model.stream(
                prompt.ids, self.tokens, self._cache, max_new_tokens, temperature, top_p, seed
            ):
                first = first or time.perf_counter() - begin
                tokens.append(token)
                longer = str(self.model.tokenizer.decode(tokens, skip_special_tokens=True))
                if not longer.endswith("\N{REPLACEMENT CHARACTER}"):  # half a letter
                    piece, text = longer[len(text) :], longer
                    yield piece
                if self._stopped:
                    notes.append("stopped")
                    break
            else:
                if len(tokens) == max_new_tokens:
                    notes.append(f"the answer was cut after {max_new_tokens} tokens")
        except BaseException as error:
            notes.append("stopped")
            if not isinstance(error, GeneratorExit):  # between two layers, which now disagree
                self._forget()
            raise
        finally:
            held = self._cache.get_seq_length()
            self._cached = torch.cat([prompt.ids, torch.tensor(tokens, dtype=torch.long)])[:held]
            seconds = time.perf_counter() - begin
            self.answers.append(
                Answer(
                    question,
                    text.strip(),
                    tuple(notes),
                    len(prompt.ids),
                    reused,
                    first or seconds,
                    seconds,
                )
            )

    def _keep(self, ids: torch.Tensor) -> int:
        """Cut the cache back to what it has in common with a prompt; how many tokens that is."""
        both = min(len(ids) - 1, len(self._cached))  # the last token has to be computed anew
        same = self._cached[:both] == ids[:both]
        common = both if same.all() else int(same.int().argmin())
        if surplus := self._cache.get_seq_length() - common:
            if common:
                self._cache.crop(-surplus)
            else:
                self._forget()
        return common

    # ------------------------------------------------------------------------------------- export
    def to_dict(self) -> dict[str, object]:
        """The conversation as plain data."""
        return {
            "video": self.name,
            "transcript": self.transcript,
            "template": self.model.template,
            "turns": [asdict(answer) for answer in self.answers],
        }

    def to_markdown(self) -> str:
        """The conversation as a document."""
        lines = [f"# Conversation about {self.name or 'a video'}"]
        for answer in self.answers:
            lines += [f"**{answer.question}**", str(answer)]
        return "\n\n".join(lines) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the conversation to a .json or .md file.

        Raises
        ------
        ValueError
            When the suffix is neither.
        """
        path = Path(path)
        if path.suffix not in (".json", ".md"):
            raise ValueError(f"{path.name}: a conversation is saved as .json or .md")
        text = self.to_markdown()
        if path.suffix == ".json":
            text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        write_text(path, text)
