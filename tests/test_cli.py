import os
import subprocess
import sys
from pathlib import Path

import pytest

from pgvl_core import assets, cli, doctor, workbook


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
