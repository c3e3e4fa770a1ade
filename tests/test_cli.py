import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

from pgvl_core import assets, cli, doctor, profiles, workbook
from pgvl_core.audio import Segment, Transcript
from pgvl_core.chat import Conversation
from pgvl_core.video import write_video


def test_fetch_reports_where_and_how_to_use_a_bundle(monkeypatch, capsys, tmp_path):
    asked = []

    def fetch(profile, to):
        asked.append((profile, to))
        return Path(to or "the cache")

    monkeypatch.setattr(assets, "fetch", fetch)
    assert cli.main(["fetch"]) == 0
    assert "the cache" in capsys.readouterr().out
    assert cli.main(["fetch", "--profile", "laptop", "--to", str(tmp_path)]) == 0
    assert f"PGVL_HOME={tmp_path}" in capsys.readouterr().out
    assert asked == [("pocket", None), ("laptop", str(tmp_path))]


def test_an_asset_error_is_one_line_and_no_traceback(monkeypatch, capsys):
    def fetch(*_):
        raise assets.AssetError("bikes: nowhere to be had")

    monkeypatch.setattr(assets, "fetch", fetch)
    assert cli.main(["fetch"]) == 1
    assert capsys.readouterr().err == "error: bikes: nowhere to be had\n"


@pytest.mark.parametrize("ok", [True, False])
def test_doctor_exits_by_what_it_found(monkeypatch, capsys, ok):
    report = doctor.Report("pocket", (doctor.Check("RAM", ok, "8 GB", "buy some"),))
    monkeypatch.setattr(doctor, "doctor", lambda profile: report)
    assert cli.main(["doctor"]) == (0 if ok else 1)
    assert repr(report) in capsys.readouterr().out


def test_workbook_runs_the_notebooks_named_and_exits_by_how_many_failed(monkeypatch):
    asked = []

    def run(names):
        asked.append(names)
        return len(names)

    monkeypatch.setattr(workbook, "run_workbook", lambda names: run(names))
    assert cli.main(["workbook"]) == 0
    assert cli.main(["workbook", "00_start_here"]) == 1
    assert asked == [[], ["00_start_here"]]


@pytest.mark.parametrize("arguments", [[], ["fetch", "--profile", "desktop"], ["ftech"]])
def test_a_wrong_command_line_is_answered_with_the_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert "usage: pgvl" in capsys.readouterr().err


def test_the_installed_command_exits_with_an_error_where_nothing_can_be_had(tmp_path):
    environment = {**os.environ, "PGVL_HOME": str(tmp_path)}
    command = Path(sys.executable).with_name("pgvl")
    result = subprocess.run([command, "doctor"], env=environment, capture_output=True, text=True)
    assert result.returncode == 1
    assert "pgvl fetch" in result.stdout
    assert "smollm2" in result.stdout


def test_a_notebook_that_is_not_there_is_named(capsys):
    assert cli.main(["workbook", "99_nowhere"]) == 1
    assert "99_nowhere" in capsys.readouterr().err


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "noise.mp4"
    write_video(path, np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8), fps=2)
    return path


@pytest.fixture
def loaded(monkeypatch):
    """A tiny model in place of every profile's, that hears nothing; the names asked for."""
    names = []

    def load(name):
        names.append(name)
        return tiny.model()

    monkeypatch.setattr(profiles, "load", load)
    monkeypatch.setattr(profiles, "listener", lambda name: Ear(""))
    return names


class Ear:
    """A listener to whom every video says the same."""

    def __init__(self, text):
        segment = Segment(0, 1, text, (), {}, "")
        self.heard = Transcript((segment,) if text else (), "en", 2.0, ())

    def listen(self, video):
        return self.heard


def test_ask_prints_the_answer(video, loaded, capsys):
    assert cli.main(["ask", str(video), "What is it?", "--profile", "laptop"]) == 0
    assert capsys.readouterr().out == f"{Conversation(tiny.model(), video).ask('What is it?')}\n"
    assert loaded == ["laptop"]


def test_ask_for_json_gives_what_a_program_reads(video, loaded, capsys):
    assert cli.main(["ask", str(video), "What is it? 🐘", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    expected = Conversation(tiny.model(), video).ask("What is it? 🐘")
    assert (told["question"], told["text"]) == ("What is it? 🐘", expected.text)
    assert told["prompt_tokens"] == expected.prompt_tokens
    assert told["notes"] == list(expected.notes)
    assert 0 < told["first_token"] <= told["seconds"]
    assert loaded == ["pocket"]


def test_what_is_said_is_known_unless_the_video_is_muted(video, loaded, monkeypatch, capsys):
    names = []
    monkeypatch.setattr(profiles, "listener", lambda name: names.append(name) or Ear("It is Rex."))
    said = Conversation(tiny.model(), video, "It is Rex.").ask("Who?")
    mute = Conversation(tiny.model(), video).ask("Who?")
    assert said.prompt_tokens > mute.prompt_tokens
    for options, transcript, expected in (([], "It is Rex.", said), (["--mute"], "", mute)):
        assert cli.main(["ask", str(video), "Who?", "--json", *options]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["transcript"] == transcript
        assert (told["text"], told["prompt_tokens"]) == (expected.text, expected.prompt_tokens)
    assert names == ["pocket"]
    rest, _ = chat(video, monkeypatch, capsys, "Who?\n", 'Said in it: "It is Rex."')
    assert rest[0].startswith(said.text)


@pytest.mark.parametrize("arguments", [["ask", "nowhere.mp4", "What?"], ["chat", "nowhere.mp4"]])
def test_a_missing_video_is_told_before_a_model_is_loaded(arguments, loaded, capsys):
    assert cli.main(arguments) == 1
    assert capsys.readouterr().err == "error: nowhere.mp4: there is no such file\n"
    assert loaded == []


def test_an_empty_question_is_an_error(video, loaded, capsys):
    assert cli.main(["ask", str(video), " "]) == 1
    assert capsys.readouterr().err == "error: there is no question to answer\n"


def chat(video, monkeypatch, capsys, typed, told="noise.mp4"):
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    assert cli.main(["chat", str(video)]) == 0
    shown = capsys.readouterr()
    greeting, *rest = shown.out.split("> ")
    assert told in greeting
    return rest, shown.err


def test_chat_goes_on_until_the_input_ends(video, loaded, monkeypatch, capsys):
    conversation = Conversation(tiny.model(), video)
    answers = [f"{conversation.ask(question)}" for question in ("What?", "Why?")]
    assert str(Conversation(conversation.model, video).ask("Why?")) != answers[1]  # it remembers
    rest, _ = chat(video, monkeypatch, capsys, "What?\nWhy?\n")
    assert [each.strip() for each in rest] == [*answers, ""]
    assert loaded == ["pocket"]


def test_chat_begins_anew_when_told_to(video, loaded, monkeypatch, capsys):
    rest, _ = chat(video, monkeypatch, capsys, "What?\n/clear\nWhat?\n\nnot asked\n")
    first, nothing, second, end = rest
    assert first == second != ""
    assert (nothing, end) == ("", "")


def test_chat_goes_on_after_a_question_that_is_too_long(video, loaded, monkeypatch, capsys):
    rest, error = chat(video, monkeypatch, capsys, f"{'why ' * 500}\nWhat?\n")
    expected = str(Conversation(tiny.model(), video).ask("What?"))
    assert [each.strip() for each in rest] == ["", expected, ""]
    assert error.startswith("error: the question is too long")
    assert error.count("\n") == 1


def test_chat_goes_on_after_an_interrupted_answer(video, loaded, monkeypatch, capsys):
    """Ctrl-C ends what is being said and no more."""
    stream = Conversation.stream

    def struck(self, question):
        pieces = stream(self, question)
        yield next(pieces)
        if question == "What?":
            del pieces
            raise KeyboardInterrupt
        yield from pieces

    monkeypatch.setattr(Conversation, "stream", struck)
    rest, _ = chat(video, monkeypatch, capsys, "What?\nWhy?\n")
    assert rest[0].endswith(" [stopped]\n")
    assert len(rest[0]) < len(rest[1])
