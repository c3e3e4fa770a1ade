"""Readers, on invented records in each official form and on toyworld's exact truth."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgvl_core.assets import DATA
from pgvl_core.evaluation.grounding_sets import hcstvg, vidstg
from pgvl_core.evaluation.samples import AnnotationError, schedule
from pgvl_core.toyworld import make_clip
from pgvl_core.toyworld_formats import hcstvg as hcstvg_entry
from pgvl_core.toyworld_formats import vidor, vidstg_raw
from pgvl_core.toyworld_formats import vidstg as vidstg_items

FORMS = DATA / "annotations"
NONE = FORMS / "no videos here"


def load(name):
    return json.loads((FORMS / name).read_text(encoding="utf-8"))


@pytest.fixture
def written(tmp_path):
    """Writes a content as JSON and gives its path."""

    def write(content, name="annotations.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    return write


# --------------------------------------------------------------------------------------- schedule
def test_schedule_by_hand():
    """At 10 frames a second every other frame begins a fifth of a second; the first counts too."""
    assert schedule(5, 13, fps=10).tolist() == [5, 6, 8, 10, 12]
    assert schedule(0, 4, fps=2).tolist() == [0, 1, 2, 3]  # slower than the clock: every frame
    assert schedule(7, 8, fps=30).tolist() == [7]
    assert schedule(0, 12, fps=5, most=4).tolist() == [0, 3, 6, 9]


@given(
    begin=st.integers(0, 2000),
    length=st.integers(1, 2000),
    fps=st.sampled_from([3.0, 10.0, 12.5, 24.0, 29.97002997002997, 60.0]),
)
def test_schedule_is_the_walk_that_the_official_code_takes(begin, length, fps):
    """Frame by frame: one that is in a later fifth of a second than the last one kept is kept."""
    kept = [begin]
    for frame in range(begin, begin + length):
        if int(frame * (5 / fps)) > int(kept[-1] * (5 / fps)):
            kept.append(frame)
    found = schedule(begin, begin + length, fps)
    if len(kept) <= 100:
        assert found.tolist() == kept
    else:
        assert len(found) == 100
        assert set(found.tolist()) <= set(kept)
        places = np.searchsorted(kept, found)
        assert set(np.diff(places)) <= {len(kept) // 100, len(kept) // 100 + 1}


@pytest.mark.parametrize("moment", [(3, 3), (5, 2), (-1, 4)])
def test_an_empty_moment_is_refused(moment):
    with pytest.raises(ValueError, match="no moment"):
        schedule(*moment, fps=10)


# ----------------------------------------------------------------------------------------- VidSTG
EVERY = [5, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24]  # of frames 5 to 24, at 10 a second
DOG = [[200 + 2 * t, 100, 260 + 2 * t, 150] for t in EVERY]
MAN = [[20, 60, 80 + t, 220] for t in EVERY]


@pytest.mark.parametrize("form", ["raw", "xywh", "xyxy"])
@pytest.mark.parametrize("with_vidor", [True, False])
def test_vidstg_in_each_form(form, with_vidor):
    if form == "raw" and not with_vidor:
        with pytest.raises(AnnotationError, match="vidor="):
            vidstg(FORMS / "vidstg_raw.json", NONE)
        return
    samples = vidstg(FORMS / f"vidstg_{form}.json", NONE, FORMS / "vidor" if with_vidor else None)
    question, dog, man = samples
    assert [sample.id for sample in samples] == ["0", "1", "2"]
    assert [sample.kind for sample in samples] == ["interrogative", "declarative", "declarative"]
    assert question.text == "what walks in front of the man?"
    for sample, boxes in ((question, DOG), (dog, DOG), (man, MAN)):
        assert sample.moment == (5, 25)
        assert sample.frames.tolist() == EVERY
        assert sample.boxes.tolist() == boxes
        assert (sample.fps, sample.size) == (10, (320, 240))
        assert sample.video == NONE / "0001" / "1000000001.mp4"
    assert [s.category for s in samples] == (["dog", "dog", "adult"] if with_vidor else [""] * 3)
    assert {s.objects for s in samples} == {3 if with_vidor else None}


def test_videos_are_found_at_any_depth(tmp_path):
    path = tmp_path / "validation" / "deep" / "1000000001.mp4"
    path.parent.mkdir(parents=True)
    path.touch()
    assert vidstg(FORMS / "vidstg_xywh.json", tmp_path)[0].video == path


def test_of_two_videos_of_one_name_none_is_guessed(tmp_path):
    for folder in ("0001", "copy", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1000000001.mp4").touch()
    told = tmp_path / "0001" / "1000000001.mp4"
    assert vidstg(FORMS / "vidstg_xywh.json", tmp_path)[0].video == told
    told.unlink()
    with pytest.raises(AnnotationError, match=r"videos\[0\] .*several folders"):
        vidstg(FORMS / "vidstg_xywh.json", tmp_path)


def test_half_the_rate_is_half_the_frames():
    sample = vidstg(FORMS / "vidstg_xywh.json", NONE, rate=2.5)[0]
    assert sample.frames.tolist() == [5, 8, 12, 16, 20, 24]
    assert sample.boxes[:, 0].tolist() == [200 + 2 * t for t in (5, 8, 12, 16, 20, 24)]


def test_a_frame_without_a_true_box_is_not_scored(written):
    content = load("vidstg_xywh.json")
    del content["trajectories"]["1000000001"]["0"]["8"]  # the dog's, which two sentences mean
    question, dog, man = vidstg(written(content), NONE)
    assert question.frames.tolist() == dog.frames.tolist() == [t for t in EVERY if t != 8]
    assert man.frames.tolist() == EVERY


def test_xyxy_against_xywh_is_asked_when_the_boxes_do_not_tell(written):
    """A box of 90 x 80 at (10, 20) of a large frame is as good a box from (10, 20) to (90, 80)."""
    content = load("hcstvg_v1.json")
    entry = content["2_sit.mp4"] | {"bbox": [[10, 20, 90, 80]] * 10}
    path = written({"2_sit.mp4": entry})
    with pytest.raises(AnnotationError, match="layout="):
        hcstvg(path, NONE)
    assert hcstvg(path, NONE, layout="xyxy")[0].boxes[0].tolist() == [10, 20, 90, 80]
    assert hcstvg(path, NONE, layout="xywh")[0].boxes[0].tolist() == [10, 20, 100, 100]


@pytest.mark.parametrize(("form", "wrong"), [("xywh", "xyxy"), ("xyxy", "xywh")])
def test_a_layout_that_the_boxes_contradict_is_refused(form, wrong):
    with pytest.raises(AnnotationError, match="out of their frame"):
        vidstg(FORMS / f"vidstg_{form}.json", NONE, layout=wrong)


def test_boxes_in_other_units_are_refused(written):
    content = load("vidstg_xyxy.json")
    for video in content["videos"]:
        video.update(width=160, height=120)  # annotated at twice the size
    with pytest.raises(AnnotationError, match="one video"):
        vidstg(written(content), NONE)


# ---------------------------------------------------------------------------------------- HC-STVG
@pytest.mark.parametrize("form", ["v1", "v2", "proc"])
def test_hcstvg_in_each_form(form):
    walk, sit = hcstvg(FORMS / f"hcstvg_{form}.json", NONE)
    assert (walk.text, sit.text) == ("The woman in red walks to the door.", "The man sits down.")
    assert walk.moment == (50, 70)  # st_frame 51 counts from 1
    assert walk.frames.tolist() == list(range(50, 70, 2))
    assert walk.boxes.tolist() == [[150 + t, 40, 240 + t, 220] for t in range(50, 70, 2)]
    assert sit.moment == (0, 10)
    assert (sit.fps, sit.size, sit.kind) == (10, (320, 240), "declarative")
    assert sit.video.name == "2_sit.mp4"
    assert (walk.id, sit.id) == ("0", "1")


def test_questions_of_hcstvg_replace_captions_and_drop_the_rest():
    (asked,) = hcstvg(FORMS / "hcstvg_proc.json", NONE, questions=FORMS / "qa")
    assert (asked.id, asked.text) == ("0", "Who walks to the door?")
    assert asked.kind == "interrogative"
    assert asked.moment == (50, 70)


def test_a_clip_of_another_length_tells_its_rate_itself(written):
    """Twenty boxes in two seconds are ten a second, though 90 frames are no 20 s of that."""
    entry = load("hcstvg_v1.json")["1_walk.mp4"] | {"img_num": 90}
    assert hcstvg(written({"a.mp4": entry}), NONE)[0].fps == 10


# ---------------------------------------------------------------------------- what is malformed
def broken(form, change):
    content = load(form)
    change(content)
    return content


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["videos"][1].pop("fps"), [r"videos\[1\]", "fps"]),
        (lambda c: c["videos"][1].update(target_id=7), [r"videos\[1\]", "'7'"]),
        (lambda c: c["videos"][2].update(caption=" "), [r"videos\[2\]", "sentence"]),
        (lambda c: c["videos"][2].update(qtype="question"), [r"videos\[2\]", "question"]),
        (lambda c: c["videos"][0].update(tube_end_frame=5), [r"videos\[0\]", "no moment"]),
        (lambda c: c["videos"][0].update(tube_start_frame="5"), [r"videos\[0\]"]),
        (lambda c: c["videos"][0].update(fps=0), [r"videos\[0\]", "no moment"]),
        (lambda c: c["videos"][0].update(width=0), [r"videos\[0\]", "size"]),
        (
            lambda c: c["videos"][2].update(tube_start_frame=40, tube_end_frame=50),
            [r"videos\[2\]", "no boxes"],
        ),
        (
            lambda c: c["trajectories"]["1000000001"]["1"]["8"].update(bbox=[1, 2, 3]),
            [r"videos\[2\]"],
        ),
        (lambda c: c.pop("trajectories"), ["the file", "trajectories"]),
        (lambda c: c["videos"].clear(), ["no record"]),
    ],
)
def test_a_malformed_vidstg_record_is_named(written, change, words):
    path = written(broken("vidstg_xywh.json", change))
    with pytest.raises(AnnotationError, match=".*".join([r"annotations\.json", *words])):
        vidstg(path, NONE)


def test_one_box_that_ends_before_it_begins_is_named(written):
    """Among a hundred samples it does not change what the file's boxes are taken for."""
    content = load("vidstg_xyxy.json")
    content["videos"] = [content["videos"][2] | {"video_id": i} for i in range(100)]
    backwards = load("vidstg_xyxy.json")["trajectories"]["1000000001"]["1"]
    backwards["8"] = {"bbox": [80, 60, 20, 220]}
    content["trajectories"]["1000000002"] = {"1": backwards}
    content["videos"][41]["original_video_id"] = "1000000002"
    with pytest.raises(AnnotationError, match=r"videos\[41\] has a box that ends before it begins"):
        vidstg(written(content), NONE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["1_walk.mp4"].pop("bbox"), ["1_walk", "bbox"]),
        (lambda c: c["2_sit.mp4"].update(st_frame=0), ["2_sit", "no moment"]),
        (lambda c: c["2_sit.mp4"].update(ed_time=0.0), ["2_sit", "0.0 frames a second"]),
        (lambda c: c["1_walk.mp4"].pop("height"), ["1_walk", "height"]),
        (lambda c: c.update({"3_x.mp4": None}), ["3_x"]),
    ],
)
def test_a_malformed_hcstvg_record_is_named(written, change, words):
    path = written(broken("hcstvg_v1.json", change))
    with pytest.raises(AnnotationError, match=".*".join([r"annotations\.json", *words])):
        hcstvg(path, NONE)


def test_a_tube_that_its_boxes_do_not_fill_is_refused(written):
    path = written(broken("hcstvg_proc.json", lambda c: c[1]["trajectory"].pop()))
    with pytest.raises(AnnotationError, match=r"record 1 .*9 boxes"):
        hcstvg(path, NONE)


def test_files_that_are_something_else_are_refused(written, tmp_path):
    half = tmp_path / "half.json"
    half.write_text('{"videos": [', encoding="utf-8")
    for reader in (vidstg, hcstvg):
        for path in (half, tmp_path / "none.json"):
            with pytest.raises(AnnotationError, match="JSON"):
                reader(path, NONE)
        with pytest.raises(AnnotationError, match="annotations"):
            reader(written(3), NONE, FORMS)
    with pytest.raises(AnnotationError, match=r"1000000001\.json"):
        vidstg(FORMS / "vidstg_raw.json", NONE, vidor=FORMS / "qa")
    with pytest.raises(AnnotationError, match="corners"):
        vidstg(FORMS / "vidstg_raw.json", NONE, vidor=FORMS / "vidor", layout="xywh")
    with pytest.raises(AnnotationError, match="question"):
        hcstvg(FORMS / "hcstvg_v1.json", NONE, questions=FORMS / "vidor")
    with pytest.raises(AnnotationError, match=r"0\.json.*'Q'"):
        hcstvg(FORMS / "hcstvg_v1.json", NONE, questions=written({"A": "x"}, "qa/0.json").parent)
    with pytest.raises(ValueError, match="layout"):
        vidstg(FORMS / "vidstg_xywh.json", NONE, layout="wxyh")


# ---------------------------------------------------------------- there and back, with toyworld
@pytest.fixture(scope="module")
def clips():
    return {
        clip.name: clip
        for clip in (
            make_clip(seed, split, frames=40, height=96, width=128, objects=1 + seed % 4)
            for seed, split in enumerate(["train", "compositions", "unseen", "style"] * 2)
        )
    }


def assert_true(sample, clip, targets):
    """A sample's sentence, moment and boxes are those of the target's own pixels."""
    (target,) = targets
    track = clip.tracks[target]
    begin, end = track.span
    assert sample.moment == (begin, end)
    assert sample.frames.tolist() == [
        t for t in range(begin, end) if t == begin or (t * 5) // 16 > ((t - 1) * 5) // 16
    ]
    for t, (x1, y1, x2, y2) in zip(sample.frames, sample.boxes.astype(int), strict=True):
        within = np.zeros((96, 128), bool)
        within[y1:y2, x1:x2] = True
        mask = track.visible[t]
        assert mask[within].sum() == mask.sum() > 0  # all of it
        edges = mask[y1:y2, x1:x2]
        assert edges[0].any()  # and no more
        assert edges[-1].any()
        assert edges[:, 0].any()
        assert edges[:, -1].any()
    assert (sample.fps, sample.size) == (16, (128, 96))


def test_toyworld_comes_back_from_vidstg(clips, written, tmp_path):
    raw, videos, trajectories = [], [], {}
    for clip in clips.values():
        written(vidor(clip), f"vidor/{clip.name}.json")
        raw += vidstg_raw(clip)
        items, trajectories[clip.name] = vidstg_items(clip)
        videos += [item | {"video_id": len(videos) + i} for i, item in enumerate(items)]
    for content in (raw, {"videos": videos, "trajectories": trajectories}):
        samples = vidstg(written(content), NONE, vidor=tmp_path / "vidor")
        assert len(samples) == sum(len(clip.expressions) for clip in clips.values()) > 30
        for sample in samples:
            clip = clips[sample.video.stem]
            meant = {(e.text, e.type): e.target_id for e in clip.expressions}
            target = meant[sample.text, sample.kind]
            assert_true(sample, clip, [target])
            assert sample.category == clip.tracks[target].category
            assert sample.objects == len(clip.tracks)


def test_toyworld_comes_back_from_hcstvg(clips, written):
    entries = {f"{name}.mp4": entry for name, c in clips.items() if (entry := hcstvg_entry(c))}
    samples = hcstvg(written(entries), NONE)
    assert len(samples) == len(entries) > 4
    for sample in samples:
        clip = clips[sample.video.stem]
        assert_true(sample, clip, {e.target_id for e in clip.expressions if e.text == sample.text})
