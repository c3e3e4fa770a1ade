"""Things are followed: by a detector that errs as it is told, over toyworld's exact truth."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pgvl_core.grounding import track
from pgvl_core.grounding.segment import load_segmenter
from pgvl_core.grounding.track import (
    Track,
    apart,
    clean,
    distinct,
    follow,
    join,
    mask_box,
    mask_iou,
    view,
)
from pgvl_core.lite import clip
from pgvl_core.toyworld import make_clip
from pgvl_core.toyworld_render import mask_boxes

MASKS = hnp.arrays(bool, st.tuples(st.integers(1, 4), st.just(7), st.just(9)))


@given(MASKS, MASKS)
def test_mask_iou_is_counted_pixel_by_pixel(first, second):
    found = mask_iou(first, second)
    for a, row in zip(first, found, strict=True):
        for b, value in zip(second, row, strict=True):
            assert value == pytest.approx((a & b).sum() / max(1, (a | b).sum()))


@given(MASKS)
def test_apart_shares_no_pixel_and_loses_none(masks):
    found = apart(masks)
    assert found.sum(axis=0).max() <= 1
    assert np.array_equal(found.any(axis=0), masks.any(axis=0))
    assert not (found & ~masks).any()


def test_a_box_is_drawn_as_toyworld_draws_it():
    tracks = make_clip(0, "train", frames=8, fps=8).tracks
    seen = np.stack([t.visible[4] for t in tracks if t.visible[4].any()])
    assert np.array_equal([mask_box(mask) for mask in seen], mask_boxes(seen))


def test_specks_go_and_pieces_stay():
    mask = np.zeros((1, 40, 40), bool)
    mask[0, 2:12, 2:12] = mask[0, 20:26, 20:26] = mask[0, 39, 39] = True
    found = clean(mask)
    assert found.sum() == 100 + 36
    assert not clean(np.eye(3, dtype=bool)[None]).any()


def test_the_surer_of_two_that_are_one_is_kept():
    masks = np.zeros((3, 10, 10), bool)
    masks[0, :8], masks[1, :9], masks[2, 9:] = True, True, True
    assert distinct(masks, np.array([0.5, 0.9, 0.2])) == [1, 2]


# --------------------------------------------------------------------------- with truth to look up
@pytest.fixture(scope="module")
def models():
    return load_segmenter("litesam"), clip.load_trunk()


def detector(made, frames, says=lambda look, tracks: tracks, extra=()):
    """The truth's boxes, as a detector gives them; `says` leaves some out of a look."""
    looks = iter(range(10_000))

    def detect(image, queries, threshold=None):
        look = next(looks)
        frame = frames[min(look * track.EVERY, len(frames) - 1)]
        shown = [t for t in says(look, made.tracks) if t.visibility[frame] > 0.3]
        rows = [(t.boxes[frame], t.category) for t in shown]
        rows += [(np.array(box, float), name) for at, box, name in extra if at == look]
        boxes = torch.tensor(np.array([box for box, _ in rows]).reshape(-1, 4)).float()
        return {
            "scores": torch.linspace(0.9, 0.6, len(rows)),
            "boxes": boxes,
            "labels": torch.zeros(len(rows), dtype=torch.int64),
            "text_labels": [name for _, name in rows],
        }

    return detect


def followed(made, models, **wrong):
    frames = list(range(0, len(made.frames), 2))
    detect = detector(made, frames, **wrong)
    return follow(((f, made.frames[f]) for f in frames), detect, *models, ["object"])


def overlap(found, truth, frames):
    """Mean IoU of a track with an object's truth where at least a third of it is seen."""
    ious = []
    for frame in frames:
        if truth.visibility[frame] > 0.3:
            mask = found.mask(frame)
            true = truth.visible[frame]
            ious.append(0.0 if mask is None else (mask & true).sum() / (mask | true).sum())
    return float(np.mean(ious))


@pytest.fixture(scope="module")
def moving():
    names = ["squirrel", "duck"]
    return make_clip(
        11, "train", frames=32, fps=8, objects=names, shots=1, motions=["bounce", "circle"]
    )


def test_each_thing_has_one_track(moving, models):
    tracks = followed(moving, models)
    assert len(tracks) == 2
    for truth in moving.tracks:
        (mine,) = (t for t in tracks if t.label == truth.category)
        assert overlap(mine, truth, range(0, 32, 2)) > 0.6


def test_a_thing_that_is_seen_is_kept_when_the_detector_misses_it(moving, models):
    """The official evaluation forgets an object at its first miss."""
    tracks = followed(moving, models, says=lambda look, all_: all_ if look < 2 else [])
    assert len(tracks) == 2
    assert all(max(t.frames) >= 24 for t in tracks)


def test_a_thing_found_late_is_followed_back_to_the_look_before(moving, models):
    """Looks are at steps 0, 3, 6, ...: what the first misses is known from step 1 on."""
    tracks = followed(moving, models, says=lambda look, all_: all_ if look else [])
    assert len(tracks) == 2
    for found in tracks:
        assert found.frames == list(range(2, 32, 2))
        (truth,) = (t for t in moving.tracks if t.category == found.label)
        assert overlap(found, truth, [2, 4]) > 0.5


def test_what_comes_after_the_last_but_one_look_is_found_again_at_the_end(moving, models):
    """Of five frames the fourth is looked at, and the last for being the last."""
    five = replace(moving, frames=moving.frames[:10])
    tracks = followed(five, models, says=lambda look, all_: all_ if look else [])
    assert {t.label for t in tracks} == {t.category for t in moving.tracks}
    assert all(t.frames == [2, 4, 6, 8] for t in tracks)


@given(st.permutations(range(6)))
def test_frames_of_a_track_are_in_order_in_whatever_order_they_are_noted(order):
    found = Track(1)
    for frame in order:
        mask = np.zeros((10, 10), bool)
        mask[frame, :3] = True
        found.record(frame, mask)
    assert found.frames == list(range(6))
    assert [box.tolist() for box in found.boxes] == [[0, f, 3, f + 1] for f in range(6)]
    assert all(found.mask(f)[f].sum() == 3 for f in range(6))


def test_one_look_is_not_believed(moving, models):
    height, width = moving.frames.shape[1:3]
    corner = [(1, (0, 0, width / 8, height / 8), "ghost")]
    tracks = followed(moving, models, extra=corner)
    assert "ghost" not in {t.label for t in tracks}
    assert len(tracks) == 2


def test_more_things_than_are_followed_push_none_out(moving, models, monkeypatch):
    """The official evaluation drops all new objects, and with a limit of one its own."""
    monkeypatch.setattr(track, "MOST", 1)
    late = followed(moving, models, says=lambda look, all_: all_[:1] if look < 2 else all_[::-1])
    (kept,) = late
    assert kept.label == moving.tracks[0].category
    assert overlap(kept, moving.tracks[0], range(0, 32, 2)) > 0.5


def test_what_comes_again_after_a_cut_keeps_its_id(moving, models):
    other = make_clip(12, "unseen", frames=16, fps=8, objects=1, shots=1, motions=["still"])
    shots = [followed(made, models) for made in (moving, other, moving)]
    size = [len(each) for each in shots]
    joined: list[Track] = []
    for tracks in shots:
        join(joined, tracks)
    assert size == [2, 1, 2]
    assert [t.id for t in joined] == [1, 2, 3]
    for found in joined[:2]:
        assert found.frames.count(0) == 2  # seen in the first shot and in the third


def test_a_view_greys_what_is_not_the_thing():
    image = np.zeros((40, 40, 3), np.uint8)
    image[...] = (255, 0, 0)
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:30] = True
    shown = view(image, mask)
    assert shown[112, 112].tolist() == [255, 0, 0]
    assert shown[2, 2, 1] > 60


def test_a_track_tells_where_it_is_and_where_it_is_not():
    one = Track(1)
    mask = np.zeros((8, 8), bool)
    mask[2:4, 3:6] = True
    one.record(5, mask)
    one.record(10, mask)
    assert np.array_equal(one.mask(5), mask)
    assert one.box(10).tolist() == [3, 2, 6, 4]
    assert one.mask(7) is None
    one.forget(5)
    assert one.frames == [5]
