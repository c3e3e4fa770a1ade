import importlib.metadata
import os
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from pgvl_core import assets, doctor
from pgvl_core.doctor import Check, Report

Memory = namedtuple("Memory", ["total", "available"])
Usage = namedtuple("Usage", ["total", "used", "free"])


def store_of(folder: Path, *names: str) -> None:
    """Assets of one small file each, as a fetch would have left them."""
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_bytes(name.encode())
        assets._write_manifest(assets.ASSETS[name], folder / name)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine where pocket runs: every asset there, and enough of everything else."""
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("PGVL_HOME", str(tmp_path / ".cache" / "pgvl"))
    store_of(assets.home(), *assets.needs("pocket"))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(8e9, 6e9))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    return tmp_path


def check(report: Report, name: str) -> Check:
    (found,) = (check for check in report.checks if check.name == name)
    return found


def amiss(report: Report) -> set[str]:
    return {check.name for check in report.checks if check.required and not check.ok}


def test_a_machine_that_has_everything_passes(machine):
    report = doctor.doctor()
    assert report.ok
    assert amiss(report) == set()
    assert "The pocket profile can run here." in repr(report)


def test_a_missing_and_a_damaged_asset_are_told_apart_and_both_have_a_remedy(machine):
    shutil.rmtree(assets.home() / "bikes")
    (assets.home() / "minilm" / "file").write_bytes(b"other")
    report = doctor.doctor()
    assert not report.ok
    assert amiss(report) == {"bikes", "minilm"}
    assert check(report, "bikes").found == "missing"
    assert "expected SHA-256" in check(report, "minilm").found
    assert all("pgvl fetch" in check(report, name).remedy for name in amiss(report))
    assert "cannot run here" in repr(report)


def test_a_bit_that_flipped_on_the_disk_is_found(machine):
    file = assets.home() / "smollm2" / "file"
    before = file.stat()
    file.write_bytes(b"smollm3")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert amiss(doctor.doctor()) == {"smollm2"}


@pytest.mark.parametrize(("gigabytes", "ok"), [(2, False), (3.9, True), (16, True)])
def test_memory_is_held_against_the_profiles_need(machine, monkeypatch, gigabytes, ok):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(gigabytes * 1e9, 1e9))
    report = doctor.doctor()
    assert check(report, "RAM").ok is report.ok is ok


def test_a_disk_too_small_for_what_is_missing(machine, monkeypatch):
    shutil.rmtree(assets.home())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1e9, 9e8, 1e8))
    report = doctor.doctor()
    assert not check(report, "disk").ok
    assert "PGVL_HOME" in check(report, "disk").remedy


def test_a_python_that_is_too_new(machine, monkeypatch):
    monkeypatch.setattr(doctor.sys, "version_info", (3, 14, 0, "final", 0))
    report = doctor.doctor()
    assert amiss(report) == {"Python"}
    assert "3.10 to 3.12" in check(report, "Python").remedy


def test_packages_are_held_against_what_the_project_asks_for(machine, monkeypatch):
    asked = ["numpy>=1.26", "no-such-package>=2", "torch>=99", 'other; extra == "dev"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: asked)
    report = doctor.doctor()
    assert amiss(report) == {"packages"}
    found = check(report, "packages").found
    assert "no-such-package>=2 is not installed" in found
    assert "torch>=99 is wanted" in found
    assert "numpy" not in found
    assert "other" not in found


def test_a_torch_that_does_not_load(machine, monkeypatch):
    def broken() -> bool:
        raise OSError("libc10.so: cannot open")

    monkeypatch.setattr(torch.accelerator, "is_available", broken)
    report = doctor.doctor()
    assert amiss(report) == {"device"}
    assert "libc10.so" in check(report, "device").found


def test_a_cuda_card_is_named_and_enough_for_paper(machine, monkeypatch):
    Card = namedtuple("Card", ["name", "total_memory"])
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Card("A big one", 25.4e9))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(64e9, 60e9))
    report = doctor.doctor("paper")
    assert check(report, "device") == Check(
        "device", True, "cuda, A big one, 25 GB", check(report, "device").remedy
    )
    assert amiss(report) == set(assets.needs("paper")) - set(assets.needs("pocket"))
    assert check(report, "pocket profile").ok


def test_pip_is_missed_only_when_something_must_be_fetched(machine, monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda _: None)
    assert doctor.doctor().ok
    shutil.rmtree(assets.home() / "bikes")
    assert amiss(doctor.doctor()) == {"bikes", "pip"}


def test_a_bundle_that_cannot_be_written_to_is_enough_when_it_is_whole(machine, monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert doctor.doctor().ok
    shutil.rmtree(assets.home() / "bikes")
    assert amiss(doctor.doctor()) == {"bikes", "cache folder"}


def test_what_the_other_profiles_lack_does_not_stop_this_one(machine):
    report = doctor.doctor()
    assert not check(report, "paper profile").ok
    assert "device, RAM" in check(report, "paper profile").remedy
    assert check(report, "laptop profile").remedy == "too small: RAM"
    assert report.ok


def test_every_line_that_is_amiss_has_a_remedy_and_the_page_shows_it(machine, monkeypatch):
    shutil.rmtree(assets.home())
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(1e9, 1e9))
    report = doctor.doctor()
    for line in report.checks:
        if not line.ok:
            assert line.remedy
            assert line.remedy in repr(report)
            assert line.remedy in report._repr_html_()


def test_no_folder_of_the_user_is_shown(machine, monkeypatch):
    (assets.home() / "minilm" / "file").unlink()
    report = doctor.doctor()
    assert check(report, "cache folder").found == str(Path("~", ".cache", "pgvl"))
    for shown in (repr(report), report._repr_html_()):
        assert str(machine) not in shown
    monkeypatch.setenv("PGVL_HOME", str(machine.parent / "elsewhere"))
    assert str(machine.parent) not in repr(doctor.doctor())


def test_an_unknown_profile(machine):
    with pytest.raises(ValueError, match="desktop"):
        doctor.doctor("desktop")


def test_a_report_is_as_good_as_its_required_lines():
    good, bad = Check("a", True, "x"), Check("b", False, "y", "mend it")
    assert Report("pocket", (good, replace(bad, required=False))).ok
    assert not Report("pocket", (good, bad)).ok


def test_nothing_is_written_where_nothing_was(machine):
    shutil.rmtree(assets.home())
    doctor.doctor()
    assert not assets.home().exists()
