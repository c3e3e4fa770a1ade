"""Things followed through a video: the detector says what is there, propagation carries it on.

DEVA's decoupled idea (Cheng et al., 2023), in our own code. Every few frames the detector is asked
and the segmenter draws what it found; between them masks are carried by a memory (`memory`). What
is found is held against what was carried: the same thing is drawn anew, a new one is believed when
it is found again, one that is seen is kept whether it is found or not, and one that is hidden is
waited for. What is new came since the last look, so it is carried back to that as well. The
official evaluation keeps one object and forgets it after one miss, so it loses what it sees (its
`max_num_objects` and `max_missed_detection_count`).
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch
from pycocotools import mask as coco
from segment_anything import SamPredictor
from timm.models import EfficientNet
from torch.nn.functional import normalize

from ..evaluation.identity import one_to_one
from . import colour, segment
from .detect import Detector, crops
from .memory import Carrier, Memory, embed, share

EVERY = 3  # frames from one look of the detector to the next
SAME = 0.3  # mask IoU from which what was found is what was carried
AGREED = 0.6  # mask IoU from which the segmenter, given a carried mask's box, sees the same
COVERED = 0.6  # share of a mask that others may own before it is nothing of its own
ALIKE = 0.85  # cosine of looks from which a thing found is one that was hidden, or left
BELIEVED = 2  # looks that must find a thing before it is believed; of its first `TRIAL`
TRIAL = 3
MISSES = 5  # looks in a row that neither find a thing nor see it where it should be: it is hidden
MOST = 16  # things that are followed at a time
LEAST = 24  # pixels from which a mask is of something
VIEWS = 4  # crops that are kept of a thing


@dataclass(eq=False)
class Track:
    """One thing and where it is, frame by frame; pixels are those of the frames given."""

    id: int
    frames: list[int] = field(default_factory=list)  # numbers of the frames it is seen in
    boxes: list[np.ndarray] = field(default_factory=list)  # float32 [4], xyxy, ends exclusive
    masks: list[dict] = field(default_factory=list)  # COCO run lengths
    votes: dict[str, float] = field(default_factory=dict)  # label -> sum of its scores
    looks: int = 0  # looks of the detector while it was seen
    views: list[np.ndarray] = field(default_factory=list)  # uint8 [S, S, 3], greyed around it
    colours: list[np.ndarray] = field(default_factory=list)  # `colour.shares` of each view
    look: torch.Tensor | None = None  # unit vector, the mean of its cells
    gist: torch.Tensor | None = None  # unit vector of its views, comparable with that of a word

    def __repr__(self) -> str:
        span = f", frames {self.frames[0]} to {self.frames[-1]}" if self.frames else ""
        return f"Track({self.id}, {self.label!r}, seen in {len(self.frames)}{span})"

    @property
    def label(self) -> str:
        """What the detector took it for, most of the time."""
        return max(self.votes, key=lambda label: self.votes[label], default="")

    def vote(self, label: str) -> float:
        """How surely the detector took it for that, from 0 to 1: the mean score over its looks."""
        return self.votes.get(label, 0.0) / max(1, self.looks)

    def mask(self, frame: int) -> np.ndarray | None:
        """Its mask, bool ``[H, W]``, in a frame; None where it is not seen."""
        if frame not in self.frames:
            return None
        return coco.decode(self.masks[self.frames.index(frame)]).astype(bool)

    def box(self, frame: int) -> np.ndarray | None:
        """Its box in a frame; None where it is not seen."""
        return self.boxes[self.frames.index(frame)] if frame in self.frames else None

    def within(self, begin: int, end: int) -> Track:
        """The same track with the frames from `begin` to before `end` alone."""
        kept = [i for i, frame in enumerate(self.frames) if begin <= frame < end]
        return replace(
            self,
            frames=[self.frames[i] for i in kept],
            boxes=[self.boxes[i] for i in kept],
            masks=[self.masks[i] for i in kept],
        )

    def record(self, frame: int, mask: np.ndarray) -> None:
        """Note its mask, bool ``[H, W]`` and not empty, in a frame that it had none in."""
        at = bisect(self.frames, frame)
        self.frames.insert(at, frame)
        self.boxes.insert(at, mask_box(mask))
        self.masks.insert(at, coco.encode(np.asfortranarray(mask.astype(np.uint8))))

    def forget(self, since: int) -> None:
        """Drop what was recorded after frame `since`."""
        kept = sum(frame <= since for frame in self.frames)
        del self.frames[kept:], self.boxes[kept:], self.masks[kept:]


def mask_box(mask: np.ndarray) -> np.ndarray:
    """Box xyxy around a mask bool ``[H, W]`` that is not empty, ends exclusive: float32 ``[4]``."""
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def mask_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU of each of bool ``[K, H, W]`` with each of ``[N, H, W]``: ``[K, N]``; of nothing, 0."""
    pixels = first.shape[1] * first.shape[2]
    a, b = (masks.reshape(len(masks), pixels).astype(np.float32) for masks in (first, second))
    both = a @ b.T
    either = a.sum(1)[:, None] + b.sum(1) - both
    return both / np.maximum(either, 1)


def clean(masks: np.ndarray) -> np.ndarray:
    """Masks without specks: pieces less than a tenth of the largest go, and masks of few pixels."""
    kept = np.zeros_like(masks)
    for mask, out in zip(masks, kept, strict=True):
        count, pieces, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
        areas = stats[1:, cv2.CC_STAT_AREA]
        if count > 1 and areas.max() >= LEAST:
            out[:] = np.isin(pieces, 1 + np.nonzero(areas >= 0.1 * areas.max())[0])
    return kept


def apart(masks: np.ndarray) -> np.ndarray:
    """Masks without what they share: a pixel goes to the smallest that claims it, as it is nearer.

    What lies whole within a larger thing would vanish in it otherwise.
    """
    order = np.argsort(masks.sum(axis=(1, 2)))
    free = np.ones(masks.shape[1:], bool)
    result = np.zeros_like(masks)
    for i in order:
        result[i] = masks[i] & free
        free &= ~masks[i]
    return result


@dataclass(eq=False)
class _Followed:
    """What the tracker knows of a thing beyond its track."""

    track: Track
    hits: int = 0  # looks that found it
    tried: int = 0  # looks since it came
    missed: int = 0  # looks in a row without a sign of it
    confirmed: int = 0  # the last frame in which something spoke for it
    hidden: bool = False

    @property
    def gone(self) -> bool:
        return self.hits < BELIEVED and self.tried >= TRIAL


class Tracker:
    """Follows things through one shot; `step` is given its frames in order.

    Parameters
    ----------
    detector : Detector
    predictor : SamPredictor
    trunk : EfficientNet
        From `clip.load_trunk`.
    queries : list of str
        What the detector is asked for.
    carrier : Carrier
        A fresh one: it knows nothing yet.
    """

    def __init__(
        self,
        detector: Detector,
        predictor: SamPredictor,
        trunk: EfficientNet,
        queries: list[str],
        carrier: Carrier,
    ) -> None:
        self.detector, self.predictor, self.trunk = detector, predictor, trunk
        self.queries, self.carrier = queries, carrier
        self.things: list[_Followed] = []
        self.looks = self.steps = 0
        # Frames since the last look: number, cells, and the masks of what was known.
        self.since: list[tuple[int, torch.Tensor, np.ndarray]] = []

    def step(self, number: int, image: np.ndarray, last: bool = False) -> None:
        """Follow what is known into the next frame, and look for more if it is time.

        Parameters
        ----------
        number : int
            What the frame is called in the tracks.
        image : uint8 array ``[H, W, 3]``
            RGB.
        last : bool
            Of the shot: what came after the look before it has no other to be found again by.
        """
        cells = embed(self.trunk, image)
        masks = self.carrier.carry(image, cells)
        if self.things:
            masks[[i for i, thing in enumerate(self.things) if thing.hidden or thing.gone]] = False
            masks = clean(masks)
        before = len(self.things)
        if self.steps % EVERY == 0 or last:
            masks = self._look(number, image, cells, masks)
            if len(masks) > before:
                self._go_back(self.things[before:], image, cells, masks[before:])
            self.since = []
        else:
            self.since.append((number, cells, masks))
        for thing, mask in zip(self.things, masks, strict=True):
            if mask.any():
                thing.track.record(number, mask)
        if self.things:
            self.carrier.keep(cells, masks, anchor=len(self.things) > before)
        self.steps += 1

    def _look(
        self, number: int, image: np.ndarray, cells: torch.Tensor, carried: np.ndarray
    ) -> np.ndarray:
        """The masks of a frame that the detector looks at, of what was carried and what is new."""
        self.looks += 1
        found = self.detector(image, self.queries)
        drawn = segment.segment(self.predictor, image, found["boxes"].numpy()).masks
        drawn = clean(drawn)
        scores, labels = found["scores"].numpy(), found["text_labels"]
        kept = distinct(drawn, scores)
        drawn, scores, labels = drawn[kept], scores[kept], [labels[i] for i in kept]
        looks = pooled(cells, drawn)
        masks = carried.copy()
        pairs = self._pair(carried, drawn, looks, labels)
        for i, n in pairs.items():
            masks[i] = drawn[n]
            self._saw(self.things[i], number, labels[n], float(scores[n]), looks[n])
        for i, thing in enumerate(self.things):
            if thing.hidden or thing.gone or i in pairs:
                continue
            thing.tried += 1
            if carried[i].any() and self._agrees(carried[i], masks, i):
                thing.missed, thing.confirmed = 0, number
            else:
                thing.missed += 1
            if thing.gone or thing.missed >= MISSES:
                thing.hidden = True
                thing.track.forget(thing.confirmed)
                masks[i] = False
        for n in set(range(len(drawn))) - set(pairs.values()):
            owned = masks.any(axis=0) if len(masks) else np.zeros(image.shape[:2], bool)
            seen = sum(mask.any() for mask in masks)
            if (drawn[n] & owned).sum() < COVERED * drawn[n].sum() and seen < MOST:
                self.things.append(_Followed(Track(len(self.things))))
                self._saw(self.things[-1], number, labels[n], float(scores[n]), looks[n])
                masks = np.concatenate([masks, drawn[n][None]])
        masks = apart(masks)
        for thing, mask in zip(self.things, masks, strict=True):
            if mask.any():
                thing.track.looks += 1
                if thing.confirmed == number and len(thing.track.views) < VIEWS:
                    thing.track.views.append(view(image, mask))
                    thing.track.colours.append(colour.shares(image[mask]))
        return masks

    def _go_back(
        self, things: list[_Followed], image: np.ndarray, cells: torch.Tensor, masks: np.ndarray
    ) -> None:
        """Carry new things from this frame back through those since the last look."""
        memory = Memory()
        memory.keep(cells, masks)
        for number, earlier, known in reversed(self.since):
            masks = clean(memory.carry(image, earlier) & ~known.any(axis=0))
            for thing, mask in zip(things, masks, strict=True):
                if mask.any():
                    thing.track.record(number, mask)
            memory.keep(earlier, masks)

    def _saw(
        self, thing: _Followed, number: int, label: str, score: float, look: torch.Tensor
    ) -> None:
        thing.hits, thing.tried, thing.missed = thing.hits + 1, thing.tried + 1, 0
        thing.confirmed, thing.hidden = number, False
        thing.track.votes[label] = thing.track.votes.get(label, 0.0) + score
        known = thing.track.look
        thing.track.look = look if known is None else normalize(0.8 * known + 0.2 * look, dim=0)

    def _pair(
        self, carried: np.ndarray, drawn: np.ndarray, looks: torch.Tensor, labels: list[str]
    ) -> dict[int, int]:
        """Which thing each mask that was drawn is: by where it is, or, if hidden, by its looks."""
        overlap = mask_iou(carried, drawn)
        if not overlap.size:
            return {}
        fits = np.where(overlap >= SAME, 1 + overlap, 0.0)
        for i, thing in enumerate(self.things):
            known = thing.track.look
            if known is None or carried[i].any() or thing.gone:
                continue
            for n, label in enumerate(labels):
                alike = float(known @ looks[n])
                if alike >= ALIKE and label == thing.track.label and not fits[:, n].any():
                    fits[i, n] = alike
        return one_to_one(fits)

    def _agrees(self, mask: np.ndarray, masks: np.ndarray, i: int) -> bool:
        """Whether the segmenter sees the same thing in a mask's box; it then draws it anew."""
        anew = clean(segment.prompt(self.predictor, mask_box(mask)[None]).masks)[0]
        same = bool(mask_iou(mask[None], anew[None])[0, 0] >= AGREED)
        if same:
            masks[i] = anew
        return same

    def tracks(self) -> list[Track]:
        """What was believed: found by two looks, or by the only one there was."""
        needed = min(BELIEVED, self.looks)
        return [thing.track for thing in self.things if thing.hits >= needed and thing.track.frames]


def distinct(masks: np.ndarray, scores: np.ndarray, most: float = 0.7) -> list[int]:
    """Which of masks ``[N, H, W]`` to keep, the surest first: none that is another or is empty."""
    overlap = mask_iou(masks, masks)
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if masks[i].any() and not any(overlap[i, k] > most for k in kept):
            kept.append(int(i))
    return kept


def pooled(cells: torch.Tensor, masks: np.ndarray) -> torch.Tensor:
    """What things look like: the mean of their cells, unit vectors ``[N, D]``."""
    shares = share(masks, *cells.shape[1:]).to(cells.device)
    return normalize(torch.einsum("nhw,dhw->nd", shares, cells), dim=1)


def view(image: np.ndarray, mask: np.ndarray, dim: float = 0.3) -> np.ndarray:
    """The square around a thing with what is not it greyed, uint8 ``[S, S, 3]``, to be named by."""
    grey = np.full_like(image, 127)
    shown = np.where(mask[..., None], image, cv2.addWeighted(image, dim, grey, 1 - dim, 0))
    return crops(shown, mask_box(mask)[None])[0]


def follow(
    frames: Iterable[tuple[int, np.ndarray]],
    detector: Detector,
    predictor: SamPredictor,
    trunk: EfficientNet,
    queries: list[str],
    carrier: Callable[[], Carrier] = Memory,
) -> list[Track]:
    """Tracks of the things in one shot, given as (number, image) of its frames in order."""
    tracker = Tracker(detector, predictor, trunk, queries, carrier())
    waiting: tuple[int, np.ndarray] | None = None
    for frame in frames:
        if waiting is not None:
            tracker.step(*waiting)
        waiting = frame
    if waiting is not None:
        tracker.step(*waiting, last=True)
    return tracker.tracks()


def join(joined: list[Track], tracks: list[Track]) -> None:
    """Add the tracks of the next shot to those of all before it; what comes again keeps its id.

    A track goes on with one of an earlier shot when no other is more like it, the detector took
    both for the same, and their looks are alike from `ALIKE` on. The others get the next ids, from
    1. Shots are joined one by one, because the views of a long video's tracks would fill memory.
    """
    fits = np.zeros((len(tracks), len(joined)))
    for n, new in enumerate(tracks):
        for i, old in enumerate(joined):
            if old.label == new.label and old.look is not None and new.look is not None:
                alike = float(old.look @ new.look)
                fits[n, i] = alike if alike >= ALIKE else 0
    old_of = one_to_one(fits)
    for n, new in enumerate(tracks):
        if n not in old_of:
            new.id = len(joined) + 1
            joined.append(new)
            continue
        old = joined[old_of[n]]
        old.frames += new.frames
        old.boxes += new.boxes
        old.masks += new.masks
        old.votes = {
            label: old.votes.get(label, 0) + new.votes.get(label, 0)
            for label in old.votes | new.votes
        }
        old.looks += new.looks
        old.views = (old.views + new.views)[: 2 * VIEWS]
        old.colours = (old.colours + new.colours)[: 2 * VIEWS]
