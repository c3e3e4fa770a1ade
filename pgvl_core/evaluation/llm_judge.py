"""A language model as the judge of answers, in the protocol of Video-ChatGPT's evaluation.

It is asked over HTTP, in the form of OpenAI's chat completions, which most servers of language
models speak: `transformers serve`, vLLM, FastChat (Vicuna, as in the paper) or OpenAI's own.
"""

from __future__ import annotations

import ast
import contextlib
import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .judges import BEST, JUDGED, NO_REPLY, UNPARSABLE, Verdict
from .qa_sets import QASample

MATCH = "match"  # the axis that says yes or no besides
_TASK = "You grade what a video question answering system said. You are given {given}. {rule} "
_ONE = "a question about a video, its correct answer and the predicted answer"
_TWO = (
    "two questions about a video that ask for the same thing in other words, the correct answer to "
    "both, and the predicted answer to each"
)
AXES = {
    MATCH: _TASK.format(
        given=_ONE,
        rule="Judge whether the predicted answer means the same as the correct answer. Other words "
        "for the same thing are as good; only what they mean counts.",
    ),
    "correctness": _TASK.format(
        given=_ONE,
        rule="Judge whether what the predicted answer says is true: it must agree with the correct "
        "answer in its facts, and must not contradict or misread the video.",
    ),
    "detail": _TASK.format(
        given=_ONE,
        rule="Judge how detailed the predicted answer is: it should cover every main point of the "
        "correct answer, and be specific where that is specific.",
    ),
    "context": _TASK.format(
        given=_ONE,
        rule="Judge whether the predicted answer has understood what the video as a whole is "
        "about: its theme must be that of the correct answer.",
    ),
    "temporal": _TASK.format(
        given=_ONE,
        rule="Judge whether the predicted answer has understood time: what happens when, and in "
        "which order, must be as in the correct answer.",
    ),
    "consistency": _TASK.format(
        given=_TWO,
        rule="Judge whether the two predicted answers are consistent: they must agree with each "
        "other and with the correct answer, and must not contradict one another.",
    ),
}
_YES_OR_NO = (
    "Reply with a Python dictionary and nothing else. Its key 'pred' is 'yes' when they match and "
    "'no' when they do not; its key 'score' is a number from 0 (no match) to 5 (a perfect match). "
    "For example: {'pred': 'yes', 'score': 4.8}"
)
_SCORE = (
    "Reply with a Python dictionary and nothing else. Its only key 'score' is a number from 0 (the "
    "worst) to 5 (the best). For example: {'score': 4.8}"
)
_DICTIONARY = re.compile(r"\{[^{}]*\}")
_PASSING = (408, 429)  # of the errors of ours that a server tells, those that pass


class _NoReply(ValueError):
    """A request without a reply; `final` when another one would have none either."""

    def __init__(self, message: str, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


@dataclass(frozen=True)
class LLMJudge:
    """A judge of `judges` that asks a language model.

    The model is given question, correct answer and predicted answer, and has to reply with a
    dictionary: ``{'pred': 'yes' or 'no', 'score': 0 to 5}``, or on one of the five axes the score
    alone. Unlike there, a score keeps its decimals, a reply that is no such dictionary is asked for
    again only `tries` times, and decoding is greedy and seeded.

    Parameters
    ----------
    url : str
        Of the server, as OpenAI's clients take it: "http://localhost:8000/v1".
    model : str
        What the server calls the model.
    axis : str
        A key of `AXES`. "consistency" is for samples with two questions, the others for one.
    system : str
        The instructions, in other words than `AXES` has them; "" for those.
    seed, temperature
        Of the first request; each further one has the next seed.
    tries : int
        Requests for a sample at most. A reply that comes a second time is not asked for a third.
    timeout : float
        Seconds that a reply may take, from the first byte to the last.
    pause : float
        Seconds after a request without a reply, doubled each time.
    key : str
        For a server that asks for one.
    """

    url: str
    model: str
    axis: str = MATCH
    system: str = ""
    seed: int = 0
    temperature: float = 0.0
    tries: int = 3
    timeout: float = 120.0
    pause: float = 1.0
    key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if self.axis not in AXES:
            raise ValueError(f"an axis is one of {', '.join(AXES)}, not {self.axis!r}")
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"{self.url!r} is no server's URL, such as http://localhost:8000/v1")
        if self.tries < 1:
            raise ValueError(f"{self.tries} tries leave nothing to judge by")

    @property
    def setup(self) -> dict[str, Any]:
        """What tells its verdicts from another judge's; where the server runs is no part of it."""
        return {
            "judge": self.model,
            "axis": self.axis,
            "system": self.system or AXES[self.axis],
            "seed": self.seed,
            "temperature": self.temperature,
        }

    def __call__(self, sample: QASample, answers: Sequence[str]) -> Verdict:
        messages = self.messages(sample, answers)
        replies: list[str] = []
        errors: list[str] = []
        status, pause = NO_REPLY, self.pause
        for attempt in range(self.tries):
            try:
                reply = self._ask(messages, self.seed + attempt)
            except _NoReply as error:
                errors.append(str(error))
                status = NO_REPLY
                if error.final or attempt + 1 == self.tries:
                    break
                time.sleep(pause)
                pause *= 2
                continue
            known = reply in replies
            replies.append(reply)
            try:
                right, score = parse(reply, self.axis)
            except ValueError as error:
                errors.append(str(error))
                status = UNPARSABLE
                if known:
                    break
            else:
                return Verdict(sample.id, right, score, JUDGED, replies, errors)
        return Verdict(sample.id, None, None, status, replies, errors)

    def messages(self, sample: QASample, answers: Sequence[str]) -> list[dict[str, str]]:
        """The request's messages: instructions; question, correct and predicted answer, form.

        Raises
        ------
        ValueError
            When the axis is not for samples with so many questions.
        """
        asked = 2 if self.axis == "consistency" else 1
        if not len(sample.questions) == len(answers) == asked:
            raise ValueError(
                f"{self.axis} is judged on {asked} question(s) and as many answers; sample "
                f"{sample.id} has {len(sample.questions)} and {len(answers)}"
            )
        truth = f"Correct Answer: {sample.answer}"
        if asked == 1:
            lines = [f"Question: {sample.questions[0]}", truth, f"Predicted Answer: {answers[0]}"]
        else:
            lines = [f"Question {i}: {text}" for i, text in enumerate(sample.questions, 1)]
            lines.append(truth)
            lines += [f"Predicted Answer to Question {i}: {a}" for i, a in enumerate(answers, 1)]
        form = _YES_OR_NO if self.axis == MATCH else _SCORE
        return [
            {"role": "system", "content": (self.system or AXES[self.axis]).strip()},
            {"role": "user", "content": "\n".join([*lines, "", form])},
        ]

    def _ask(self, messages: list[dict[str, str]], seed: int) -> str:
        body = {
            "model": self.model,
            "messages": messages,
            "temperature": self.temperature,
            "seed": seed,
            "max_tokens": 64,
        }
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        if self.key:
            request.add_header("Authorization", f"Bearer {self.key}")
        content = b""
        try:
            content = _fetch(request, self.timeout)
            reply = json.loads(content)["choices"][0]["message"]["content"]
        except urllib.error.HTTPError as error:
            told = ""
            with contextlib.suppress(OSError, http.client.HTTPException):
                told = error.read1(500).decode(errors="replace")
            final = 400 <= error.code < 500 and error.code not in _PASSING
            raise _NoReply(f"{self.url}: HTTP {error.code}: {told}", final) from error
        except (OSError, http.client.HTTPException) as error:
            raise _NoReply(f"{self.url}: {type(error).__name__}: {error}") from error
        except (ValueError, LookupError, TypeError) as error:
            told = content[:500].decode(errors="replace")
            raise _NoReply(f"{self.url}: not a chat completion: {told}") from error
        if not isinstance(reply, str):
            raise _NoReply(f"{self.url}: a chat completion without a text: {reply!r:.500}")
        return reply


def _fetch(request: urllib.request.Request, timeout: float) -> bytes:
    """What a server sends, in time: a socket's own timeout starts anew with every byte."""
    end, parts = time.monotonic() + timeout, []
    with urllib.request.urlopen(request, timeout=timeout) as response:
        while part := response.read1(1 << 16):
            parts.append(part)
            if time.monotonic() > end:
                raise TimeoutError(f"no whole reply in {timeout} s")
        if response.length:  # of the bytes that were promised, some never came
            raise http.client.IncompleteRead(b"".join(parts), response.length)
    return b"".join(parts)


def parse(reply: str, axis: str) -> tuple[bool | None, float]:
    """What a judge's reply says: yes or no (None on an axis other than "match"), and the score.

    There must be one dictionary in it, of nothing but the keys that were asked for; the score is a
    number from 0 to 5 and keeps its decimals.

    Raises
    ------
    ValueError
        Says what is wrong with it.
    """
    found = _DICTIONARY.findall(reply)
    if len(found) != 1:
        raise ValueError(f"a reply with {len(found)} dictionaries instead of one")
    try:
        content = ast.literal_eval(found[0])
    except (ValueError, SyntaxError, TypeError) as error:
        raise ValueError(f"its dictionary cannot be read: {error}") from error
    keys = {"pred", "score"} if axis == MATCH else {"score"}
    if not isinstance(content, dict) or set(content) != keys:
        raise ValueError(f"not a dictionary of {' and '.join(sorted(keys))}")
    score, said = content["score"], content.get("pred")
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= BEST:
        raise ValueError(f"its score is {score!r}, no number from 0 to 5")
    if axis != MATCH:
        return None, float(score)
    if not (isinstance(said, str) and said.strip().lower() in ("yes", "no")):
        raise ValueError(f"its pred is {said!r}, neither yes nor no")
    return said.strip().lower() == "yes", float(score)
