"""The detector and the segmenter, each on its own, before masks drawn by hand."""

import numpy as np
import pytest
import torch

from pgvl_core import profiles, toyworld
from pgvl_core.grounding import parts
from pgvl_core.grounding.detect import Detections
from pgvl_core.grounding.segment import Masks

IMAGE = np.zeros((60, 100, 3), np.uint8)
TRUE = np.zeros((2, 60, 100), bool)
TRUE[0, 10:30, 10:30] = True  # 20 x 20
TRUE[1, 20:50, 60:70] = True  # 10 x 30


def detector(answers):
    """A detector that answers each query with the given boxes."""

    def detect(image, queries, threshold=None):
        (query,) = queries
        assert threshold == 0
        boxes = torch.tensor(answers[query], dtype=torch.float32).reshape(-1, 4)
        count = len(boxes)
        return Detections(
            scores=torch.linspace(1, 0.1, count),
            boxes=boxes,
            labels=torch.zeros(count, dtype=torch.int64),
            text_labels=[query] * count,
        )

    return detect


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """A segmenter that is given the true boxes and draws the left half of each."""

    def segment(predictor, image, boxes):
        masks = np.zeros((len(boxes), *TRUE.shape[1:]), bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.astype(int), strict=True):
            mask[y0:y1, x0 : (x0 + x1) // 2] = True
        return Masks(masks, np.array([0.9, 0.2, 0.4], np.float32)[: len(boxes)])

    monkeypatch.setattr(parts, "segment", segment)


def test_each_thing_is_held_against_its_own_mask_and_box():
    """Half of a mask has an IoU of a half; the boxes that are found have 3/4, and 29/60."""
    detect = detector(
        {
            "dog": [[10, 10, 30, 25], [0, 0, 5, 5]],
            "cup": [[0, 0, 5, 5], [60, 20, 65, 49], [60, 20, 70, 50]],  # the third is right
            "fox": [[60, 20, 65, 49]],
        }
    )
    masks = np.stack([*TRUE, TRUE[1]])
    dog, cup, fox = parts.measure(detect, None, IMAGE, ["dog", "cup", "fox"], masks)
    assert (dog.name, dog.mask_iou, dog.found, dog.named) == ("dog", 0.5, True, True)
    assert (cup.name, cup.mask_iou, cup.found, cup.named) == ("cup", 0.5, True, False)
    assert (fox.name, fox.mask_iou, fox.found, fox.named) == ("fox", 0.5, False, False)
    assert (dog.guessed_iou, cup.guessed_iou) == pytest.approx((0.9, 0.2))


def test_ten_boxes_may_try_and_no_more():
    wrong = [[80, 0, 90, 10]]
    for before, found in ((9, True), (10, False)):
        boxes = {"dog": wrong * before + [[10, 10, 30, 30]], "cup": []}
        dog, _ = parts.measure(detector(boxes), None, IMAGE, ["dog", "cup"], TRUE)
        assert (dog.found, dog.named) == (found, False)


def test_masks_are_wanted_for_all_names_and_none_empty():
    with pytest.raises(ValueError, match="2 names want as many masks"):
        parts.measure(detector({}), None, IMAGE, ["dog", "cup"], TRUE[:1])
    with pytest.raises(ValueError, match="none empty"):
        parts.measure(detector({}), None, IMAGE, ["dog", "cup"], TRUE & False)
    assert parts.measure(detector({}), None, IMAGE, [], TRUE[:0]) == []


def test_things_hardly_seen_are_not_asked_for():
    """A quarter of a thing and 64 pixels of it are the least, in clips whose things meet."""
    left_out = 0
    for seed in range(4):
        clip = toyworld.make_clip(seed, "train", frames=16)
        for frame in range(0, 16, 3):
            names, masks = parts.shown(clip, frame)
            seen = {
                (t.category, int(t.visible[frame].sum())): t.visibility[frame] for t in clip.tracks
            }
            asked = [(n, int(m.sum())) for n, m in zip(names, masks, strict=True)]
            assert all(seen[each] >= 0.25 and each[1] >= 64 for each in asked)
            left = [each for each in seen if each not in asked]
            assert all(seen[each] < 0.25 or each[1] < 64 for each in left)
            left_out += len(left)
    assert left_out


def test_pocket_finds_and_draws_a_thing_on_a_plain_background(monkeypatch):
    """The real models, one cut-out that is nearly the whole picture's only content."""
    monkeypatch.undo()
    grounder = profiles.grounder("pocket")
    clip = toyworld.make_clip(1, "train", frames=16, shots=1)
    things = parts.measure(
        grounder.detector, grounder.predictor, clip.frames[8], *parts.shown(clip, 8)
    )
    assert things
    assert np.mean([thing.mask_iou for thing in things]) > 0.5
    assert any(thing.found for thing in things)
