import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torchvision.ops import box_iou as torch_iou
from torchvision.ops import masks_to_boxes

from pgvl_core.evaluation.boxes import (
    NOWHERE,
    boundary_f,
    box_iou,
    from_rle,
    j_and_f,
    mask_iou,
    rle_boxes,
    share_above,
    siou,
    siou_official,
    tiou,
    to_rle,
    viou,
)

numbers = st.floats(-1e3, 1e3)
pairs = arrays.arrays(np.float64, (2, 2, 2), elements=numbers)
masks = arrays.arrays(bool, (2, 3, 9, 12))


def two_boxes(corners):
    """Two boxes of any two corners each."""
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


# ----------------------------------------------------------------------------------- in a frame
@pytest.mark.parametrize(
    ("a", "b", "iou"),
    [
        ((0, 0, 4, 2), (2, 0, 6, 2), 4 / 12),  # half over half: a third, not a half
        ((0, 0, 4, 2), (4, 0, 8, 2), 0),  # ends are exclusive: they touch, and share no pixel
        ((0, 0, 4, 4), (1, 1, 3, 3), 4 / 16),  # one within the other: the ratio of areas
        ((0, 0, 4, 4), (0, 0, 4, 4), 1),
        ((0, 0, 4, 4), NOWHERE, 0),
        ((2, 2, 2, 2), (2, 2, 2, 2), 0),  # no area, nothing to share
        ((4, 4, 0, 0), (4, 4, 0, 0), 0),  # ends before it begins: not an area of 16
    ],
)
def test_box_iou_by_hand(a, b, iou):
    assert box_iou(a, b) == pytest.approx(iou)


@given(pairs)
def test_box_iou_is_torchvision_s(corners):
    a, b = two_boxes(corners)
    reference = torch_iou(torch.tensor(a)[None], torch.tensor(b)[None]).nan_to_num().item()
    assert box_iou(a, b) == pytest.approx(reference, abs=1e-9)


@given(pairs)
def test_box_iou_is_symmetric_and_bounded(corners):
    a, b = two_boxes(corners)
    assert 0 <= box_iou(a, b) <= 1
    assert box_iou(a, b) == box_iou(b, a)


@given(pairs, st.floats(0.1, 10), numbers)
def test_box_iou_knows_neither_scale_nor_place(corners, scale, shift):
    a, b = two_boxes(corners.round(1))  # boxes thinner than rounding have no shape to keep
    assert box_iou(a * scale + shift, b * scale + shift) == pytest.approx(box_iou(a, b), abs=1e-6)


def test_box_iou_broadcasts():
    a = np.array([[0, 0, 4, 2], [2, 0, 6, 2], [9, 9, 10, 10]])
    everything = box_iou(a[:, None], a[None])
    assert everything == pytest.approx(np.array([[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 1]]))


@pytest.mark.parametrize("wrong", [(1, 2, 3), 4.0, [[1, 2]]])
def test_what_is_no_box_is_refused(wrong):
    with pytest.raises(ValueError, match=r"\[\.\.\., 4\]"):
        box_iou(wrong, (0, 0, 1, 1))


# ------------------------------------------------------------------------------------- over time
def test_siou_by_hand():
    """Three frames with a true box: exact, nothing predicted, a third; the fourth has no truth."""
    truth = [(0, 0, 4, 2), (0, 0, 4, 2), (0, 0, 4, 2), NOWHERE]
    predicted = [(0, 0, 4, 2), NOWHERE, (2, 0, 6, 2), (0, 0, 4, 2)]
    assert siou(truth, predicted) == pytest.approx((1 + 0 + 1 / 3) / 3)


def test_official_siou_takes_the_best_of_each_frame():
    truth = [(0, 0, 4, 2)] * 3
    shown = [
        [(2, 0, 6, 2), (0, 0, 4, 2)],  # the track is a third, another box is exact
        [],
        [(2, 0, 6, 2)],
    ]
    assert siou_official(truth, shown) == pytest.approx((1 + 0 + 1 / 3) / 3)
    assert siou(truth, [shown[0][0], NOWHERE, shown[2][0]]) == pytest.approx(2 / 9)


@given(arrays.arrays(np.float64, (3, 4, 2, 2), elements=numbers))
def test_official_siou_is_never_below_the_track_s(corners):
    """Three frames, the first box of each true, the second the track's, two others shown."""
    tubes = np.concatenate([corners.min(axis=2), corners.max(axis=2)], axis=2)
    assert siou_official(tubes[:, 0], tubes[:, 1:]) >= siou(tubes[:, 0], tubes[:, 1])


def test_tiou_by_hand():
    assert tiou((0, 10), (5, 15)) == 5 / 15
    assert tiou((0, 10), (10, 20)) == 0  # half-open: they share no frame
    assert tiou((0, 10), (12, 20)) == 0
    assert tiou((2.0, 4.0), (1.0, 5.0)) == 0.5


spans = st.tuples(st.integers(0, 30), st.integers(1, 30)).map(lambda s: (s[0], s[0] + s[1]))


@given(spans, spans)
def test_tiou_is_what_sets_of_frames_say(a, b):
    frames_a, frames_b = set(range(*a)), set(range(*b))
    assert tiou(a, b) == len(frames_a & frames_b) / len(frames_a | frames_b)


@given(spans, spans)
def test_viou_of_one_unchanging_box_is_tiou(a, b):
    tubes = np.full((2, 70, 4), np.nan)
    tubes[0, slice(*a)] = tubes[1, slice(*b)] = (3, 4, 5, 6)
    assert viou(*tubes) == pytest.approx(tiou(a, b))


def test_viou_by_hand():
    """True in frames 0 to 2, predicted in 1 to 4: two shared frames of five, worth 1 and 1/3."""
    box, other = (0, 0, 4, 2), (2, 0, 6, 2)
    truth = [box, box, box, NOWHERE, NOWHERE, NOWHERE]
    predicted = [NOWHERE, box, other, box, box, NOWHERE]
    assert viou(truth, predicted) == pytest.approx((1 + 1 / 3) / 5)


def test_a_threshold_is_passed_not_reached():
    assert share_above([0.3, 0.5, 0.51, 0.9], 0.5) == 0.5
    assert share_above([0.5], 0.5) == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda: siou([NOWHERE], [(0, 0, 1, 1)]),
        lambda: viou([NOWHERE], [NOWHERE]),
        lambda: siou([(0, 0, 1, 1)], [(0, 0, 1, 1)] * 2),
        lambda: siou((0, 0, 1, 1), (0, 0, 1, 1)),
        lambda: tiou((3, 3), (0, 1)),
        lambda: share_above([], 0.5),
        lambda: siou_official([(0, 0, 1, 1)], []),
    ],
)
def test_what_has_no_answer_is_refused(call):
    with pytest.raises(ValueError):  # noqa: PT011  each says something else
        call()


# ------------------------------------------------------------------------------------------ masks
def square(y, x, side=4, height=9, width=12):
    mask = np.zeros((1, height, width), bool)
    mask[0, y : y + side, x : x + side] = True
    return mask


@given(masks)
def test_mask_iou_is_that_of_sets_of_pixels(both):
    a, b = both
    expected = [
        len(p & q) / len(p | q) if p | q else 1 for p, q in zip(*map(pixels, both), strict=True)
    ]
    assert mask_iou(to_rle(a), to_rle(b)).tolist() == pytest.approx(expected)
    assert mask_iou(to_rle(b), to_rle(a)).tolist() == pytest.approx(expected)


def pixels(frames):
    return [set(zip(*np.nonzero(mask), strict=True)) for mask in frames]


@given(masks)
def test_rle_keeps_masks_and_their_boxes(both):
    frames = both[0]
    encoded = to_rle(frames)
    assert (from_rle(encoded) == frames).all()
    for mask, box in zip(frames, rle_boxes(encoded), strict=True):
        if mask.any():
            inclusive = masks_to_boxes(torch.from_numpy(mask[None]))[0].numpy()
            assert box.tolist() == np.add(inclusive, (0, 0, 1, 1)).tolist()
        else:
            assert np.isnan(box).all()


def test_boundary_f_by_hand():
    """The diagonal of 9 x 12 is 15, of which 0.008 round up to one pixel.

    Moved by one pixel, every pixel of the outline has one of the other's beside it; moved by
    seven, the two are strangers. Grown by two on every side, a ring of 12 pixels becomes one of 28,
    of which the middle four of each side are opposite the small one and two pixels from it.
    """
    start = to_rle(square(2, 1))
    assert boundary_f(start, start) == [1]
    assert boundary_f(start, to_rle(square(2, 2))) == [1]
    assert boundary_f(start, to_rle(square(2, 8))) == [0]
    small, large = to_rle(square(3, 4, side=3)), to_rle(square(1, 2, side=7))
    assert boundary_f(small, large) == [0]
    precision, recall = 1, 16 / 28
    expected = 2 * precision * recall / (precision + recall)
    assert boundary_f(small, large, tolerance=2 / 15) == pytest.approx([expected])
    nothing = to_rle(np.zeros((1, 9, 12), bool))
    assert boundary_f(nothing, nothing) == [1]
    assert boundary_f(start, nothing) == [0]


@given(masks, st.sampled_from([0.008, 0.1, 0.2]))
def test_boundary_f_is_its_definition(both, tolerance):
    """Pixel by pixel: who differs from the neighbour right, below or across, and who is near."""

    def outline(mask):
        height, width = mask.shape
        found = []
        for y, x in np.ndindex(height, width):
            ahead = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            ahead = [(min(v, height - 1), min(u, width - 1)) for v, u in ahead]
            if any(mask[y, x] != mask[v, u] for v, u in ahead):
                found.append((y, x))
        return found

    def near(points, others):
        reach = np.ceil(tolerance * 15)
        return np.mean([min(np.hypot(y - v, x - u) for v, u in others) <= reach for y, x in points])

    values = boundary_f(*map(to_rle, both), tolerance)
    for a, b, value in zip(*both, values, strict=True):
        first, second = outline(a), outline(b)
        if first and second:
            p, q = near(first, second), near(second, first)
            assert value == pytest.approx(2 * p * q / (p + q) if p + q else 0)
        else:
            assert value == (not first and not second)


def test_j_and_f_are_means_over_frames():
    """One frame exact, one moved by 8 of 12 pixels: J is 1 and 0, F likewise."""
    truth = to_rle(np.concatenate([square(2, 0), square(2, 0)]))
    predicted = to_rle(np.concatenate([square(2, 0), square(2, 8)]))
    assert j_and_f(truth, predicted) == (0.5, 0.5)


@pytest.mark.parametrize("measure", [mask_iou, boundary_f])
def test_masks_of_two_sizes_are_refused(measure):
    with pytest.raises(ValueError, match="one size"):
        measure(to_rle(square(0, 0)), to_rle(square(0, 0, height=12, width=9)))
    with pytest.raises(ValueError, match="shorter"):
        measure(to_rle(square(0, 0)), [])
