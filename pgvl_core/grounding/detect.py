"""Words to boxes: which things of an image a list of noun phrases names, and where they are.

Every detector gives what transformers' zero-shot detectors give for an image
(`post_process_grounded_object_detection`): scores, boxes and labels.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypedDict

import numpy as np
import torch
from torchvision.ops import batched_nms
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

from .. import assets
from ..encoder import FrameEncoder, LiteCLIPEncoder
from ..lite import detector, people
from ..video import resize
from .tags import shares, tag_list

SAME = 0.8  # IoU from which two boxes of one phrase are one (official evaluation: NMS 0.8)
ANYTHING = ("object", "thing")  # queries that any box answers, if nothing else does better:
UNNAMED = 0.3  # this is their share in LiteDetector's boxes
CROP = 224  # pixels of the square that a box is looked at in
NAMED, MOST = 15, 10  # LiteDetector's surest boxes that are named; of these, what is given
LOOKS = 100  # images whose looks are remembered, the last; one takes some 80 kB


class Detections(TypedDict):
    """What was found in an image, the surest first."""

    scores: torch.Tensor  # float32 [N], from 0 to 1
    boxes: torch.Tensor  # float32 [N,4], xyxy in pixels, ends exclusive
    labels: torch.Tensor  # int64 [N]: which of the queries
    text_labels: list[str]  # the same in words


class Detector(Protocol):
    """Finds what words name."""

    def __call__(
        self, image: np.ndarray, queries: list[str], threshold: float | None = None
    ) -> Detections:
        """What of `queries` is in an image, uint8 RGB ``[H, W, 3]``.

        Without `threshold`, the detector's own; with 0, all that it considers.
        """
        ...


def _check(image: np.ndarray, queries: list[str]) -> None:
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"a detector wants an RGB image, uint8 [H, W, 3]; got {image.dtype} {list(image.shape)}"
        )
    if not queries or not all(query.strip(" .") for query in queries):
        raise ValueError(f"a detector wants one noun phrase or more, none empty; got {queries}")


def _detections(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    queries: list[str],
    threshold: float,
    most: int | None = None,
) -> Detections:
    """Each box ``[M, 4]`` under the query that fits it best, by scores ``[M, K]``; doubles go.

    At most `most`, the surest, if it is given.
    """
    best, labels = scores.max(dim=1)
    sure = best > threshold
    boxes, best, labels = boxes[sure], best[sure], labels[sure]
    kept = batched_nms(boxes, best, labels, SAME)[:most]  # in descending order of score
    text = [queries[label] for label in labels[kept]]
    return Detections(
        scores=best[kept].cpu(),
        boxes=boxes[kept].cpu(),
        labels=labels[kept].cpu(),
        text_labels=text,
    )


# ------------------------------------------------------------------------------------------ pocket
@dataclass(frozen=True, eq=False)
class Look:
    """What LiteDetector and those who name its boxes see in an image, before any word is asked."""

    boxes: np.ndarray  # float32 [N, 4], xyxy in pixels, ends exclusive
    objectness: np.ndarray  # float32 [N], from 0 to 1
    seen: torch.Tensor  # unit vectors [N, E], comparable with those of words
    person: torch.Tensor  # float32 [N], from 0 to 1: BlazePose's, 0 where it is not sure


class LiteGrounder:
    """LiteDetector's boxes, each named by what LiteCLIP sees in it, or BlazePose.

    More boxes are named than are given: of a thing that was never trained on, the name is often
    surer than that there is a thing.

    A name is held against the other words of the tag list: its share of the softmax over the
    cosines says whether the box shows that rather than anything else. Words that are nearly the
    name are no rivals of it. A box's score for a name is the geometric mean of that share and of
    objectness, which counts three times: a piece of a thing may be named as surely as the whole,
    and objectness tells them apart.

    Parameters
    ----------
    encoder : LiteCLIPEncoder
        Its trunk is the detector's too.
    """

    threshold = 0.25

    def __init__(self, encoder: LiteCLIPEncoder) -> None:
        self.encoder = encoder
        self.boxes = detector.load(encoder.trunk)
        self.is_person = people.PersonTest()
        self.rivals = tag_list()
        self._looks: dict[tuple, Look] = {}

    def __call__(
        self, image: np.ndarray, queries: list[str], threshold: float | None = None
    ) -> Detections:
        _check(image, queries)
        look = self.look(image)
        # How surely each box is a thing of each name.
        objectness = torch.from_numpy(look.objectness)[:, None]
        scores = (objectness**3 * self.name(look, queries)) ** (1 / 4)
        return _detections(
            torch.from_numpy(look.boxes),
            scores,
            queries,
            self.threshold if threshold is None else threshold,
            MOST,
        )

    def look(self, image: np.ndarray) -> Look:
        """What is seen in an image, uint8 RGB ``[H, W, 3]``; the last `LOOKS` are remembered.

        Nearly all of the time goes here, so a second question about an image costs little.
        """
        key = image.shape, hashlib.sha256(image.tobytes()).digest()
        if key not in self._looks:
            boxes, objectness = self.boxes.find(image, NAMED)
            seen, person = torch.zeros(0, 0), torch.zeros(0)
            if len(boxes):
                features = self.encoder.encode(crops(image, boxes)).mean(dim=1)
                seen = self.encoder.project(features)
                person = torch.from_numpy(self.is_person(image, boxes))
            person = person * (person >= people.SURE)
            if len(self._looks) == LOOKS:  # the oldest goes
                del self._looks[next(iter(self._looks))]
            self._looks[key] = Look(boxes, objectness, seen, person)
        return self._looks[key]

    def name(self, look: Look, queries: list[str]) -> torch.Tensor:
        """How well each of ``K`` nouns, or noun phrases, fits each box: ``[N, K]``, from 0 to 1."""
        if not len(look.boxes):
            return torch.zeros(0, len(queries))
        fits = shares(self.encoder, look.seen, queries, self.rivals)
        general = torch.tensor([query in ANYTHING for query in queries])
        fits[:, general] = UNNAMED

        human = torch.tensor([people.means_person(query) for query in queries])
        person = look.person[:, None]
        if human.any():  # BlazePose tells no woman from a man: the words' own shares do
            among = fits[:, human] / fits[:, human].amax(dim=1, keepdim=True)
            fits[:, human] = torch.maximum(fits[:, human], person * among)
        fits[:, ~(human | general)] *= 1 - person
        return fits


def crops(image: np.ndarray, boxes: np.ndarray, grow: float = 0.07) -> np.ndarray:
    """What is in each box and a little around it, stretched to a square: uint8 ``[N, S, S, 3]``."""
    height, width = image.shape[:2]
    margin = grow * (boxes[:, 2:] - boxes[:, :2])
    low = np.floor(boxes[:, :2] - margin).clip(0).astype(int)
    high = np.ceil(boxes[:, 2:] + margin).clip(max=(width, height)).astype(int)
    return np.concatenate(
        [
            resize(image[None, y0:y1, x0:x1], CROP, CROP)
            for (x0, y0), (x1, y1) in zip(low, high, strict=True)
        ]
    )


# ---------------------------------------------------------------------------------- GroundingDINO
class GroundingDINO:
    """GroundingDINO (Liu et al., 2023) through transformers.

    The model reads all phrases as one text and says for each box how much each *token* fits it. The
    processor strings the tokens that fit together again, which can mix two phrases; here a box goes
    to the phrase whose best token fits best.

    Parameters
    ----------
    checkpoint : str or Path
        A folder in transformers' layout, or a hub name.
    """

    threshold = 0.35  # of the official evaluation

    def __init__(self, checkpoint: str | Path, device: str | torch.device = "cpu") -> None:
        self.processor: Any = AutoProcessor.from_pretrained(checkpoint)
        model = AutoModelForZeroShotObjectDetection.from_pretrained(checkpoint)
        self.model: Any = model.to(device).eval().requires_grad_(False)

    def __call__(
        self, image: np.ndarray, queries: list[str], threshold: float | None = None
    ) -> Detections:
        _check(image, queries)
        text, spans = prompt(queries)
        inputs = self.processor(images=image, text=text, return_tensors="pt")
        length, most = inputs["input_ids"].shape[1], self.model.config.max_text_len
        if length > most:
            raise ValueError(
                f"{len(queries)} phrases are {length} tokens, and the detector reads {most}; "
                "ask for them in several calls"
            )
        encoding = self.processor.tokenizer(text, return_offsets_mapping=True)
        offsets = list(enumerate(encoding["offset_mapping"]))
        tokens = [
            [i for i, (begin, end) in offsets if first <= begin < end <= last]
            for first, last in spans
        ]
        with torch.inference_mode():
            outputs = self.model(**inputs.to(self.model.device))
        found = self.processor.post_process_grounded_object_detection(
            outputs, inputs["input_ids"], threshold=0.0, target_sizes=[image.shape[:2]]
        )[0]
        fits = outputs.logits[0].float().sigmoid()  # [boxes, tokens]
        scores = torch.stack([fits[:, own].amax(dim=1) for own in tokens], dim=1)
        height, width = image.shape[:2]
        boxes = found["boxes"].float().clamp(min=0)
        boxes = boxes.minimum(boxes.new_tensor([width, height, width, height]))
        return _detections(
            boxes, scores, queries, self.threshold if threshold is None else threshold
        )


def prompt(queries: list[str]) -> tuple[str, list[tuple[int, int]]]:
    """The text GroundingDINO was trained on, "a dog. a cat.", and where each phrase is in it."""
    text, spans = "", []
    for query in queries:
        phrase = query.lower().replace(".", " ").strip()
        spans.append((len(text), len(text) + len(phrase)))
        text += f"{phrase}. "
    return text.rstrip(), spans


def load_detector(
    name: str | Path, device: str | torch.device = "cpu", encoder: FrameEncoder | None = None
) -> Detector:
    """The detector that a profile names: "litedetector", an asset, or a checkpoint of your own.

    Parameters
    ----------
    encoder : FrameEncoder
        What "litedetector" names boxes with if it is LiteCLIP; else it loads one of its own.
    """
    if name == "litedetector":
        if not isinstance(encoder, LiteCLIPEncoder):
            encoder = LiteCLIPEncoder(device=device)
        return LiteGrounder(encoder)
    if name in assets.ASSETS:
        name = assets.path(str(name))
    return GroundingDINO(name, device)
