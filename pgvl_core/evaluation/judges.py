"""Judges of answers, behind one face: a sample and what was answered in, a verdict out.

The paper has no rule to tell a right answer from a wrong one: it asks a language model (GPT-3.5 in
Video-ChatGPT's evaluation, Vicuna in its place here; section 4). `llm_judge.LLMJudge` asks one. The
judges of this module need no large model, and always say the same; `kappa` and `agreement` tell how
far two judges are of one mind.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from whisper.normalizers import EnglishTextNormalizer

from .qa_sets import QASample

BEST = 5.0  # scores go from 0 to this
JUDGED, UNPARSABLE, NO_REPLY, NO_ANSWER = "judged", "unparsable", "no reply", "no answer"


@dataclass(frozen=True)
class Verdict:
    """What a judge says of the answers to a sample.

    Attributes
    ----------
    id : str, the sample's
    right : bool, or None where the judge does not say: on an axis, or when it failed
    score : float, 0 to 5, or None when the judge failed
    status : str
        ``JUDGED``; ``UNPARSABLE`` or ``NO_REPLY`` when a language model failed as a judge;
        ``NO_ANSWER`` when there was nothing to judge, which counts as wrong.
    replies : list of str, every reply of a language model, letter for letter, the last one last
    errors : list of str, what was wrong with a reply or a request, or with the answer
    """

    id: str
    right: bool | None
    score: float | None
    status: str = JUDGED
    replies: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


Judge = Callable[[QASample, Sequence[str]], Verdict]


# ----------------------------------------------------------------------------------------- judges
def exact(sample: QASample, answers: Sequence[str]) -> Verdict:
    """Right when every answer is the correct one, word for word, once `normalise` is done."""
    truth = normalise(sample.answer)
    right = all(normalise(answer) == truth for answer in answers)
    return Verdict(sample.id, right, BEST * right)


def normalise(text: str) -> str:
    """A text without case, punctuation and articles, its numbers in digits, its spelling American.

    Whisper's normaliser and SQuAD's rule on articles; a text of which nothing is left stays.
    """
    plain = " ".join(w for w in _plain()(text).split() if w not in ("a", "an", "the"))
    return plain or text


@cache
def _plain() -> EnglishTextNormalizer:
    return EnglishTextNormalizer()


def similarity(encode: Callable[[list[str]], Any], threshold: float) -> Judge:
    """A judge that compares sentences by the cosine of their vectors.

    Parameters
    ----------
    encode : callable
        From ``n`` texts to vectors ``[n, D]`` of any length, such as `lite.clip.SentenceEncoder`.
    threshold : float
        The cosine from which an answer is right, -1 to 1; the score is five times the cosine, and
        0 below zero. Of several answers the least similar counts.
    """

    def judge(sample: QASample, answers: Sequence[str]) -> Verdict:
        vectors = np.asarray(encode([sample.answer, *answers]), dtype=np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        cosine = float((vectors[1:] @ vectors[0]).min())
        return Verdict(sample.id, cosine >= threshold, BEST * min(1.0, max(0.0, cosine)))

    return judge


# -------------------------------------------------------------------------------------- agreement
def kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Cohen's kappa of two judges' verdicts on the same things, in the same order.

    ``(observed - expected) / (1 - expected)``, where judges who throw dice, each with the shares of
    verdicts that it gave, would agree in ``expected`` (Cohen, 1960): 1 for the same verdicts, 0 for
    no more agreement than by chance. NaN when both gave one and the same verdict throughout.

    Raises
    ------
    ValueError
        When there are no verdicts, or not as many of each.
    """
    if not first or len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} verdicts cannot be compared")
    n = len(first)
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    expected = sum(list(first).count(k) * list(second).count(k) for k in set(first)) / n**2
    return (observed - expected) / (1 - expected) if expected < 1 else float("nan")


def agreement(first: Sequence[Verdict], second: Sequence[Verdict]) -> dict[str, float]:
    """How far two judges agree on what is right.

    Returns
    -------
    dict
        ``both``, the samples on which both said yes or no; ``agreement``, their share in which they
        said the same, and `kappa`; NaN when there are none.
    """
    other = {each.id: each.right for each in second if each.right is not None}
    pairs = [(v.right, other[v.id]) for v in first if v.right is not None and v.id in other]
    if not pairs:
        return {"both": 0, "agreement": float("nan"), "kappa": float("nan")}
    ours, theirs = zip(*pairs, strict=True)
    same = float(np.mean([a == b for a, b in pairs]))
    return {"both": len(pairs), "agreement": same, "kappa": kappa(ours, theirs)}
