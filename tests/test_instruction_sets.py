"""The readers of instructional sets, on invented records in their official forms."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

from pgvl_core.assets import DATA
from pgvl_core.evaluation import boxes, runner
from pgvl_core.evaluation.baselines import BASELINES
from pgvl_core.evaluation.instruction_sets import crosstask, youcook2
from pgvl_core.evaluation.samples import AnnotationError
from pgvl_core.video import Video, write_video

FORMS = DATA / "annotations"
NONE = FORMS / "no videos here"
BOXES = FORMS / "yc2_bb.json"
TASKS = FORMS / "crosstask" / "tasks_primary.txt"
STEPS = FORMS / "crosstask" / "annotations"


@dataclass
class Film:
    """Twelve seconds at ten frames a second, of twice and of half the annotations' size."""

    path: object
    fps: float = 10.0
    width: int = 1440
    height: int = 202
    timestamps: np.ndarray = None

    def __post_init__(self):
        self.timestamps = np.arange(120) / 10


@pytest.fixture
def folder(tmp_path):
    """A folder with a video that was downloaded as something else than an MP4."""
    (tmp_path / "validation" / "113").mkdir(parents=True)
    (tmp_path / "validation" / "113" / "inventedYC1.mkv").touch()
    return tmp_path


# --------------------------------------------------------------------------------------- YouCook2
def test_youcook2_by_hand(folder):
    """Seconds 2 and 3 are frames 20 and 30; 72 of 720 pixels are 144 of 1440."""
    garlic, pan = youcook2(BOXES, folder, Film)
    assert (garlic.id, pan.id) == ("inventedYC1/0/0", "inventedYC1/0/1")
    assert garlic.video == folder / "validation" / "113" / "inventedYC1.mkv"
    assert (garlic.text, garlic.category) == ("where is the garlic?", "garlic")
    assert (garlic.kind, garlic.moment, garlic.fps) == ("interrogative", (20, 60), 10)
    assert (garlic.size, garlic.objects) == ((1440, 202), 2)
    assert garlic.frames.tolist() == [20, 30]  # then it is outside, and then occluded
    tall = 202 / 405
    first, second = [144, 40.5 * tall, 288, 81 * tall], [164, 40.5 * tall, 308, 81 * tall]
    np.testing.assert_allclose(garlic.boxes, [first, second])
    assert pan.frames.tolist() == [20, 30, 40, 50]
    np.testing.assert_allclose(pan.boxes, [[720, 101, 1440, 202]] * 4)


def test_youcook2_without_the_video_is_read_and_not_scored():
    garlic, pan = youcook2(BOXES, NONE, Film)
    assert garlic.frames.tolist() == [2, 3]
    assert (pan.moment, pan.fps, pan.size) == ((2, 6), 1, (720, 405))
    assert garlic.boxes[0].tolist() == [72, 40.5, 144, 81]
    assert not garlic.video.exists()


def test_first_release_takes_the_times_from_youcook2_itself(folder, tmp_path):
    content = json.loads(BOXES.read_text())
    for segment in content["database"]["inventedYC1"]["segments"].values():
        del segment["segment"]
    old = tmp_path / "old.json"
    old.write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match=r"old\.json: inventedYC1, segment 0 .* times="):
        youcook2(old, folder, Film)
    for a, b in zip(
        youcook2(old, folder, Film, FORMS / "youcookii.json"),
        youcook2(BOXES, folder, Film),
        strict=True,
    ):
        assert (a.id, a.moment, a.frames.tolist()) == (b.id, b.moment, b.frames.tolist())


def test_runner_takes_youcook2(tmp_path):
    """On a real file: the truth has an IoU of 1, and the box in the middle its geometry's."""
    video = tmp_path / "inventedYC1.mp4"
    write_video(video, np.zeros((60, 90, 160, 3), np.uint8), fps=5)
    samples = youcook2(BOXES, tmp_path, Video)
    assert {sample.size for sample in samples} == {(160, 90)}
    for sample in samples:
        assert (Video(video).timestamps[sample.frames] % 1 < 0.01).all()
    truth = runner.run(samples, BASELINES["true box"], tmp_path / "truth.jsonl", {})
    assert [result.siou for result in truth.results] == [1, 1]
    whole = runner.run(samples, BASELINES["whole frame"], tmp_path / "whole.jsonl", {})
    assert whole.results[1].siou == pytest.approx(0.25)  # the pan is a quarter of the frame


def harmed(change):
    content = json.loads(BOXES.read_text())
    about = content["database"]["inventedYC1"]
    change(about, about["segments"]["0"]["objects"][0])
    return content


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({}, "the file has no 'database'"),
        ([], "the file is malformed"),
        (
            harmed(lambda about, thing: about.pop("rwidth")),
            "inventedYC1, segment 0 has no 'rwidth'",
        ),
        (harmed(lambda about, thing: about.pop("segments")), "inventedYC1 has no 'segments'"),
        (harmed(lambda about, thing: thing.pop("label")), "segment 0 has no 'label'"),
        (harmed(lambda about, thing: thing["boxes"][0].pop("xbr")), "segment 0 has no 'xbr'"),
        (
            harmed(lambda about, thing: thing["boxes"][0].update(xbr=2)),
            "segment 0 is malformed: 'garlic' has a box that ends before it begins",
        ),
        (
            harmed(lambda about, thing: about["segments"]["0"].update(segment=[6, 2])),
            "segment 0 is malformed: it lasts from 6.0 to 2.0 s",
        ),
        (
            harmed(lambda about, thing: about["segments"].pop("0")),
            "no box in it; the test split's are not published",
        ),
    ],
)
def test_what_is_wrong_with_the_boxes_is_told(tmp_path, content, told):
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match=told) as error:
        youcook2(path, NONE, Film)
    assert str(error.value).startswith(str(path))


# -------------------------------------------------------------------------------------- CrossTask
def test_crosstask_by_hand(tmp_path):
    (tmp_path / "in_ventedA.webm").touch()
    first, third, again, pour = crosstask(TASKS, STEPS, tmp_path)
    assert first.id == "900001/in_ventedA/0"
    assert first.video == tmp_path / "in_ventedA.webm"
    assert (first.task, first.text, first.number) == ("Repair a Paper Boat", "unfold paper", 0)
    assert (third.text, third.number, third.span) == ("float boat", 2, (9, 12))
    assert (again.id, again.text) == ("900001/in_ventedA/2", "unfold paper")
    assert (pour.task, pour.text, pour.video.exists()) == ("Water a Cactus", "pour water", False)
    assert boxes.tiou(first.span, (4.375, 8.125)) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("name", "lines", "told"),
    [
        ("900001_a.csv", "4,1,2", r"a\.csv: line 1 is malformed: 4,1,2 is no step from 1 to 3"),
        ("900001_a.csv", "1,1,2\n0,3,4", "line 2 is malformed: 0,3,4 is no step"),
        ("900001_a.csv", "1,5,2", "1,5,2 is no step from 1 to 3, start and end"),
        ("900001_a.csv", "1,5", "line 1 is malformed"),
        ("900001_a.csv", "1,5,6,7", "line 1 is malformed: 1,5,6,7 is no step"),
        ("900001_a.csv", "unfold,5,6", "line 1 is malformed"),
        ("900003_a.csv", "1,5,6", r"the file's name \(task 900003\) has no '900003'"),
        ("steps.txt", "1,5,6", "no TASK_VIDEO.csv with steps; is it the folder"),
    ],
)
def test_what_is_wrong_with_the_steps_is_told(tmp_path, name, lines, told):
    (tmp_path / name).write_text(lines)
    with pytest.raises(AnnotationError, match=told):
        crosstask(TASKS, tmp_path, NONE)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("3\nunfold", "4\nunfold"), "the block at line 1 is malformed: 3 steps, where it says 4"),
        (("\n\n900002", "\n900002"), "the block at line 7 is malformed"),
        (("2\nfill", "two\nfill"), "the block at line 7 is malformed"),
    ],
)
def test_what_is_wrong_with_the_tasks_is_told(tmp_path, change, told):
    path = tmp_path / "tasks.txt"
    path.write_text(TASKS.read_text().replace(*change))
    with pytest.raises(AnnotationError, match=told) as error:
        crosstask(path, STEPS, NONE)
    assert str(error.value).startswith(str(path))
    with pytest.raises(AnnotationError, match="not a readable file of tasks"):
        crosstask(tmp_path / "nowhere.txt", STEPS, NONE)
