"""Work through samples that take hours, in a way that may be stopped and taken up again.

Each result is a line of a file, written when it is known; a run that is killed goes on where it
was. The first line says what is measured on what, and results of one setup are never mixed with
those of another.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tqdm.auto import tqdm

from ..files import write_text


class Named(Protocol):
    """A sample or a result: they belong together by their id."""

    @property
    def id(self) -> str: ...


class Filmed(Named, Protocol):
    """A sample that is about a video file."""

    @property
    def video(self) -> Path: ...


S = TypeVar("S", bound=Named)
V = TypeVar("V", bound=Filmed)
R = TypeVar("R", bound=Named)


def present(samples: Sequence[V]) -> tuple[list[V], list[Path]]:
    """The samples whose video is there, and the videos that are not, which a warning counts.

    Raises
    ------
    ValueError
        When no video is there.
    """
    missing = sorted({s.video for s in samples if not s.video.is_file()})
    chosen = [sample for sample in samples if sample.video not in set(missing)]
    if not chosen:
        raise ValueError(f"none of {len(missing)} videos is there, {missing[:1]} for one")
    if missing:
        names = ", ".join(path.name for path in missing[:3])
        warnings.warn(
            f"missing videos: {len(missing)} ({names}{', ...' * (len(missing) > 3)}), and with "
            f"them {len(samples) - len(chosen)} of {len(samples)} samples, which are not scored",
            stacklevel=3,
        )
    return chosen, missing


def one_by_one(
    samples: Sequence[S],
    work: Callable[[S], R],
    out: str | os.PathLike[str],
    setup: Mapping[str, Any],
    kind: type[R],
    doing: str,
    workers: int = 1,
    again: Callable[[R], bool] = lambda result: False,
) -> list[R]:
    """The result of every sample, in order; what the file holds is not worked out again.

    Parameters
    ----------
    samples : sequence with ids, no two the same
    work : callable
        From a sample to its result. An exception ends the run, and what is done stays done.
    out : path
        The file. If it is there, it is taken up; a last line that was cut short is dropped.
    setup : mapping
        What tells this run from others, for JSON.
    kind : type
        The dataclass of a result, whose fields are what JSON has; `id` is the sample's.
    doing : str
        A word for the progress bar.
    workers : int
        Threads; more than one for a `work` that is safe to call from several at a time.
    again : callable
        Which of the file's results are to be had once more; of two lines the later one counts.

    Raises
    ------
    ValueError
        When ids are not unique, or the file holds something else or results of another setup.
    """
    if len({sample.id for sample in samples}) < len(samples):
        raise ValueError("two samples have the same id; measure one file of annotations at a time")
    out = Path(out)
    done = _resume(out, json.loads(json.dumps(dict(setup))), kind)
    todo = [sample for sample in samples if sample.id not in done or again(done[sample.id])]
    with out.open("ab") as lines, ThreadPoolExecutor(workers) as pool:
        jobs = [pool.submit(work, sample) for sample in todo]
        try:
            before = len(samples) - len(todo)
            for job in tqdm(as_completed(jobs), doing, len(samples), initial=before):
                result = job.result()
                lines.write(json.dumps(asdict(result)).encode() + b"\n")  # type: ignore[call-overload]
                lines.flush()
                done[result.id] = result
        finally:
            pool.shutdown(cancel_futures=True)
    return [done[sample.id] for sample in samples]


def _resume(out: Path, setup: dict[str, Any], kind: type[R]) -> dict[str, R]:
    """Results that a file already holds; a file that is not there is begun."""
    if not out.exists():
        write_text(out, json.dumps({"setup": setup}) + "\n")
        return {}
    content = out.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    head, *lines = whole.splitlines() or [b""]
    try:
        there = json.loads(head)["setup"]
        results = [kind(**json.loads(line)) for line in lines]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{out}: not a file of results ({error}); name another file") from error
    changed = [key for key in {**there, **setup} if there.get(key) != setup.get(key)]
    if changed:
        told = "; ".join(f"{k} was {there.get(k)!r}, is {setup.get(k)!r}" for k in changed)
        raise ValueError(
            f"{out} holds results of another setup ({told}): name another file, or delete this one"
        )
    os.truncate(out, len(whole))  # the line that a killed run did not finish
    return {result.id: result for result in results}
