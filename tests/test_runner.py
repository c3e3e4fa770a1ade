"""The runner, on samples of a few frames with ten-pixel boxes."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pgvl_core.evaluation import baselines
from pgvl_core.evaluation.boxes import NOWHERE
from pgvl_core.evaluation.runner import run, score
from pgvl_core.evaluation.samples import Sample

TRUE = (10.0, 10.0, 20.0, 20.0)
HALF = (10.0, 10.0, 20.0, 15.0)  # within it, half of it: IoU 1/2
SETUP = {"profile": "pocket", "threshold": 0.35}


def sample(number, folder=Path(), video=None, frames=(0, 3, 6), box=TRUE, **about):
    return Sample(
        id=str(number),
        video=folder / f"{video or number}.mp4",
        text="what is there?",
        kind=about.pop("kind", "interrogative"),
        moment=(frames[0], frames[-1] + 1),
        frames=np.array(frames),
        boxes=np.array([box] * len(frames)),
        fps=15.0,
        size=(40, 50),
        **about,
    )


@pytest.fixture
def samples(tmp_path):
    """Ten, of five videos that are there."""
    made = [sample(i, tmp_path, video=f"video{i // 2}") for i in range(10)]
    for each in made:
        each.video.touch()
    return made


class Counting:
    """Grounds with the true box, or half of it for odd ids; knows what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, each):
        self.asked.append(each.id)
        return dict.fromkeys(each.frames.tolist(), HALF if int(each.id) % 2 else TRUE)


# ------------------------------------------------------------------------------------------ score
def test_score_by_hand():
    """Exact; half, with the exact box beside it; nothing. A box at frame 4 is not looked at."""
    result = score(sample(0), {0: TRUE, 3: [HALF, TRUE], 4: TRUE})
    assert result.ious == pytest.approx([1, 0.5, 0])
    assert result.siou == pytest.approx(1.5 / 3)
    assert result.siou_official == pytest.approx(2 / 3)
    assert result.boxes == [list(TRUE), list(HALF), None]


def test_a_track_may_be_absent_where_other_things_are_shown():
    result = score(sample(0), {0: [NOWHERE, TRUE]})
    assert (result.siou, result.siou_official) == (0, pytest.approx(1 / 3))
    assert result.boxes == [None] * 3


def test_no_prediction_is_a_zero():
    result = score(sample(0), {})
    assert (result.siou, result.siou_official, result.boxes) == (0, 0, [None] * 3)


def test_boxes_at_none_of_the_frames_are_a_mistake():
    with pytest.raises(ValueError, match=r"sample\.frames: \[0, 3, 6\]"):
        score(sample(0), {1: TRUE, 2: TRUE})


# -------------------------------------------------------------------------------------------- run
@pytest.mark.parametrize("workers", [1, 3])
def test_run_measures_every_sample_in_order(samples, tmp_path, workers):
    done = run(samples, Counting(), tmp_path / "out.jsonl", SETUP, workers=workers)
    assert (
        [result.id for result in done.results] == [s.id for s in done.samples] == list("0123456789")
    )
    assert [result.siou for result in done.results] == pytest.approx([1, 0.5] * 5)
    assert "10 samples, sIoU 0.750" in repr(done)


def test_what_is_done_is_not_done_again(samples, tmp_path):
    out, first, second = tmp_path / "out.jsonl", Counting(), Counting()
    before = run(samples, first, out, SETUP, limit=4)
    assert len(first.asked) == len(before.results) == 4
    after = run(samples, second, out, SETUP)
    assert sorted(first.asked + second.asked) == list("0123456789")
    assert {r.id: r for r in before.results}.items() <= {r.id: r for r in after.results}.items()
    assert run(samples, None, out, SETUP).results == after.results


def test_a_limit_is_drawn_from_the_whole_set(samples, tmp_path):
    many = [replace(samples[i % 10], id=str(i)) for i in range(200)]
    chosen = run(many, Counting(), tmp_path / "out.jsonl", SETUP, limit=40).samples
    numbers = [int(each.id) for each in chosen]
    assert numbers == sorted(set(numbers))
    assert min(numbers) < 50 < 150 < max(numbers)


def test_a_killed_run_goes_on_where_it_was(samples, tmp_path):
    """A process that kills itself at its sixth sample, after five lines were seen in the file."""
    out = tmp_path / "out.jsonl"
    program = f"""
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_runner import SETUP, Counting, sample
from pgvl_core.evaluation.runner import run

out, counting = Path({str(out)!r}), Counting()

def ground(each):
    if len(counting.asked) == 5:
        while out.read_bytes().count(b"\\n") < 6:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return counting(each)

run([sample(i, out.parent, video=f"video{{i // 2}}") for i in range(10)], ground, out, SETUP)
"""
    killed = subprocess.run([sys.executable, "-c", program], check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    with out.open("ab") as lines:
        lines.write(b'{"id": "7", "siou": 0.')  # as if killed in the middle of a line
    rest = Counting()
    resumed = run(samples, rest, out, SETUP)
    assert len(rest.asked) == 5
    assert resumed.results == run(samples, Counting(), tmp_path / "anew.jsonl", SETUP).results
    assert len([json.loads(line) for line in out.read_text().splitlines()]) == 11


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"setup": SETUP | {"threshold": 0.5}}, "threshold was 0.35, is 0.5"),
        ({"setup": SETUP | {"seed": 1}}, "seed was None, is 1"),
        ({"setup": {"profile": "pocket"}}, "threshold was 0.35, is None"),
        ({"box": HALF}, "samples was"),
    ],
)
def test_another_setup_is_refused_and_nothing_is_lost(samples, tmp_path, change, words):
    out = tmp_path / "out.jsonl"
    run(samples[:5], Counting(), out, SETUP)
    content = out.read_bytes()
    others = samples[:5]
    if "box" in change:
        others = [replace(each, boxes=np.array([change["box"]] * 3)) for each in others]
    with pytest.raises(ValueError, match=words):
        run(others, Counting(), out, change.get("setup", SETUP))
    assert out.read_bytes() == content


@pytest.mark.parametrize("content", ["my notes", "my notes\nof today\n", '{"a": 1}\n', ""])
def test_a_file_of_something_else_is_refused_and_left_alone(samples, tmp_path, content):
    out = tmp_path / "notes.txt"
    out.write_text(content)
    with pytest.raises(ValueError, match="not a file of results"):
        run(samples, Counting(), out, SETUP)
    assert out.read_text() == content


def test_videos_may_move_to_another_folder(samples, tmp_path):
    out = tmp_path / "out.jsonl"
    run(samples, Counting(), out, SETUP)
    (tmp_path / "moved").mkdir()
    for each in {s.video for s in samples}:
        os.rename(each, tmp_path / "moved" / each.name)
    moved = [replace(s, video=tmp_path / "moved" / s.video.name) for s in samples]
    assert len(run(moved, None, out, SETUP).results) == 10


def test_missing_videos_are_listed_and_their_samples_not_scored(samples, tmp_path):
    samples[2].video.unlink()
    counting = Counting()
    with pytest.warns(UserWarning, match=r"videos: 1 .*video1\.mp4.* 2 of 10 samples"):
        done = run(samples, counting, tmp_path / "out.jsonl", SETUP)
    assert done.missing == [samples[2].video]
    assert sorted(counting.asked) == list("01456789")
    assert "missing videos: 1" in repr(done)
    assert done.summary()[0]["samples"] == 8


def test_what_cannot_be_run_is_refused(samples, tmp_path):
    out = tmp_path / "out.jsonl"
    with pytest.raises(ValueError, match="same id"):
        run([samples[0], samples[0]], Counting(), out, SETUP)
    with pytest.raises(ValueError, match="limit"):
        run(samples, Counting(), out, SETUP, limit=0)
    with pytest.raises(ValueError, match="none of 1 videos"):
        run([sample(0, tmp_path / "nowhere")], Counting(), out, SETUP)
    assert not out.exists()


def test_a_sample_that_cannot_be_grounded_counts_as_nothing_found(samples, tmp_path):
    def ground(each):
        if each.id == "3":
            raise ValueError("video1.mp4: cut short")
        return baselines.true_box(each)

    done = run(samples, ground, tmp_path / "out.jsonl", SETUP)
    assert done.summary()[0]["sIoU"] == pytest.approx(0.9)
    (worst,) = done.failures(1)
    assert (worst.sample.id, worst.result.error) == ("3", "video1.mp4: cut short")
    assert worst.predicted is None


def test_a_mistake_in_the_program_ends_the_run_and_keeps_what_is_done(samples, tmp_path):
    out, counting = tmp_path / "out.jsonl", Counting()

    def ground(each):
        if each.id == "6":
            raise KeyError("box")
        return counting(each)

    with pytest.raises(KeyError):
        run(samples, ground, out, SETUP)
    rest = Counting()
    run(samples, rest, out, SETUP)
    kept = [json.loads(line)["id"] for line in out.read_text().splitlines()[1:]]
    assert sorted(kept) == list("0123456789")
    assert "6" in rest.asked


# ---------------------------------------------------------------------------------- what comes out
def test_summary_by_hand(tmp_path):
    """Three samples of two videos, worth 1, 1/2 and 1/2 (in frames of 40 x 50 pixels)."""
    chosen = [
        sample(0, tmp_path, "a", category="dog", objects=2),  # 100 of 2000 pixels: medium
        sample(1, tmp_path, "a", category="dog", objects=2, kind="declarative"),
        sample(3, tmp_path, "b", category="cat", objects=3, box=(10.0, 10.0, 15.0, 20.0)),  # small
    ]
    for each in chosen:
        each.video.touch()
    answers = {"0": TRUE, "1": HALF, "3": [HALF, (10.0, 10.0, 15.0, 20.0)]}
    done = run(
        chosen, lambda s: dict.fromkeys(s.frames.tolist(), answers[s.id]), tmp_path / "o", SETUP
    )
    rows = {(row["by"], row["value"]): row for row in done.summary()}
    third = 25 / 75  # HALF and the small box share a quarter of TRUE, of three quarters
    measured = {key: (row["samples"], row["videos"], row["sIoU"]) for key, row in rows.items()}
    expected = {
        ("all", ""): (3, 2, (1 + 0.5 + third) / 3),
        ("question type", "interrogative"): (2, 2, (1 + third) / 2),
        ("question type", "declarative"): (1, 1, 0.5),
        ("category", "dog"): (2, 1, 0.75),
        ("category", "cat"): (1, 1, third),
        ("object size", "medium"): (2, 1, 0.75),
        ("object size", "small"): (1, 1, third),
        ("objects", "2"): (2, 1, 0.75),
        ("objects", "3"): (1, 1, third),
    }
    assert list(measured) == list(expected)
    for key, row in expected.items():
        assert measured[key] == pytest.approx(row), key
    overall = rows["all", ""]
    assert overall["official"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert overall["above 0.5"] == pytest.approx(1 / 3)  # one half is not above one half
    assert overall["low"] == pytest.approx(third)  # both draws may be of the worse video
    assert overall["high"] == pytest.approx(0.75)


def test_failures_are_the_worst_first_each_at_its_worst_frame(samples, tmp_path):
    def ground(each):
        bad = int(each.id)
        return {0: TRUE, 3: NOWHERE if bad == 4 else HALF, 6: HALF if bad in (4, 8) else TRUE}

    done = run(samples, ground, tmp_path / "out.jsonl", SETUP)
    first, second, third = done.failures(3)
    assert (first.sample.id, first.frame, first.predicted) == ("4", 3, None)
    assert (second.sample.id, second.frame, second.predicted) == ("8", 3, list(HALF))
    assert first.truth == list(TRUE)
    assert third.result.siou == pytest.approx(2.5 / 3)


# -------------------------------------------------------------------------------------- baselines
def test_baselines_by_hand():
    """A thing of 10 x 10 pixels in a frame of 40 x 50; the middle is from (10, 12.5), 20 x 25."""
    one = sample(0)
    measured = {name: score(one, ground(one)) for name, ground in baselines.BASELINES.items()}
    assert measured["true box"].siou == 1
    assert measured["whole frame"].siou == pytest.approx(100 / 2000)
    assert measured["centre box"].siou == pytest.approx(75 / (100 + 500 - 75))
