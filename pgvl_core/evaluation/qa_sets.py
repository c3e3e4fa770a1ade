"""Read the sets that video question answering is measured on, each in its official form.

MSVD-QA, MSRVTT-QA, TGIF-QA (frame QA) and ActivityNet-QA ask short questions with short answers;
the benchmark of Video-ChatGPT (generic, temporal, consistency) asks long ones. Their files call the
same things by five names. All of this ends here: what comes out is a `QASample`, which still holds
its record, so that predictions are written under the names that the official code reads.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import write_text
from .records import PathLike, load_json, naming, video_finder
from .samples import AnnotationError

WORDS = ("what", "who", "how", "when", "where")  # the question types of MSVD-QA and MSRVTT-QA
TGIF_TYPES = ("object", "number", "colour", "location")
ACTIVITYNET_TYPES = (
    "motion",
    "spatial relation",
    "temporal relation",
    "yes/no",
    "colour",
    "object",
    "location",
    "number",
    "other",
)
BENCHMARKS = {"generic": ("Q",), "temporal": ("Q",), "consistency": ("Q1", "Q2")}


@dataclass(frozen=True)
class QASample:
    """A question about a video and its answer, or two ways to ask for the same answer.

    Attributes
    ----------
    id : str, as the file has it, or the record's number from 0 where it has none
    video : Path, which need not exist
    questions : tuple of str, one; two in the consistency benchmark
    answer : str, the correct one
    kind : str, what the file, or the question's first word, says that it is about
    record : what predictions are added to: the record as the official inference writes it
    """

    id: str
    video: Path
    questions: tuple[str, ...]
    answer: str
    kind: str
    record: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Prediction:
    """What a model answered to each question of a sample, letter for letter; or why it did not."""

    id: str
    texts: list[str]
    error: str = ""


# ---------------------------------------------------------------------------------------- readers
def msvd_qa(path: PathLike, videos: PathLike, mapping: PathLike) -> list[QASample]:
    """Samples of MSVD-QA: a list of ``id, video_id, question, answer``.

    Parameters
    ----------
    path : path
        ``val_qa.json`` (which the authors of Video-ChatGPT measured on) or ``test_qa.json``.
    videos : path
        A folder with the videos in it, anywhere in it and in any container. A video need not be
        there (`resume.present` lists those).
    mapping : path
        ``youtube_mapping.txt``, whose lines are ``NAME vid1301``: the video of `video_id` 1301.

    Raises
    ------
    AnnotationError
        When a file or a record is malformed.
    """
    names, video = _mapping(Path(mapping)), video_finder(videos)

    def sample(number: int, each: dict[str, Any]) -> QASample:
        return _short(each, each["id"], video(names[each["video_id"]], ".avi"))

    return _read(Path(path), load_json(path), sample)


def msrvtt_qa(path: PathLike, videos: PathLike) -> list[QASample]:
    """Samples of MSRVTT-QA: a list of ``id, video_id, category_id, question, answer``.

    As `msvd_qa`; the video of `video_id` 7010 is ``video7010``.
    """
    video = video_finder(videos)

    def sample(number: int, each: dict[str, Any]) -> QASample:
        return _short(each, each["id"], video(f"video{each['video_id']}"))

    return _read(Path(path), load_json(path), sample)


def tgif_qa(path: PathLike, videos: PathLike) -> list[QASample]:
    """Samples of TGIF-QA's frame questions, ``Test_frameqa_question.csv``, split by tabs.

    Its columns are ``gif_name, question, answer, type, vid_id, key, description``; the sample's id
    is `vid_id`, which numbers the questions. Otherwise as `msvd_qa`.
    """
    path, video = Path(path), video_finder(videos)
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t", restkey="more"))
    except (OSError, ValueError, csv.Error) as error:
        raise AnnotationError(f"{path}: not a readable table ({error})") from error

    def sample(number: int, each: dict[str, Any]) -> QASample:
        if None in each.values() or "more" in each:
            raise ValueError("it has not as many fields as the table has columns")
        record = {**each, "type": int(each["type"]), "key": int(each["key"])}
        kind = _named(TGIF_TYPES, record["type"])
        return _short(record, each["vid_id"], video(each["gif_name"], ".gif"), kind)

    return _read(path, rows, sample)


def activitynet_qa(questions: PathLike, answers: PathLike, videos: PathLike) -> list[QASample]:
    """Samples of ActivityNet-QA: ``test_q.json`` and ``test_a.json``, joined by `question_id`.

    The official inference joins them by their places in the two files, whatever the ids say. The
    video of `video_name` X is ``v_X``. Otherwise as `msvd_qa`.
    """
    video, truth = video_finder(videos), {}
    for number, each in enumerate(_list(Path(answers), load_json(answers))):
        with naming(Path(answers), f"record {number}"):
            truth[each["question_id"]] = each["answer"], _named(ACTIVITYNET_TYPES, each["type"])

    def sample(number: int, each: dict[str, Any]) -> QASample:
        answer, kind = truth[each["question_id"]]
        record = {"id": each["question_id"], "question": each["question"], "answer": answer}
        return _short(record, record["id"], video(f"v_{each['video_name']}"), kind)

    return _read(Path(questions), load_json(questions), sample)


def video_chatgpt(path: PathLike, videos: PathLike, kind: str) -> list[QASample]:
    """Samples of the Video-ChatGPT benchmark: ``video_name, Q, A``, or ``video_name, Q1, Q2, A``.

    Parameters
    ----------
    path, videos : paths
        As for `msvd_qa`.
    kind : "generic", "temporal" or "consistency"
        Which of the three files it is; the first two look alike.
    """
    if kind not in BENCHMARKS:
        raise ValueError(f"the benchmark's files are {', '.join(BENCHMARKS)}; there is no {kind!r}")
    video = video_finder(videos)

    def sample(number: int, each: dict[str, Any]) -> QASample:
        asked = tuple(each[key] for key in BENCHMARKS[kind])
        return QASample(str(number), video(each["video_name"]), asked, each["A"], kind, each)

    return _read(Path(path), load_json(path), sample)


def video_instruct(path: PathLike, videos: PathLike) -> list[QASample]:
    """Samples of VideoInstruct-100K's form, ``q, a, video_id``, in which toyworld writes too."""
    video = video_finder(videos)

    def sample(number: int, each: dict[str, Any]) -> QASample:
        where = video(each["video_id"])
        return QASample(str(number), where, (each["q"],), each["a"], _first_word(each["q"]), each)

    return _read(Path(path), load_json(path), sample)


def from_clip(clip: Any, videos: PathLike) -> list[QASample]:
    """Samples of a `toyworld.Clip`, whose kinds are its own; its video is ``NAME.mp4``."""
    where, made = Path(videos, f"{clip.name}.mp4"), []
    for i, each in enumerate(clip.qa):
        record = {"id": f"{clip.name}-{i}", "question": each.question, "answer": each.answer}
        made.append(_short(record, record["id"], where, each.kind))
    return made


# ------------------------------------------------------------------------------------ predictions
def write_predictions(
    path: PathLike, samples: Sequence[QASample], predictions: Iterable[Prediction]
) -> list[str]:
    """Write predictions as the official inference does: records with `pred`, or `pred1`, `pred2`.

    That form has no place for a sample without an answer.

    Returns
    -------
    list of str
        The ids of the samples that are therefore not in the file.
    """
    said = {each.id: each.texts for each in predictions if not each.error}
    content = [
        {**sample.record, **dict(zip(_keys(sample), said[sample.id], strict=True))}
        for sample in samples
        if sample.id in said
    ]
    write_text(Path(path), json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return [sample.id for sample in samples if sample.id not in said]


def read_predictions(path: PathLike, samples: Sequence[QASample]) -> list[Prediction]:
    """Predictions in that form, the official code's own too; each belongs to its record's sample.

    Raises
    ------
    AnnotationError
        When a record is of none of the samples, has no prediction, or comes more often than among
        the samples.
    """
    path, waiting = Path(path), dict[str, list[QASample]]()
    for sample in samples:
        waiting.setdefault(_same(sample.record), []).append(sample)
    found = []
    for number, each in enumerate(_list(path, load_json(path))):
        with naming(path, f"record {number}"):
            about = {key: value for key, value in each.items() if key not in _ALL_KEYS}
            if not (alike := waiting.get(_same(about))):
                raise ValueError("it is of none of the samples, or there once too often")
            sample = alike.pop(0)
            texts = [each[key] for key in _keys(sample)]
            if not all(isinstance(text, str) for text in texts):
                raise ValueError(f"its predictions are {texts}")
        found.append(Prediction(sample.id, texts))
    return found


_ALL_KEYS = ("pred", "pred1", "pred2")


def _keys(sample: QASample) -> tuple[str, ...]:
    return _ALL_KEYS[:1] if len(sample.questions) == 1 else _ALL_KEYS[1:]


def _same(record: Mapping[str, Any]) -> str:
    return json.dumps(record, sort_keys=True)


# ---------------------------------------------------------------------------------------- records
def _read(
    path: Path, records: Any, make: Callable[[int, dict[str, Any]], QASample]
) -> list[QASample]:
    """The samples of a file's records, checked."""
    found: dict[str, QASample] = {}
    for number, each in enumerate(_list(path, records)):
        with naming(path, f"record {number}"):
            sample = make(number, each)
            for text in (*sample.questions, sample.answer):
                if not (isinstance(text, str) and text.strip()):
                    raise ValueError(f"a question or an answer of it is {text!r}")
            if sample.id in found:
                raise ValueError(f"its id, {sample.id}, is another one's too")
        found[sample.id] = sample
    return list(found.values())


def _list(path: Path, records: Any) -> Iterator[dict[str, Any]]:
    if not (isinstance(records, list) and records):
        raise AnnotationError(f"{path}: not a list of records, or one without any")
    for number, each in enumerate(records):
        if not isinstance(each, dict):
            raise AnnotationError(f"{path}: record {number} is no record but {each!r:.40}")
        yield each


def _short(record: dict[str, Any], id: object, video: Path, kind: str | None = None) -> QASample:
    """A sample of a record that says `question` and `answer`."""
    question = record["question"]
    kind = kind or _first_word(question)
    return QASample(str(id), video, (question,), record["answer"], kind, record)


def _first_word(question: str) -> str:
    first = question.split()[:1]
    return first[0].lower() if first and first[0].lower() in WORDS else "other"


def _named(names: Sequence[str], number: Any) -> str:
    if type(number) is not int or not 0 <= number < len(names):
        raise ValueError(f"its type is {number!r}, not one of 0 to {len(names) - 1}")
    return names[number]


def _mapping(path: Path) -> dict[int, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise AnnotationError(f"{path}: not a readable text file ({error})") from error
    names = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            with naming(path, f"line {number}"):
                name, vid = line.split()
                names[int(vid.removeprefix("vid"))] = name
    return names
