"""Read two sets of instructional videos: the boxes of YouCook2, and the steps of CrossTask.

Nobody tuned the paper's grounding on cooking and repairs: hands in the way, close-ups, things that
change their shape. YouCook2-BoundingBox says where a thing is in each second, so that what comes
out is a `Sample` as from `grounding_sets`. CrossTask says when a step happens and not where, so
that what comes out is a `Step`, for `boxes.tiou`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .records import PathLike, load_json, naming, video_finder
from .samples import AnnotationError, Sample

BLOCK = 6  # lines of a task: number, title, page, count of steps, steps, and an empty one


class Film(Protocol):
    """What has to be known of a video file: `pgvl_core.video.Video` knows it."""

    timestamps: np.ndarray
    fps: float
    height: int
    width: int


@dataclass(frozen=True)
class Step:
    """A stretch of a video in which somebody does one step of a task.

    Attributes
    ----------
    id : str, the task, the video, and the line's number from 0 in its file: "113766/0Q-AJg/3"
    video : Path, which need not exist
    task : str, its title, such as "Make Jello Shots"
    text : str, the step, such as "pour water"
    number : int, the step's place in the task's list, from 0
    span : (start, end), seconds, half-open
    """

    id: str
    video: Path
    task: str
    text: str
    number: int
    span: tuple[float, float]


# --------------------------------------------------------------------------------------- YouCook2
def youcook2(
    path: PathLike,
    videos: PathLike,
    look: Callable[[Path], Film],
    times: PathLike | None = None,
) -> list[Sample]:
    """Samples of YouCook2-BoundingBox: one for each thing that is annotated in a segment.

    The file is ``{"database": {VIDEO: {"rwidth", "rheight", "recipe_type", "segments": {NUMBER:
    {"segment": [start, end], "objects": [{"label", "boxes": [{"xtl", "ytl", "xbr", "ybr",
    "outside", "occluded"}, ...]}, ...]}}}}}``: seconds, and corners in a frame of `rwidth` (720) by
    `rheight` pixels. (Its `yc2_bb_skeleton.txt`, and `data/yc2_test_dataset.py`, both of
    MichiganCOG/Video-Grounding-from-Text.)

    A thing has a box for each second of its segment, here taken as that of the first frame at or
    after that second. What is outside the frame or occluded is not scored, as officially. The
    file has words and no sentences, so that the question is ours: "where is the garlic?".

    Parameters
    ----------
    path : path
        ``yc2_bb_val_annotations.json``. (That of the test split has no boxes.)
    videos : path
        A folder with the videos in it, anywhere in it and in any container, named by their ids.
        One need not be there: its samples count seconds as frames and are not scored
        (`runner.run` lists it).
    look : callable
        ``pgvl_core.video.Video``: boxes are brought to a video's own size, seconds to its frames.
    times : path, optional
        ``youcookii_annotations_trainval.json``, YouCook2's own annotations. Needed by the first
        release of the boxes, whose segments have no times.

    Raises
    ------
    AnnotationError
        When a file or a record is malformed, or segments have no times and `times` is not given.
    """
    path, video = Path(path), video_finder(videos)
    spoken = _times(Path(times)) if times else {}
    content, samples = load_json(path), []
    with naming(path, "the file"):
        database = dict(content["database"])
    for vid, about in database.items():
        with naming(path, vid):
            file = video(vid)
            film = look(file) if file.is_file() else None
            for number, segment in about["segments"].items():
                label = f"{vid}, segment {number}"
                with naming(path, label):
                    span = segment.get("segment") or spoken.get((vid, int(number)))
                    if span is None:
                        raise AnnotationError(
                            f"{path}: {label} has no times; give YouCook2's own file, "
                            "youcookii_annotations_trainval.json, as times="
                        )
                    found = _segment(about, segment["objects"], span, film)
                    samples += [
                        Sample(id=f"{vid}/{number}/{place}", video=file, **each)
                        for place, each in found
                    ]
    if not samples:
        raise AnnotationError(f"{path}: no box in it; the test split's are not published")
    return samples


def _times(path: Path) -> dict[tuple[str, int], list[float]]:
    """Start and end of each video's segments, by number."""
    content = load_json(path)
    with naming(path, "the file"):
        return {
            (vid, each["id"]): each["segment"]
            for vid, about in content["database"].items()
            for each in about["annotations"]
        }


def _segment(
    about: Mapping[str, Any],
    objects: Sequence[Mapping[str, Any]],
    span: Sequence[float],
    film: Film | None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The places in the list of the things with boxes in a segment, and a sample's fields."""
    start, end = map(float, span)
    if not 0 <= start < end:
        raise ValueError(f"it lasts from {start} to {end} s")
    small = about["rwidth"], about["rheight"]
    size = (film.width, film.height) if film else small
    # Without the video, a frame is a second: there is nothing to score it on.
    clock = film.timestamps if film else np.arange(int(end) + 1.0)
    begin, stop = np.searchsorted(clock, (start, end))
    for place, each in enumerate(objects):
        seen = [j for j, b in enumerate(each["boxes"]) if not (b["outside"] or b["occluded"])]
        frames = np.searchsorted(clock, start + np.array(seen, dtype=float))
        boxes = np.array(
            [[each["boxes"][j][key] for key in ("xtl", "ytl", "xbr", "ybr")] for j in seen], float
        )
        boxes, frames = boxes[frames < len(clock)], frames[frames < len(clock)]
        if not len(frames):
            continue
        if not np.isfinite(boxes).all() or (boxes[:, 2:] < boxes[:, :2]).any():
            raise ValueError(f"{each['label']!r} has a box that ends before it begins")
        yield (
            place,
            {
                "text": f"where is the {each['label']}?",
                "kind": "interrogative",
                "moment": (int(begin), max(int(stop), int(frames[-1]) + 1)),
                "frames": frames.astype(np.int64),
                "boxes": boxes * (np.array(size * 2) / np.array(small * 2)),
                "fps": film.fps if film else 1.0,
                "size": size,
                "category": each["label"],
                "objects": len(objects),
            },
        )


# -------------------------------------------------------------------------------------- CrossTask
def crosstask(tasks: PathLike, annotations: PathLike, videos: PathLike) -> list[Step]:
    """Steps of CrossTask: those of every video that has a file of annotations.

    A file of tasks has blocks of six lines: the task's number, its title, its page, how many steps
    it has, the steps between commas, and an empty line. ``TASK_VIDEO.csv`` has a line ``step,start,
    end`` for each stretch, steps from 1 and seconds. (`data.py` of DmZhukov/CrossTask.)

    Parameters
    ----------
    tasks : path
        ``tasks_primary.txt``; the related tasks have no annotations.
    annotations : path
        The folder ``annotations``.
    videos : path
        As for `youcook2`; named by the videos' ids.

    Raises
    ------
    AnnotationError
        When a file is malformed, or has a step that its task has not; or the folder has none.
    """
    known, video, found = _tasks(Path(tasks)), video_finder(videos), []
    for path in sorted(Path(annotations).glob("*.csv")):
        task, _, vid = path.stem.partition("_")  # a video's id may have a "_" of its own
        with naming(path, f"the file's name (task {task})"):
            title, steps = known[task]
        with path.open(encoding="utf-8", newline="") as stream:
            for line, row in enumerate(csv.reader(stream)):
                with naming(path, f"line {line + 1}"):
                    number, start, end = int(row[0]), float(row[1]), float(row[2])
                    if len(row) != 3 or not (0 <= start < end and 1 <= number <= len(steps)):
                        raise ValueError(
                            f"{','.join(row)} is no step from 1 to {len(steps)}, start and end"
                        )
                    label = f"{task}/{vid}/{line}"
                    text = steps[number - 1]
                    found.append(Step(label, video(vid), title, text, number - 1, (start, end)))
    if not found:
        raise AnnotationError(f"{annotations}: no TASK_VIDEO.csv with steps; is it the folder?")
    return found


def _tasks(path: Path) -> dict[str, tuple[str, list[str]]]:
    """Title and steps of each task, by its number."""
    try:
        lines = path.read_text(encoding="utf-8").strip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path}: not a readable file of tasks ({error})") from error
    tasks = {}
    for at in range(0, len(lines), BLOCK):
        with naming(path, f"the block at line {at + 1}"):
            number, title, _, count, steps = (line.strip() for line in lines[at : at + BLOCK - 1])
            names = steps.split(",")
            if len(names) != int(count):
                raise ValueError(f"{len(names)} steps, where it says {count}")
            tasks[number] = title, names
    return tasks
