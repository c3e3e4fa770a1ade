import numpy as np
import pytest

from pgvl_core import toyworld_motion
from pgvl_core.toyworld import Track, make_clip
from pgvl_core.toyworld_motion import bounces, questions, speed


def track(boxes, motion, side=100):
    """A track of given boxes, all of it seen."""
    boxes = np.array(boxes, float)
    masks = np.zeros((len(boxes), side, side), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, np.nan_to_num(boxes).astype(int), strict=True):
        mask[y1:y2, x1:x2] = True
    seen = (~np.isnan(boxes[:, 0])).astype(float)
    return Track(0, "dog", None, motion, 0, 0, masks, masks, boxes, seen)


def moving(step, frames=16, start=10):
    return [(start + step * t, 40, start + 20 + step * t, 60) for t in range(frames)]


def test_speed_by_hand():
    """Three pixels a frame for 16 frames: 48 of 100."""
    assert speed(track(moving(3), "right")) == pytest.approx(0.48)
    assert speed(track(moving(-3, start=70), "left"), 0, 8) == pytest.approx(0.24)


def test_speed_of_what_comes_in_and_waits():
    """Half of it is outside at first, and before that all of it: the speed is that inside."""
    boxes = np.array(moving(3, start=-30), float)
    boxes[:, [0, 2]] = boxes[:, [0, 2]].clip(0, 100)
    boxes[boxes[:, 2] <= 0] = np.nan
    assert speed(track(boxes, "right")) == pytest.approx(0.48)


def test_speed_of_a_clip_slowed_down():
    """A quarter of the frames, shown for as long, has a quarter of the speed."""
    clip = make_clip(3, motions=["left"], shots=1)
    whole, quarter = speed(clip.tracks[0]), speed(clip.tracks[0], 24, 40)
    assert quarter == pytest.approx(whole / 4, rel=0.2)


def test_speed_of_what_is_not_seen_is_unknown():
    assert np.isnan(speed(track(np.full((16, 4), np.nan), "up")))


@pytest.mark.parametrize("times", [2, 3, 4])
def test_bounces_of_a_known_path(times):
    bottoms = 90 - 30 * np.abs(np.sin(np.pi * times * (np.arange(64) + 0.5) / 64))
    boxes = [(40, bottom - 20, 60, bottom) for bottom in bottoms.round()]
    assert bounces(track(boxes, "bounce")) == times


def test_other_motions_are_refused():
    with pytest.raises(ValueError, match="circle"):
        speed(track(moving(3), "circle"))
    with pytest.raises(ValueError, match="up"):
        bounces(track(moving(3), "up"))


@pytest.mark.parametrize(("step", "answer"), [(1, "Slowly."), (3, None), (5, "Fast.")])
def test_only_a_plain_speed_is_asked_for(step, answer):
    clip = make_clip(3, motions=["right"], shots=1, frames=16)
    clip.tracks[:] = [track(moving(step), "right")]
    found = questions(clip)
    assert [each.answer for each in found] == [answer] * (answer is not None)
    assert all(each.question == "How fast does the dog move?" for each in found)


def test_questions_of_a_clip():
    clip = make_clip(1, motions=["bounce"], shots=1)
    (asked,) = questions(clip)
    name = clip.tracks[0].category
    assert asked.question == f"How many times does the {name} bounce?"
    assert asked.answer in ("Two.", "Three.", "Four.")
    assert not questions(clip, 10, 40)  # of a part, the times cannot be told
    assert not questions(make_clip(1, objects=2))
    assert not questions(make_clip(1, motions=["still"], shots=1))
    assert toyworld_motion.SLOW < toyworld_motion.FAST
