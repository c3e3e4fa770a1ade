"""What a grounded answer is: words, the tracks they mean, and ways to look at and keep both."""

from __future__ import annotations

import base64
import colorsys
import html
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco

from ..files import write_text
from ..video import Video, resize, sample_indices, write_video
from .match import Span
from .shots import Shot
from .track import Track

PICTURES, HEIGHT = 6, 130  # of the strip that a notebook shows, and their height in pixels


def colour_of(track: int) -> tuple[int, int, int]:
    """The colour of a track, RGB 0 to 255: the same everywhere, and far from its neighbours'."""
    hue = (0.02 + 0.618034 * (track - 1)) % 1  # golden ratio: no two ids close to each other
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def paint(
    image: np.ndarray, tracks: Iterable[Track], frame: int, labels: dict[int, str]
) -> np.ndarray:
    """A frame with its tracks' masks in their colours, outlined and labelled: uint8 ``[H, W, 3]``.

    Parameters
    ----------
    image : uint8 array ``[H, W, 3]``
        Of any size; masks are fitted to it.
    labels : dict
        What to write at a track, by its id.
    """
    painted = image.copy()
    height, width = image.shape[:2]
    for track in tracks:
        mask = track.mask(frame)
        if mask is None:
            continue
        mask = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        colour = colour_of(track.id)
        inside = mask.astype(bool)
        painted[inside] = (0.5 * painted[inside] + 0.5 * np.array(colour)).astype(np.uint8)
        edges, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(painted, edges, -1, colour, max(1, height // 200))
        rows, columns = np.nonzero(inside)
        if len(rows) and labels.get(track.id):
            _write(painted, labels[track.id], int(columns.min()), int(rows.min()), colour)
    return painted


def _write(image: np.ndarray, text: str, x: int, y: int, colour: tuple[int, int, int]) -> None:
    scale = max(0.35, image.shape[0] / 900)
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    x, y = min(max(x, 0), max(image.shape[1] - width, 0)), max(y, height + below)
    cv2.rectangle(image, (x, y - height - below), (x + width, y), colour, -1)
    place = (x, y - below // 2)
    cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)


@dataclass(frozen=True, eq=False)
class GroundedAnswer:
    """An answer, what its words mean in the video, and what it took.

    Attributes
    ----------
    text, question, transcript : str
    video : Path
    width, height : int, of the video in pixels
    size : (width, height) of the frames that were looked at, whose pixels boxes and masks are in
    frames : int64 [T], numbers of these frames in the video; tracks speak of frames by them
    times : float64 [T], seconds
    shots : list of Shot, of the video's frames
    tags : the words that describe each shot, best first
    spans : for each noun phrase of the text, the tracks that it means
    target : the thing that was asked for, or None
    tracks : all things that were followed, whether or not the answer names them
    seconds : what each stage took
    """

    text: str
    question: str
    transcript: str
    video: Path
    width: int
    height: int
    size: tuple[int, int]
    frames: np.ndarray
    times: np.ndarray
    shots: list[Shot]
    tags: list[list[str]]
    spans: list[Span]
    target: Span | None
    tracks: list[Track]
    seconds: dict[str, float]

    @property
    def meant(self) -> list[Track]:
        """The tracks that the answer's words mean, or that were asked for."""
        ids = {i for span in self.spans for i in span.tracks}
        ids |= set(self.target.tracks) if self.target else set()
        return [track for track in self.tracks if track.id in ids]

    @property
    def labels(self) -> dict[int, str]:
        """What to call each track that is meant: the phrase that means it."""
        spans = [*self.spans, *([self.target] if self.target and self.target.phrase.text else [])]
        return {i: span.phrase.text for span in reversed(spans) for i in span.tracks}

    def __repr__(self) -> str:
        found = ", ".join(
            f"{span.phrase.text}: {' '.join(f'#{i}' for i in span.tracks) or span.note}"
            for span in self.spans
        )
        return f"GroundedAnswer({self.text!r}; {found or 'it names nothing'})"

    def boxes_at(self, frames: Iterable[int]) -> dict[int, np.ndarray]:
        """Boxes ``[k, 4]`` in the video's own pixels at frames of it, the thing asked for first.

        Each frame is answered by the nearest that was looked at; where nothing that is meant is
        seen, it is left out. This is what `evaluation.runner.run` measures.
        """
        video_size = np.array([self.width, self.height] * 2, float)
        scale = video_size / np.array(self.size * 2, float)
        first = set(self.target.tracks) if self.target else set()
        order = sorted(self.meant, key=lambda track: track.id not in first)
        found = {}
        for frame in frames:
            nearest = int(self.frames[np.abs(self.frames - frame).argmin()])
            boxes = [box * scale for track in order if (box := track.box(nearest)) is not None]
            if boxes and order[0].box(nearest) is not None:
                found[int(frame)] = np.stack(boxes)
        return found

    # ---------------------------------------------------------------------------------- to look at
    def sentence(self) -> str:
        """The answer as HTML, each phrase that was found in the colour of its first track."""
        pieces, at = [], 0
        for span in self.spans:
            phrase = span.phrase
            pieces.append(html.escape(self.text[at : phrase.start]))
            word = html.escape(phrase.text)
            if span.tracks:
                colour = "#{:02x}{:02x}{:02x}".format(*colour_of(span.tracks[0]))
                ids = " ".join(f"#{i}" for i in span.tracks)
                word = (
                    f'<mark style="background:{colour};color:black" title="{ids} {span.note}">'
                    f"{word}</mark>"
                )
            pieces.append(word)
            at = phrase.end
        notes = [span.note for span in self.spans if span.note]
        told = f" <em>({html.escape('; '.join(notes))})</em>" if notes else ""
        return f"<p>{''.join(pieces)}{html.escape(self.text[at:])}{told}</p>"

    def painted(self, frame: int, image: np.ndarray) -> np.ndarray:
        """A frame with what the answer means marked in it."""
        return paint(image, self.meant, frame, self.labels)

    def timeline(self) -> str:
        """When each track that is meant is seen, as SVG."""
        rows, width = self.meant, 560
        end = float(self.times[-1]) or 1.0
        step = width / max(1, len(self.times))
        when = dict(zip(self.frames.tolist(), self.times.tolist(), strict=True))
        lines = []
        for row, track in enumerate(rows):
            colour = "rgb({},{},{})".format(*colour_of(track.id))
            y = 18 * row
            label = html.escape(f"#{track.id} {self.labels.get(track.id, '')}")
            lines.append(f'<text x="0" y="{y + 12}" font-size="11">{label}</text>')
            for frame in track.frames:
                x = 130 + width * when[frame] / (end * (1 + 1 / len(self.times)))
                lines.append(
                    f'<rect x="{x:.1f}" y="{y + 3}" width="{step + 0.5:.1f}" height="11" '
                    f'fill="{colour}"/>'
                )
        told = "; ".join(f"{self.labels.get(t.id, '')}: {len(t.frames)} frames" for t in rows)
        return (
            f'<svg width="{width + 140}" height="{18 * len(rows) + 18}" role="img" '
            f'aria-label="when each thing is seen: {html.escape(told)}">{"".join(lines)}'
            f'<text x="130" y="{18 * len(rows) + 12}" font-size="10">0 s</text>'
            f'<text x="{width + 100}" y="{18 * len(rows) + 12}" font-size="10">{end:.1f} s</text>'
            "</svg>"
        )

    def _repr_html_(self) -> str:
        chosen = self.frames[sample_indices(len(self.frames), PICTURES)]
        shown = Video(self.video).frames(chosen, short_side=min(self.size))
        pictures = []
        for frame, when, image in zip(chosen.tolist(), shown.times, shown.images, strict=True):
            painted = self.painted(frame, image)
            width = round(painted.shape[1] * HEIGHT / painted.shape[0])
            jpeg = io.BytesIO()
            Image.fromarray(resize(painted[None], HEIGHT, width)[0]).save(jpeg, "JPEG")
            data = base64.b64encode(jpeg.getvalue()).decode()
            seen = [self.labels.get(t.id, "") for t in self.meant if frame in t.frames]
            alt = html.escape(f"{when:.1f} s: {', '.join(seen) or 'nothing that is meant'} marked")
            pictures.append(f'<img src="data:image/jpeg;base64,{data}" alt="{alt}">')
        asked = f"<p><strong>{html.escape(self.question)}</strong></p>" if self.question else ""
        strip = " ".join(pictures)
        return f"<div>{asked}{self.sentence()}<div>{strip}</div>{self.timeline()}</div>"

    # ------------------------------------------------------------------------------------- to keep
    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data, for JSON."""
        when = dict(zip(self.frames.tolist(), self.times.tolist(), strict=True))
        return {
            "video": self.video.name,
            "question": self.question,
            "text": self.text,
            "transcript": self.transcript,
            "size": list(self.size),
            "spans": [_plain(span) for span in self.spans],
            "target": _plain(self.target) if self.target else None,
            "shots": [[shot.start_time, shot.end_time] for shot in self.shots],
            "tags": self.tags,
            "tracks": [
                {
                    "id": track.id,
                    "label": track.label,
                    "frames": [
                        {
                            "frame": frame,
                            "time": when[frame],
                            "box": box.tolist(),
                            "mask": {**mask, "counts": mask["counts"].decode()},
                        }
                        for frame, box, mask in zip(
                            track.frames, track.boxes, track.masks, strict=True
                        )
                    ],
                }
                for track in self.tracks
            ],
            "seconds": self.seconds,
        }

    def to_coco(self) -> dict[str, Any]:
        """The masks as a COCO file of instances, one image to a frame, with `track_id`."""
        names = sorted({track.label for track in self.tracks})
        width, height = self.size
        images = [
            {"id": i, "file_name": f"{frame:06d}.jpg", "width": width, "height": height}
            for i, frame in enumerate(self.frames.tolist(), 1)
        ]
        number = {frame: i for i, frame in enumerate(self.frames.tolist(), 1)}
        found = [
            {
                "image_id": number[frame],
                "category_id": 1 + names.index(track.label),
                "track_id": track.id,
                "segmentation": {**mask, "counts": mask["counts"].decode()},
                "area": int(coco.area(mask)),
                "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
                "iscrowd": 0,
            }
            for track in self.tracks
            for frame, box, mask in zip(track.frames, track.boxes, track.masks, strict=True)
        ]
        return {
            "images": images,
            "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)],
            "annotations": [{"id": i, **each} for i, each in enumerate(found, 1)],
        }

    def save(self, path: str | Path) -> None:
        """Write it to a .json file; ``.coco.json`` gets the COCO form.

        Raises
        ------
        ValueError
            When the suffix is another.
        """
        path = Path(path)
        if path.suffix != ".json":
            raise ValueError(f"{path.name}: a grounded answer is saved as .json or .coco.json")
        data = self.to_coco() if path.name.endswith(".coco.json") else self.to_dict()
        write_text(path, json.dumps(data) + "\n")

    def write_video(self, path: str | Path) -> None:
        """Write the frames that were looked at, marked, as an MP4 with the video's sound.

        Raises
        ------
        VideoError
            When it cannot be written.
        """
        rate = 1 / float(np.median(np.diff(self.times))) if len(self.times) > 1 else 1.0
        write_video(path, self._pictures(), rate, audio_from=self.video)

    def _pictures(self) -> Iterator[np.ndarray]:
        video = Video(self.video)
        for block in video.blocks(self.frames, min(self.size)):
            for frame, image in zip(block.indices.tolist(), block.images, strict=True):
                yield self.painted(frame, image)


def _plain(span: Span) -> dict[str, Any]:
    phrase = span.phrase
    return {
        "phrase": phrase.text,
        "start": phrase.start,
        "end": phrase.end,
        "tracks": list(span.tracks),
        "fit": span.fit,
        "note": span.note,
    }
