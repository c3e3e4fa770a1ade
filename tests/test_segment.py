import numpy as np
import pytest
import tiny
import torch
from segment_anything import SamPredictor, sam_model_registry

from pgvl_core import assets
from pgvl_core.grounding import segment as segmenting
from pgvl_core.grounding.segment import load_segmenter, prompt, segment
from pgvl_core.lite import clip, sam

BOXES = np.array([[3.0, 4, 40, 30], [50, 10, 90, 55], [0, 0, 100, 60]])


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def predictor():
    torch.manual_seed(0)
    return SamPredictor(sam.build(clip.load_trunk()).eval().requires_grad_(False))


def test_a_checkpoint_in_the_official_layout_is_read(image, tmp_path, monkeypatch):
    torch.manual_seed(0)
    official = tiny.sam()
    torch.save(official.state_dict(), tmp_path / "sam_vit_b.pth")
    monkeypatch.setitem(sam_model_registry, "vit_b", tiny.sam)
    monkeypatch.setattr(assets, "path", {"sam_vit_b": tmp_path / "sam_vit_b.pth"}.get)
    torch.manual_seed(1)
    found = segment(load_segmenter("sam_vit_b"), image, boxes=BOXES[:2])
    theirs = SamPredictor(official)
    theirs.set_image(image)
    for box, mask, iou in zip(BOXES, found.masks, found.iou, strict=False):
        (expected,), (guess,), _ = theirs.predict(box=box, multimask_output=False)
        assert (mask == expected).all()
        assert iou == pytest.approx(guess, abs=1e-5)


def test_litesam_is_one_of_them(predictor, monkeypatch):
    monkeypatch.setattr(segmenting.sam, "load", lambda device: predictor.model)
    assert load_segmenter("litesam").model is predictor.model


@pytest.mark.parametrize("name", ["sam", "sam_vit_x", "vit_b", "litesam2"])
def test_an_unknown_segmenter_is_answered_with_those_there_are(name):
    with pytest.raises(ValueError, match=r"litesam, sam_vit_h, sam_vit_l, sam_vit_b"):
        load_segmenter(name)


def test_many_boxes_at_once_are_as_one_after_the_other(predictor, image):
    found = segment(predictor, image, boxes=BOXES)
    assert found.masks.shape == (3, 60, 100)
    assert (found.masks.dtype, found.iou.dtype, len(found)) == (bool, np.float32, 3)
    for box, mask, iou in zip(BOXES, found.masks, found.iou, strict=True):
        (expected,), (guess,), _ = predictor.predict(box=box, multimask_output=False)
        assert (mask != expected).mean() < 0.001  # logits on the threshold may round apart
        assert iou == pytest.approx(guess, abs=1e-4)


def test_of_the_three_masks_of_one_point_the_best_is_taken(predictor, image):
    points = np.array([[[20.0, 15]], [[70, 30]]])
    predictor.set_image(image)
    found = prompt(predictor, points=points)
    for point, mask, iou in zip(points, found.masks, found.iou, strict=True):
        masks, guesses, _ = predictor.predict(point, np.ones(1), multimask_output=True)
        assert iou == pytest.approx(guesses.max(), abs=1e-4)
        assert (mask != masks[guesses.argmax()]).mean() < 0.001


def test_points_beside_the_thing_and_boxes_with_points(predictor, image):
    predictor.set_image(image)
    points, labels = np.array([[[20.0, 15], [80, 50]]]), np.array([[1, 0]])
    found = prompt(predictor, BOXES[:1], points, labels)
    (expected,), _, _ = predictor.predict(points[0], labels[0], BOXES[0], multimask_output=False)
    assert (found.masks[0] != expected).mean() < 0.001
    everywhere = prompt(predictor, BOXES[:1], points)
    assert everywhere.iou[0] != found.iou[0]


def test_nothing_asked_for_is_nothing_found(predictor, image):
    found = segment(predictor, image, boxes=np.zeros((0, 4)))
    assert found.masks.shape == (0, 60, 100)
    assert len(found.iou) == 0


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ({}, "a prompt is boxes"),
        ({"boxes": np.zeros((2, 4)), "points": np.zeros((3, 1, 2))}, "the same N"),
        ({"boxes": np.zeros(4)}, r"\[N, 4\]"),
        ({"points": np.zeros((3, 2))}, r"\[N, P, 2\]"),
        ({"points": np.zeros((3, 1, 2)), "labels": np.zeros(3)}, r"labels are \[N, P\]"),
    ],
)
def test_prompts_of_another_shape_are_refused(predictor, image, prompts, said):
    with pytest.raises(ValueError, match=said):
        segment(predictor, image, **prompts)


def test_an_image_of_floats_is_refused_and_so_is_a_prompt_without_one(predictor, image):
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\]; got float64"):
        segment(predictor, image / 255, boxes=BOXES)
    with pytest.raises(RuntimeError, match="set_image"):
        prompt(SamPredictor(predictor.model), boxes=BOXES)
