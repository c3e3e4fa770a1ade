"""The boxes drawn by hand on the sample videos: read as VidSTG, and possible as what they are."""

import json
from itertools import pairwise

import pytest

from pgvl_core import assets
from pgvl_core.evaluation.boxes import box_iou
from pgvl_core.evaluation.grounding_sets import vidstg
from pgvl_core.evaluation.runner import score
from pgvl_core.video import Video

PATH = assets.DATA / "benchmarks" / "real_boxes.json"
CONTENT = json.loads(PATH.read_text(encoding="utf-8"))
ITEMS = CONTENT["videos"]
USES = ("thresholds", "report")
# First frames of the shots of bikes.mp4: where its pictures jump (test_shots finds the same).
CUTS = [0, 30, 76, 137, 187, 242, 250]
STANDING = ("waits on the left", "under the cyclist", "green car", "on the fence", "on the wall")


def track(item):
    """Frames and boxes of what an item's sentence is about."""
    boxes = CONTENT["trajectories"][item["original_video_id"]][str(item["target_id"])]
    return {int(frame): entry["bbox"] for frame, entry in boxes.items()}


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return vidstg(PATH, tmp_path_factory.mktemp("no videos here"))


def test_the_reader_gives_every_drawn_box_as_it_is_drawn(samples):
    """Corners are told from the boxes alone, and no labelled frame falls between the reader's."""
    assert [sample.id for sample in samples] == [str(item["video_id"]) for item in ITEMS]
    for sample, item in zip(samples, ITEMS, strict=True):
        assert sample.frames.tolist() == sorted(track(item))
        assert sample.boxes.tolist() == [track(item)[frame] for frame in sorted(track(item))]
        assert sample.video.name == item["video_path"]


def test_the_truth_scores_one(samples):
    for sample in samples:
        assert score(sample, dict(zip(sample.frames.tolist(), sample.boxes, strict=True))).siou == 1


@pytest.mark.parametrize("name", ["bikes", "bigbuckbunny"])
def test_items_say_what_the_videos_are(name):
    video = Video(assets.sample_video(name))
    about = (video.path.name, video.width, video.height, video.frame_count, video.fps)
    keys = ("video_path", "width", "height", "frame_count", "fps")
    found = {tuple(i[k] for k in keys) for i in ITEMS if i["original_video_id"] == name}
    assert found == {about}


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item["caption"])
def test_boxes_lie_in_their_frames_and_moments(item):
    for frame, (x1, y1, x2, y2) in track(item).items():
        assert 0 <= x1 < x2 <= item["width"]
        assert 0 <= y1 < y2 <= item["height"]
        assert item["start_frame"] <= item["tube_start_frame"] <= frame < item["tube_end_frame"]
    assert item["tube_end_frame"] <= item["end_frame"] <= item["frame_count"]


def test_a_shot_is_used_for_one_thing_and_both_uses_have_the_same_things():
    shots = {}
    for item in ITEMS:
        span = (item["start_frame"], item["end_frame"])
        shots.setdefault((item["original_video_id"], span), set()).add(item["use"])
        if item["original_video_id"] == "bikes":
            assert span in set(pairwise(CUTS))
    assert all(len(uses) == 1 for uses in shots.values())
    for use in USES:
        found = {item["category"] for item in ITEMS if item["use"] == use}
        assert {"person", "bicycle", "car"} <= found
    assert {item["use"] for item in ITEMS} == set(USES)


def test_each_thing_is_asked_for_and_stated_once_under_one_name():
    things = {}
    for item in ITEMS:
        things.setdefault((item["original_video_id"], item["target_id"]), []).append(item)
    for pair in things.values():
        assert sorted(item["qtype"] for item in pair) == ["declarative", "interrogative"]
        assert len({(item["category"], item["use"], item["start_frame"]) for item in pair}) == 1
    drawn = {(v, int(t)) for v, tracks in CONTENT["trajectories"].items() for t in tracks}
    assert set(things) == drawn
    sentences = [item["caption"] for item in ITEMS]
    assert len(set(sentences)) == len(sentences)


@pytest.mark.parametrize(
    "item", [i for i in ITEMS if i["qtype"] == "declarative"], ids=lambda item: item["caption"]
)
def test_neighbouring_boxes_of_a_thing_overlap(item):
    """A thing that passes still overlaps itself; one that stands hardly moves (the camera does)."""
    boxes = [box for _, box in sorted(track(item).items())]
    least = 0.6 if any(words in item["caption"] for words in STANDING) else 0.0
    for before, after in pairwise(boxes):
        assert box_iou(before, after) > least
