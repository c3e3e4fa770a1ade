"""Measure question answering: a model answers, a judge judges; both may be stopped and taken up."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .intervals import mean_interval
from .judges import JUDGED, NO_ANSWER, NO_REPLY, UNPARSABLE, Judge, Verdict
from .qa_sets import Prediction, QASample
from .resume import one_by_one, present

PATIENCE = 3  # samples in a row without a reply, after which a server is taken for dead

Ask = Callable[[Path, str], str]  # a model: from a video and a question to an answer


@dataclass(frozen=True, eq=False)
class Judged:
    """Samples with their verdicts, in one order, and the samples that had no prediction."""

    samples: list[QASample]
    verdicts: list[Verdict]
    missing: list[QASample]

    def __repr__(self) -> str:
        row = self.summary()[0]
        counts = [f"{row[s]} {s}" for s in (UNPARSABLE, NO_REPLY, NO_ANSWER) if row[s]]
        counts += [f"{len(self.missing)} without a prediction"] * bool(self.missing)
        failed = f" ({', '.join(counts)})" if counts else ""
        return (
            f"Judged({row['samples']} samples{failed}: accuracy {row['accuracy']:.3f} "
            f"[{row['low']:.3f}, {row['high']:.3f}], score {row['score']:.2f})"
        )

    def summary(self) -> list[dict[str, Any]]:
        """Rows of a table: all samples, then each kind.

        Returns
        -------
        list of dict
            ``accuracy``, the share that is right, with ``low`` and ``high``, the ends of its 95%
            interval (`mean_interval` over videos), and ``score``, the mean: of the samples that
            were judged, among which an answer that is not there counts as wrong and 0. NaN when
            there are none, and on an axis, which has no right and wrong. The rest are counts: of
            samples, and of those that were judged, or why they were not.
        """
        kinds = sorted({sample.kind for sample in self.samples})
        rows = [self._row("all", range(len(self.samples)))]
        for kind in kinds if len(kinds) > 1 else ():
            rows.append(self._row(kind, [i for i, s in enumerate(self.samples) if s.kind == kind]))
        return rows

    def _row(self, kind: str, chosen: Sequence[int]) -> dict[str, Any]:
        verdicts = [self.verdicts[i] for i in chosen]
        scores = [v.score for v in verdicts if v.score is not None]
        told = [i for i in chosen if self.verdicts[i].right is not None]
        right = [float(bool(self.verdicts[i].right)) for i in told]
        videos = [self.samples[i].video.name for i in told]
        low, high = mean_interval(right, videos) if told else (np.nan, np.nan)
        row: dict[str, Any] = {
            "kind": kind,
            "samples": len(verdicts),
            "accuracy": float(np.mean(right)) if told else np.nan,
            "low": low,
            "high": high,
            "score": float(np.mean(scores)) if scores else np.nan,
        }
        for status in (JUDGED, UNPARSABLE, NO_REPLY, NO_ANSWER):
            row[status] = sum(each.status == status for each in verdicts)
        return row


def answer(
    samples: Sequence[QASample],
    ask: Ask,
    out: str | os.PathLike[str],
    setup: Mapping[str, Any],
    workers: int = 1,
) -> list[Prediction]:
    """Ask a model every question whose video is there.

    Parameters
    ----------
    samples : sequence of QASample
    ask : callable
        From a sample's video and one of its questions to an answer, which is kept letter for
        letter. A ValueError (a video that cannot be read) is a result too: the sample has no answer
        then, and counts as wrong. Any other exception ends the run; what is done stays done.
    out, setup, workers
        As for `resume.one_by_one`.

    Returns
    -------
    list of Prediction
        Of the samples whose video is there; a warning counts and names the others.
    """

    def one(sample: QASample) -> Prediction:
        try:
            return Prediction(sample.id, [ask(sample.video, text) for text in sample.questions])
        except ValueError as error:
            return Prediction(sample.id, [], str(error) or type(error).__name__)

    chosen, _ = present(samples)
    setup = {**setup, "samples": _digest([s.id, s.video.name, s.questions] for s in samples)}
    return one_by_one(chosen, one, out, setup, Prediction, "answered", workers)


def judge(
    samples: Sequence[QASample],
    predictions: Sequence[Prediction],
    judge: Judge,
    out: str | os.PathLike[str],
    setup: Mapping[str, Any],
    workers: int = 1,
) -> Judged:
    """Have every prediction judged.

    When `PATIENCE` samples in a row get no reply, the server is taken for dead, and the others are
    not asked for. All of them are counted, a warning says so, and the same call asks for their
    verdicts again, and for no others.

    Parameters
    ----------
    samples, predictions : sequences
        A prediction belongs to the sample of its id. Samples without one are in ``missing``.
    judge : Judge
        Of `judges`.
    out, setup, workers
        As for `resume.one_by_one`; `LLMJudge.setup` is what a language model's verdicts need.

    Raises
    ------
    ValueError
        When no sample has a prediction, or a prediction is of none of the samples.
    """
    said = {each.id: each for each in predictions}
    if not said or (strange := said.keys() - {sample.id for sample in samples}):
        raise ValueError(f"predictions of other samples: {sorted(strange)[:3]}" if said else "none")
    chosen = [sample for sample in samples if sample.id in said]
    silent = 0

    def one(sample: QASample) -> Verdict:
        nonlocal silent
        prediction = said[sample.id]
        if prediction.error:
            return Verdict(sample.id, False, 0.0, NO_ANSWER, errors=[prediction.error])
        if silent >= PATIENCE:
            dead = f"not asked for: the {PATIENCE} before had no reply"
            return Verdict(sample.id, None, None, NO_REPLY, errors=[dead])
        verdict = judge(sample, prediction.texts)
        silent = silent + 1 if verdict.status == NO_REPLY else 0
        return verdict

    about = ([s.id, s.questions, s.answer, said[s.id].texts] for s in chosen)
    verdicts = one_by_one(
        chosen,
        one,
        out,
        {**setup, "predictions": _digest(about)},
        Verdict,
        "judged",
        workers,
        again=lambda verdict: verdict.status == NO_REPLY,
    )
    if lost := [each for each in verdicts if each.status == NO_REPLY]:
        warnings.warn(
            f"no reply to {len(lost)} of {len(verdicts)} samples ({lost[0].errors[-1]}); the same "
            "call asks for these again",
            stacklevel=2,
        )
    return Judged(chosen, verdicts, [sample for sample in samples if sample.id not in said])


def _digest(items: Any) -> str:
    return hashlib.sha256(json.dumps(list(items)).encode()).hexdigest()[:16]
