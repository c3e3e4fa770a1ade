"""A server that does not start is told, and none is left running; test_llm_judge uses one."""

import sys

import pytest

from pgvl_core.evaluation import local_server


def test_a_server_that_ends_at_once_is_told_with_what_it_printed(tmp_path, monkeypatch):
    """Python takes "serve" for a script, which is not there, and says so."""
    monkeypatch.setattr(local_server.shutil, "which", lambda *_, **__: sys.executable)
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(ValueError, match="can't open file"),
        local_server.serving("model", tmp_path / "log.txt"),
    ):
        pytest.fail("there is no server")


def test_a_missing_command_is_told_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(local_server.sys, "executable", str(tmp_path / "python"))
    with (
        pytest.raises(ValueError, match="not beside this Python"),
        local_server.serving("model", tmp_path / "log.txt"),
    ):
        pytest.fail("there is no server")
    assert not (tmp_path / "log.txt").exists()
