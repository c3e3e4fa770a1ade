"""Read the sets that grounding is measured on: VidSTG and HC-STVG, each in its official forms.

The files say the same thing in many ways. Some boxes are corners and some are a corner with width
and height, some frames count from 0 and some from 1, and there are two files of the same name and
form that differ in nothing but the meaning of two numbers. All of this ends here: what comes out is
a `Sample`, with xyxy boxes, exclusive ends and frames that count from 0.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .records import PathLike, finder, load_json, naming
from .samples import RATE, AnnotationError, Sample, make_sample, with_corners

HCSTVG_SECONDS = 20  # how long the clips of HC-STVG are


# ---------------------------------------------------------------------------------------- readers
def vidstg(
    path: PathLike,
    videos: PathLike,
    vidor: PathLike | None = None,
    layout: str | None = None,
    rate: float = RATE,
) -> list[Sample]:
    """Samples of a VidSTG file, raw or processed.

    Parameters
    ----------
    path : path
        ``test_annotations.json`` as published (a list; the boxes are VidOR's), or ``test.json`` as
        TubeDETR's or PG-Video-LLaVA's `preproc_vidstg.py` writes it (a dictionary).
    videos : path
        A folder with the videos in it, at the paths of the annotations or at any others: then
        they are found by their names. A video need not be there (`runner.run` lists those).
    vidor : path, optional
        A folder with VidOR's annotations in it, found likewise. The raw form needs them; to the
        processed one, which has neither, they add categories and the number of objects.
    layout : "xyxy" or "xywh", optional
        What a processed box is: TubeDETR writes xywh and PG-Video-LLaVA xyxy to a file of the same
        name. Needed only when the boxes themselves do not tell.
    rate : float
        Frames a second to score (`schedule`).

    Raises
    ------
    AnnotationError
        When the file or a record is malformed, or the boxes do not tell their layout.
    """
    content, path, find = load_json(path), Path(path), finder(videos)
    find_annotation = finder(vidor or videos)

    @functools.lru_cache(maxsize=4)  # the records of a video follow each other
    def annotation(vid: str) -> _VidOR:
        return _VidOR(find_annotation(f"{vid}.json"))

    if isinstance(content, dict):
        items = _vidstg_items(content, path)
    elif not isinstance(content, list):
        raise AnnotationError(f"{path}: neither a list (raw VidSTG) nor a dictionary (processed)")
    elif not vidor:
        raise AnnotationError(f"{path}: raw VidSTG has no boxes; give VidOR's folder as vidor=")
    elif layout == "xywh":
        raise AnnotationError(f"{path}: the boxes of raw VidSTG are VidOR's, which are corners")
    else:
        items, layout = _processed(content, path, annotation), "xyxy"
    found = []
    for label, item, track in items:
        with naming(path, label):
            about = annotation(item["original_video_id"]).objects if vidor else {}
            sample = make_sample(
                id=str(item["video_id"]),
                video=find(item["video_path"]),
                text=item["caption"],
                kind=item["qtype"],
                moment=(item["tube_start_frame"], item["tube_end_frame"]),
                track=track,
                rate=rate,
                fps=item["fps"],
                size=(item["width"], item["height"]),
                category=about[item["target_id"]] if about else "",
                objects=len(about) or None,
            )
        found.append((label, sample))
    return with_corners(found, layout, path)


def hcstvg(
    path: PathLike,
    videos: PathLike,
    questions: PathLike | None = None,
    layout: str | None = None,
    rate: float = RATE,
) -> list[Sample]:
    """Samples of an HC-STVG file: version 1 or 2 as published (a dictionary), or as processed.

    The frame rate is in none of them. The set's clips last 20 s, so that it is ``img_num / 20``;
    where the moment's own boxes and times say something else by more than a tenth, the clip is of
    another length and they are believed. Every form counts a moment's first frame from 1.

    Parameters
    ----------
    path, videos, layout, rate
        As for `vidstg`. Boxes are xywh as published.
    questions : path, optional
        The folder ``qa`` that the paper's code makes of captions with Vicuna: ``{i}.json`` holds
        the question ``Q`` of record ``i``, from 0. Records without one are left out, as there.

    Raises
    ------
    AnnotationError
        When the file or a record is malformed, or the boxes do not tell their layout.
    """
    content, path, find = load_json(path), Path(path), finder(videos)
    if not isinstance(content, dict | list):
        raise AnnotationError(f"{path}: neither a dictionary (HC-STVG) nor a list (processed)")
    raw = isinstance(content, dict)
    found = []
    for number, each in enumerate(content):
        label, question = each if raw else f"record {number}", None
        if questions is not None:
            file = Path(questions) / f"{number}.json"
            if not file.exists():
                continue
            with naming(file, "the file"):
                question = load_json(file)["Q"]
        with naming(path, label):
            item = _hcstvg_item(each, content[each]) if raw else each
            boxes, begin = item["trajectory"], item["tube_start_frame"] - 1
            if item["tube_end_frame"] - 1 != begin + len(boxes):
                raise ValueError(f"{len(boxes)} boxes do not fill its tube")
            usual = item["frame_count"] / HCSTVG_SECONDS
            seconds = item["tube_end_time"] - item["tube_start_time"]
            told = len(boxes) / seconds if seconds > 0 else 0.0
            sample = make_sample(
                id=str(number),
                video=find(item["video_path"]),
                text=item["caption"] if question is None else question,
                kind="declarative" if question is None else "interrogative",
                moment=(begin, begin + len(boxes)),
                track=dict(enumerate(boxes, start=begin)),
                rate=rate,
                fps=usual if abs(told - usual) <= 0.1 * usual else told,
                size=(item["width"], item["height"]),
            )
        found.append((label, sample))
    return with_corners(found, layout, path)


# ---------------------------------------------------------------------------------------- records
class _VidOR:
    """What VidOR's annotation says of a video: its path, its objects, and a track of each."""

    def __init__(self, path: Path) -> None:
        content = load_json(path)
        with naming(path, "the file"):
            self.path = content["video_path"]
            self.objects = {each["tid"]: each["category"] for each in content["subject/objects"]}
            self.tracks: dict[int, dict[int, list[float]]] = {}
            for frame, entries in enumerate(content["trajectories"]):
                for each in entries:
                    box = [each["bbox"][key] for key in ("xmin", "ymin", "xmax", "ymax")]
                    self.tracks.setdefault(each["tid"], {})[frame] = box


# What a sentence is about, under the keys of a processed file, and its target's boxes by frame.
_Item = tuple[str, dict[str, Any], Mapping[int, Sequence[float]]]


def _vidstg_items(content: Mapping[str, Any], path: Path) -> Iterator[_Item]:
    with naming(path, "the file"):
        videos, trajectories = content["videos"], content["trajectories"]
    for number, item in enumerate(videos):
        with naming(path, f"videos[{number}]"):
            track = trajectories[item["original_video_id"]][str(item["target_id"])]
            boxes = {int(frame): entry["bbox"] for frame, entry in track.items()}
        yield f"videos[{number}]", item, boxes


def _processed(
    content: Sequence[Any], path: Path, annotation: Callable[[str], _VidOR]
) -> Iterator[_Item]:
    """Raw VidSTG's sentences in the order, and with the numbers, of `preproc_vidstg.py`."""
    count = itertools.count()
    for number, record in enumerate(content):
        with naming(path, f"record {number}"):
            about, moment = annotation(record["vid"]), record["temporal_gt"]
            items = [
                {
                    "original_video_id": record["vid"],
                    "video_id": next(count),
                    "video_path": about.path,
                    "caption": each["description"],
                    "qtype": kind,
                    "tube_start_frame": moment["begin_fid"],
                    "tube_end_frame": moment["end_fid"],
                    "target_id": each["target_id"],
                    **{key: record[key] for key in ("fps", "width", "height")},
                }
                for kind, key in (("interrogative", "questions"), ("declarative", "captions"))
                for each in record[key]
            ]
            tracks = [about.tracks[item["target_id"]] for item in items]
        for item, track in zip(items, tracks, strict=True):
            yield f"record {number}", item, track


def _hcstvg_item(name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of HC-STVG under the keys of a processed file."""
    size = record.get("img_size") or (record["height"], record["width"])
    return {
        "video_path": name,
        "caption": record["English" if "English" in record else "caption"],
        "trajectory": record["bbox"],
        "frame_count": record["img_num"],
        "width": size[1],
        "height": size[0],
        "tube_start_frame": record["st_frame"],
        "tube_end_frame": record["st_frame"] + len(record["bbox"]),
        "tube_start_time": record["st_time"],
        "tube_end_time": record["ed_time"],
    }
