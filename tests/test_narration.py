"""The shipped narrated clips: their truth holds, and the clean ones are understood."""

import json

import pytest

from pgvl_core import audio
from pgvl_core.assets import DATA
from pgvl_core.audio import Listener
from pgvl_core.evaluation.words import word_error_rate
from pgvl_core.toyworld import make_clip

FOLDER = DATA / "narration"
NARRATION = json.loads((FOLDER / "narration.json").read_text(encoding="utf-8"))
CLIPS = NARRATION["clips"]


def test_each_sound_is_there_and_no_other():
    files = {path.name for path in FOLDER.glob("*.ogg")}
    assert files == {clip["file"] for clip in CLIPS} | {"names.ogg"}
    assert sum((FOLDER / name).stat().st_size for name in files) < 2e6


@pytest.mark.parametrize("clip", CLIPS[::9], ids=lambda clip: clip["file"])
def test_the_picture_is_made_again_with_its_questions(clip):
    made = make_clip(**clip["make_clip"])
    assert [[each.question, each.answer] for each in made.qa] == clip["seen"]
    shown = {track.category for track in made.tracks}
    assert clip["absent"] not in shown
    for question, _ in clip["heard"]:
        assert any(noun in question for noun in shown)


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip["file"])
def test_what_is_asked_of_the_sound_is_said_and_not_shown(clip):
    told = clip["text"].lower()
    seen = [question for question, _ in clip["seen"]]
    for question, answer in clip["heard"]:
        assert answer.lower().rstrip(".") in told
        assert question not in seen
    assert clip["absent"] in told
    assert bool(clip["absent"]) == (clip["spoiled"] == "misleading")


def test_clean_narration_is_understood(tmp_path, monkeypatch):
    """As far as Whisper tiny.en goes with a synthetic voice: nine words of ten."""
    monkeypatch.setattr(audio, "remembered", lambda: tmp_path)
    listener = Listener("whisper-tiny.en")
    clean = [clip for clip in CLIPS if clip["spoiled"] == "clean"]
    heard = [listener.listen(FOLDER / clip["file"]).prompt() for clip in clean]
    said = " ".join(clip["text"] for clip in clean)
    assert word_error_rate(said, " ".join(heard)) <= 0.1
    assert not set("$0123456789") & set(" ".join(heard))
    assert "sixty dollars" in said
    assert "sixty dollars" in " ".join(heard)  # as it is said, and as questions about it want it
