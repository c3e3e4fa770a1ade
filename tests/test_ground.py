"""The whole module, with its real models, on a short video whose truth is known."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from pycocotools import mask as coco
from pycocotools.coco import COCO
from segment_anything import sam_model_registry

from pgvl_core import assets, cli, profiles
from pgvl_core.evaluation.boxes import box_iou
from pgvl_core.grounding.answer import colour_of
from pgvl_core.grounding.memory import Memory
from pgvl_core.grounding.sam2 import Sam2Memory
from pgvl_core.grounding.tags import tag_list
from pgvl_core.toyworld import make_clip
from pgvl_core.video import Video, write_video


@pytest.fixture(scope="module")
def made():
    return make_clip(
        24,
        "train",
        frames=32,
        fps=16,
        shots=1,
        objects=["duck", "duck"],
        motions=["right", "still"],
    )


@pytest.fixture(scope="module")
def path(made, tmp_path_factory):
    file = tmp_path_factory.mktemp("ground") / "ducks.mp4"
    write_video(file, made.frames, made.fps)
    return file


@pytest.fixture(scope="module")
def grounder():
    return profiles.grounder("pocket")


@pytest.fixture(scope="module")
def answer(grounder, path):
    return grounder.ground(path, "Two ducks.", "which duck moves to the right?", "Quack.")


def iou(answer, truth, frames):
    at = answer.boxes_at(frames)
    found = np.array([at[f][0] if f in at else [np.nan] * 4 for f in frames])
    return np.nan_to_num(box_iou(truth.boxes[frames], found)).mean()


@pytest.mark.parametrize(
    ("question", "meant"), [("which duck moves to the right?", 0), ("which duck stays still?", 1)]
)
def test_the_duck_that_is_meant_is_marked(grounder, path, made, question, meant):
    frames = list(range(0, 32, 4))
    told = grounder.ground(path, "A duck.", question)
    ious = [iou(told, truth, frames) for truth in made.tracks]
    assert np.argmax(ious) == meant
    assert ious[meant] > 0.5


def test_both_ducks_are_marked_and_coloured(answer):
    (span,) = answer.spans
    assert len(span.tracks) == 2
    assert len({colour_of(i) for i in span.tracks}) == 2
    assert 'mark style="background:#' in answer.sentence()
    assert "ducks" in answer.sentence()


def test_a_scene_is_looked_at_once(grounder, path):
    assert grounder.scene(path) is grounder.scene(Video(path))


def test_it_is_kept_as_json_and_coco(answer, tmp_path):
    answer.save(tmp_path / "a.json")
    plain = json.loads((tmp_path / "a.json").read_text())
    assert plain["transcript"] == "Quack."
    assert plain["spans"][0]["phrase"] == "ducks"
    first = plain["tracks"][0]["frames"][0]
    rows, columns = np.nonzero(coco.decode(first["mask"]))
    assert first["box"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    answer.save(tmp_path / "a.coco.json")
    read = COCO(tmp_path / "a.coco.json")
    for each in read.loadAnns(read.getAnnIds())[:5]:
        x, y, width, height = coco.toBbox(each["segmentation"])
        assert each["bbox"] == [x, y, width, height]
        assert read.annToMask(each).sum() == each["area"]
    with pytest.raises(ValueError, match=r"\.json"):
        answer.save(tmp_path / "a.txt")


def test_a_page_shows_the_sentence_the_frames_and_the_timeline(answer):
    page = answer._repr_html_()
    assert page.count("<img ") == 6
    assert page.count("alt=") == 6
    assert "<svg" in page
    assert "duck" in page


def test_nothing_to_ground_is_an_error(grounder, path):
    with pytest.raises(ValueError, match="no answer"):
        grounder.ground(path, " ")


def test_the_command_writes_a_marked_video_and_its_masks(path, tmp_path, capsys):
    out, data = tmp_path / "out.mp4", tmp_path / "out.json"
    arguments = ["ground", str(path), "What is in the video?", "--mute"]
    assert cli.main([*arguments, "-o", str(out), "--json", str(data)]) == 0
    said = capsys.readouterr().out
    plain = json.loads(data.read_text())
    assert plain["text"] in said
    marked = Video(out)
    assert marked.frame_count == len({int(t * 5) for t in Video(path).timestamps + 1e-9})
    assert (marked.width, marked.height) == tuple(plain["size"])


def test_the_command_refuses_a_bad_output_before_the_work(path, capsys):
    assert cli.main(["ground", str(path), "What?", "-o", "nowhere/out.mp4"]) == 1
    assert "nowhere/out.mp4" in capsys.readouterr().err
    assert cli.main(["ground", str(path), "What?", "-o", "out.avi"]) == 1


def test_what_is_not_seen_in_the_moment_is_not_meant(grounder, path, answer):
    told = grounder.ground(path, "Two ducks.", moment=(16, 32))
    assert {f for track in told.tracks for f in track.frames} <= set(range(16, 32))
    assert min(min(track.frames) for track in answer.tracks) < 16  # the scene keeps what it had


@pytest.mark.parametrize("name", ["laptop", "paper"])
def test_the_larger_profiles_point(name, path, tmp_path, monkeypatch):
    """With CLIP, GroundingDINO and SAM; SAM 2 tracks in paper.

    Random weights in the official layouts: what is found means nothing; its form is right.
    """
    row = profiles.profile(name)
    for folder in ("clip", "dino", "sam2"):
        (tmp_path / folder).mkdir()
    torch.manual_seed(0)
    torch.save(tiny.sam().state_dict(), tmp_path / "sam.pth")
    files = {
        row.tags: tiny.clip(tmp_path / "clip"),
        row.detector: tiny.grounding_dino(tmp_path / "dino", tokens=256),
        row.segmenter: tmp_path / "sam.pth",
        "facebook/sam2.1-hiera-large": tiny.sam2_video(tmp_path / "sam2"),
    }
    own = assets.path
    monkeypatch.setattr(assets, "path", lambda name: files.get(name) or own(name))
    monkeypatch.setattr(assets, "packaged", lambda *_: None)  # see test_deva and test_ram
    monkeypatch.setitem(sam_model_registry, row.segmenter.removeprefix("sam_"), tiny.sam)
    grounder = profiles.grounder(name)
    assert isinstance(grounder.carrier(), Memory if name == "laptop" else Sam2Memory)
    told = grounder.ground(path, "A dog and a cat.", "what moves?")
    assert [span.phrase.text for span in told.spans] == ["dog", "cat"]
    assert all(span.tracks or span.note for span in told.spans)
    assert len(told.frames) == 10  # two seconds, five frames a second
    assert set(told.tags[0]) <= set(tag_list())
    for track in told.tracks:
        assert set(track.frames) <= set(told.frames.tolist())
        for frame, box in zip(track.frames, track.boxes, strict=True):
            rows, columns = np.nonzero(track.mask(frame))
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_where_the_language_model_names_things_it_is_asked(grounder, path, monkeypatch):
    """What it names is marked; the rest of the sentence is left alone."""
    row = replace(profiles.profile("pocket"), phrases="llm")
    monkeypatch.setitem(profiles.PROFILES, "pocket", row)
    own = profiles.grounder("pocket", grounder.encoder, lambda question: "ducks")
    own._scene = grounder._scene
    told = own.ground(path, "Two ducks beside a wall.")
    assert [span.phrase.text for span in told.spans] == ["ducks"]
