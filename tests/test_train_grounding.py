"""The parts of the recipe that LiteSAM and LiteDetector are trained by, held to hand-made cases."""

import sys
from pathlib import Path

import numpy as np
import torch

from pgvl_core import toyworld
from pgvl_core.grounding import parts
from pgvl_core.lite import detector

sys.path.insert(0, str(Path(__file__).parent.parent / "data" / "build"))
import composites
import fit_liteclip
import train_grounding as recipe


def test_composites_show_training_categories_alone(monkeypatch):
    """Their truth is what is seen: no pixel belongs to two things, and boxes are tight."""
    asked = []

    def categories(split):
        asked.append(split)
        return toyworld.categories(split)

    monkeypatch.setattr(composites, "categories", categories)
    for seed in range(12):
        made = composites.picture(np.random.default_rng(seed))
        assert made.image.dtype == np.uint8
        assert made.masks.shape == (len(made.boxes), *made.image.shape[:2])
        assert made.masks.sum(0).max() == 1
        for mask, (x0, y0, x1, y1) in zip(made.masks, made.boxes.astype(int), strict=True):
            assert mask.sum() == mask[y0:y1, x0:x1].sum() >= parts.LEAST_PIXELS
            assert mask[[y0, y1 - 1]].any(axis=1).all()
            assert mask[:, [x0, x1 - 1]].any(axis=0).all()
    assert set(asked) == {"train"}


def test_a_composite_is_its_seed():
    first, again = (composites.picture(np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first.image, again.image)
    assert not np.array_equal(first.image, composites.picture(np.random.default_rng(4)).image)


def test_a_composite_is_before_the_pictures_it_is_given():
    """Four in five backgrounds are: of two plain ones, recoloured, a channel stays the greatest."""
    plain = [np.zeros((300, 300, 3), np.uint8) + np.uint8([0, 0, 200])]
    blue = 0
    for seed in range(60):
        behind = composites.background(np.random.default_rng(seed), 64, 64, plain)
        blue += bool((behind.argmax(axis=2) == 2).all() and np.ptp(behind, axis=(0, 1)).max() < 99)
    assert blue > 60 * 0.8**2 - 15  # also where two of them meet


def test_a_composite_tells_what_its_things_are_called(monkeypatch):
    """As one that was drawn, and no more of it is seen than was drawn."""
    drawn = []
    strew = composites.strew

    def watched(*given):
        name, mask = strew(*given)
        drawn.append((name, mask.sum()))
        return name, mask

    monkeypatch.setattr(composites, "strew", watched)
    for seed in range(8):
        drawn.clear()
        made = composites.picture(np.random.default_rng(seed))
        assert len(made.names) == len(made.masks)
        for name, mask in zip(made.names, made.masks, strict=True):
            assert any(name == n and mask.sum() <= most for n, most in drawn)


def test_discriminants_turn_from_what_varies_within_a_class():
    """Means (1, 1) and (-1, -1), variances 1 and 9: of mean 5, so a shift of 2 x 5 for each."""
    assert fit_liteclip.SHRINK == 2
    offsets = torch.tensor([[1.0, 3.0], [1.0, -3.0], [-1.0, 3.0], [-1.0, -3.0]])
    features = torch.cat([offsets + 1, offsets - 1])
    found = fit_liteclip.discriminants(features, torch.tensor([0] * 4 + [1] * 4))
    wanted = torch.tensor([1 / 11, 1 / 19])
    wanted /= wanted.norm()
    torch.testing.assert_close(found, torch.stack([wanted, -wanted]))


def test_a_perfect_mask_costs_nothing_and_its_iou_is_one():
    truth = torch.zeros(1, 64, 64, dtype=torch.bool)
    truth[0, 16:48, 16:32] = True
    drawn = torch.stack([truth[0], torch.roll(truth[0], 8, 1), torch.zeros(64, 64).bool()])
    loss, iou = recipe.mask_losses(40.0 * (drawn.float() - 0.5)[None], truth)
    # Half of the shifted mask is right: 8 columns of 16, of 24 that either covers.
    torch.testing.assert_close(iou, torch.tensor([[1, 8 / 24, 0]]))
    assert loss[0, 0] < 0.01
    assert loss[0, 0] < loss[0, 1] < loss[0, 2]


def test_a_small_thing_counts_as_much_as_a_large_one():
    """Missing a thing of 20 pixels costs nearly what missing one of 160 does."""
    truth = torch.zeros(2, 256, 256, dtype=torch.bool)
    truth[0, 20:40, 20:40] = True
    truth[1, 20:180, 20:180] = True
    loss, _ = recipe.mask_losses(torch.full((2, 1, 64, 64), -4.0), truth)
    assert 0.3 < (loss[0] / loss[1]).item() < 1
    plain = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.full((2, 256, 256), -4.0), truth.float(), reduction="none"
    ).mean((1, 2))
    assert (plain[0] / plain[1]).item() < 0.1  # what the mean over the picture would make of it


def test_what_is_near_a_thing_is_near_on_all_sides():
    mask = torch.zeros(1, 60, 60)
    mask[0, 30, 30] = 1
    near = recipe.grown(mask)[0].nonzero()
    assert (near.min(0).values.tolist(), near.max(0).values.tolist()) == ([18, 18], [42, 42])
    assert len(near) == 25 * 25


def test_clicks_fall_on_the_thing_in_pixels_of_the_square():
    mask = torch.zeros(256, 256, dtype=torch.bool)
    mask[10:12, 200:220] = True
    clicks = recipe.click(np.random.default_rng(0), mask, 50)
    assert ((clicks >= torch.tensor([400, 20])) & (clicks < torch.tensor([440, 24]))).all()


def test_cells_in_the_middle_of_a_thing_answer_for_it_at_the_stride_of_its_size():
    strides = torch.cat([torch.full(((512 // s) ** 2,), s) for s in detector.STRIDES])
    centres = torch.cat([detector.cell_centres(512 // s, 512 // s, s) for s in detector.STRIDES])
    small, large = [100.0, 100, 130, 120], [60.0, 200, 460, 440]
    owner = recipe.assign(torch.tensor([small, large]))
    assert set(strides[owner == 0].tolist()) == {8}
    assert set(strides[owner == 1].tolist()) == {32}
    for thing, box in enumerate((small, large)):
        box = torch.tensor(box)
        own, stride = centres[owner == thing], strides[owner == thing][0]
        assert ((own > box[:2]) & (own < box[2:])).all()
        assert ((own - (box[:2] + box[2:]) / 2).abs() <= 1.5 * stride).all()
    # Middles of cells are at 4, 12, 20, ...: columns 108, 116 and 124, rows 108 and 116.
    assert (owner == 0).sum() == 3 * 2


def test_of_two_things_in_one_place_the_smaller_is_answered_for():
    owner = recipe.assign(torch.tensor([[100.0, 100, 160, 160], [110.0, 110, 150, 150]]))
    assert 1 in owner
    middle = 16 * 64 + 16  # the cell of stride 8 at (132, 132)
    assert owner[middle] == 1
