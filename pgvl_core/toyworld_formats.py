"""Toyworld clips in the formats of the datasets the paper evaluates and trains on.

Field names are the datasets' own; what they leave open, or disagree on, is settled here as follows.
Frames count from 0 and ends are exclusive, but for HC-STVG's `st_frame`, which counts from 1. Boxes
are those of what is seen, in whole pixels with exclusive right and bottom edges: corners in VidOR,
[x, y, width, height] in VidSTG as processed for TubeDETR (the authors of PG-Video-LLaVA write
corners to a file of the same name) and in HC-STVG. A moment is the target's longest run of frames
in which it is seen, so each frame of it has a box.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from pgvl_core.files import write_text
from pgvl_core.toyworld import Clip, Track
from pgvl_core.toyworld_text import facts
from pgvl_core.video import write_video


def _seen(track: Track) -> dict[int, list[int]]:
    """Box xyxy of each frame in which an object is seen."""
    return {
        t: [int(v) for v in box] for t, box in enumerate(track.boxes) if track.visibility[t] > 0
    }


def _xywh(box: list[int]) -> list[int]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def _video(clip: Clip) -> dict[str, Any]:
    count, height, width = clip.frames.shape[:3]
    return {"fps": clip.fps, "frame_count": count, "width": width, "height": height}


def _objects(clip: Clip) -> list[dict[str, Any]]:
    return [{"tid": track.id, "category": track.category} for track in clip.tracks]


def _relation(clip: Clip, subject: int, predicate: str, object_: int) -> dict[str, Any]:
    """A relation over the frames in which both are seen; begin >= end when there are none."""
    spans = [clip.tracks[i].span for i in (subject, object_)]
    return {
        "subject_tid": subject,
        "object_tid": object_,
        "predicate": predicate,
        "begin_fid": max(begin for begin, _ in spans),
        "end_fid": min(end for _, end in spans),
    }


def vidor(clip: Clip) -> dict[str, Any]:
    """A clip's VidOR annotation: the trajectories and relations that VidSTG (raw) builds on."""
    seen = [_seen(track) for track in clip.tracks]
    corners = ("xmin", "ymin", "xmax", "ymax")
    related = [key for key, true in facts(clip.tracks).items() if true and len(key) == 3]
    relations = [_relation(clip, *key) for key in related]
    return {
        "version": "VERSION 1.0",
        "video_id": clip.name,
        "video_path": f"{clip.name}.mp4",
        **_video(clip),
        "subject/objects": _objects(clip),
        "trajectories": [
            [
                {
                    "tid": tid,
                    "bbox": dict(zip(corners, boxes[t], strict=True)),
                    "generated": 0,
                    "tracker": "none",
                }
                for tid, boxes in enumerate(seen)
                if t in boxes
            ]
            for t in range(len(clip.frames))
        ],
        "relation_instances": [r for r in relations if r["begin_fid"] < r["end_fid"]],
    }


def vidstg_raw(clip: Clip) -> list[dict[str, Any]]:
    """A clip's VidSTG records: one per target and relation, with its captions and questions.

    The target is the subject. An expression that names no other object has the target's motion as
    its predicate and the target itself as the relation's object.
    """
    groups: dict[tuple[int, str, int], list[Any]] = {}
    for each in clip.expressions:
        i = each.target_id
        groups.setdefault((i, *(each.relation or (clip.tracks[i].motion, i))), []).append(each)
    records = []
    for (target, predicate, other), members in groups.items():
        begin, end = clip.tracks[target].span
        texts: dict[str, list[dict[str, Any]]] = {"declarative": [], "interrogative": []}
        for each in members:
            texts[each.type].append(
                {"description": each.text, "type": "subject", "target_id": target}
            )
        records.append(
            {
                "vid": clip.name,
                **_video(clip),
                "used_segment": {"begin_fid": 0, "end_fid": len(clip.frames)},
                "temporal_gt": {"begin_fid": begin, "end_fid": end},
                "subject/objects": _objects(clip),
                "used_relation": _relation(clip, target, predicate, other),
                "captions": texts["declarative"],
                "questions": texts["interrogative"],
            }
        )
    return records


def vidstg(clip: Clip) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A clip's part of VidSTG as processed for TubeDETR: items of `videos`, its `trajectories`."""
    videos = []
    for number, each in enumerate(clip.expressions):
        begin, end = clip.tracks[each.target_id].span
        videos.append(
            {
                "original_video_id": clip.name,
                "video_path": f"{clip.name}.mp4",
                **_video(clip),
                "start_frame": 0,
                "end_frame": len(clip.frames),
                "tube_start_frame": begin,
                "tube_end_frame": end,
                "caption": each.text,
                "type": "subject",
                "target_id": each.target_id,
                "video_id": number,  # among all items of a file
                "qtype": each.type,
            }
        )
    trajectories = {
        str(track.id): {
            str(t): {"bbox": _xywh(box), "generated": 0, "tracker": "none", "category_id": 0}
            for t, box in _seen(track).items()
        }
        for track in clip.tracks
    }
    return videos, trajectories


def hcstvg(clip: Clip) -> dict[str, Any] | None:
    """A clip's HC-STVG v2 entry, of its first declarative expression; None when it has none.

    The dataset's own clips last 20 s, and its readers take img_num / 20 for the frame rate; these
    clips do not, and their rate is len(bbox) / (ed_time - st_time).
    """
    for each in clip.expressions:
        if each.type == "declarative":
            begin, end = clip.tracks[each.target_id].span
            boxes = _seen(clip.tracks[each.target_id])
            return {
                "bbox": [_xywh(boxes[t]) for t in range(begin, end)],
                "st_time": begin / clip.fps,
                "ed_time": end / clip.fps,
                "img_num": len(clip.frames),
                "English": each.text,
                "img_size": list(clip.frames.shape[1:3]),
                "st_frame": begin + 1,
            }
    return None


def video_instruct(clip: Clip) -> list[dict[str, str]]:
    """A clip's VideoInstruct-100K items: its questions, and a request for a description."""
    pairs = [(each.question, each.answer) for each in clip.qa]
    pairs.append(("Describe the video.", clip.captions[0]))
    return [{"q": q, "a": a, "video_id": clip.name} for q, a in pairs]


def conversations(items: list[dict[str, str]]) -> list[dict[str, Any]]:
    """VideoInstruct items as Video-ChatGPT trains on them; every other puts the video first."""
    return [
        {
            "id": item["video_id"],
            "video": f"{item['video_id']}.pkl",
            "conversations": [
                {
                    "from": "human",
                    "value": f"<video>\n{item['q']}" if i % 2 else f"{item['q']}\n<video>",
                },
                {"from": "gpt", "value": item["a"]},
            ],
        }
        for i, item in enumerate(items)
    ]


def _write_json(path: Path, content: object) -> None:
    write_text(path, json.dumps(content))


def write_dataset(clips: Iterable[Clip], folder: str | os.PathLike[str]) -> None:
    """Write clips, taken one at a time, as a small dataset.

    ``video/NAME.mp4`` and ``vidor/NAME.json`` for each clip, and for all of them
    ``vidstg_raw.json``, ``vidstg.json`` (processed), ``hcstvg_v2.json``, ``video_instruct.json``
    (q, a, video_id) and ``video_instruct_train.json`` (conversations).

    Raises
    ------
    ValueError
        When two clips have the same name.
    """
    folder = Path(folder)
    for name in ("video", "vidor"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    raw: list[dict[str, Any]] = []
    videos: list[dict[str, Any]] = []
    instructions: list[dict[str, str]] = []
    trajectories, moments = {}, {}
    for clip in tqdm(clips, desc="clips"):
        if clip.name in trajectories:
            raise ValueError(f"two clips are called {clip.name}")
        write_video(folder / "video" / f"{clip.name}.mp4", clip.frames, clip.fps)
        _write_json(folder / "vidor" / f"{clip.name}.json", vidor(clip))
        raw += vidstg_raw(clip)
        items, trajectories[clip.name] = vidstg(clip)
        videos += [{**item, "video_id": len(videos) + i} for i, item in enumerate(items)]
        instructions += video_instruct(clip)
        moment = hcstvg(clip)
        if moment:
            moments[f"{clip.name}.mp4"] = moment
    _write_json(folder / "vidstg_raw.json", raw)
    _write_json(folder / "vidstg.json", {"videos": videos, "trajectories": trajectories})
    _write_json(folder / "hcstvg_v2.json", moments)
    _write_json(folder / "video_instruct.json", instructions)
    _write_json(folder / "video_instruct_train.json", conversations(instructions))
