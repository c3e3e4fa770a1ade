"""Backgrounds to train before, besides toyworld's own: build/scenery.

Toyworld has 17 photographs to train on, and what is learned before so few is misread before others.
The textures of two games (walls, floors, rocks, grass, skies, most of them photographed) and the
wallpapers of a desktop, from Debian packages, are well over a thousand. None is shipped, and none
is among toyworld's photographs to test on.
Needs apt-get and dpkg (Debian, Ubuntu).
"""

from __future__ import annotations

import io
import re
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from make_atlas import unpack
from PIL import Image
from tqdm.auto import tqdm

from pgvl_core import assets
from pgvl_core.toyworld_render import backgrounds, crop

FOLDER = assets.DATA.parent / "build" / "scenery"
PACKAGES = ("openarena-081-textures", "ufoai-textures", "plasma-workspace-wallpapers")
LEAST, MOST = 256, 512  # pixels: shorter side that is enough, longer side that is kept
FLAT = 8  # standard deviation of a colour, of 255, that is too little of a picture
# Relief and gloss in place of colours; and what has things in it.
OTHER = re.compile(r"_(nm|sm|gm|norm|gloss|glow)\.|tex_(pics|vehicles|furniture)/|/screenshot")


def pictures(folder: Path) -> Iterator[tuple[str, Image.Image]]:
    """Every picture of the unpacked packages, those within archives too, with its path."""
    for file in sorted(each for each in folder.rglob("*") if each.is_file()):
        name = file.relative_to(folder).as_posix()
        if file.suffix == ".pk3":
            with zipfile.ZipFile(file) as archive:
                for inner in sorted(archive.namelist()):
                    if inner.endswith((".jpg", ".png", ".tga")):
                        yield f"{name}/{inner}", Image.open(io.BytesIO(archive.read(inner)))
        elif file.suffix in (".jpg", ".png"):
            yield name, Image.open(file)


def opaque(picture: Image.Image) -> bool:
    alpha = picture.mode in ("RGBA", "LA", "P", "PA")
    return not alpha or np.asarray(picture.convert("RGBA"))[..., 3].min() >= 250


def make() -> None:
    """Unpack the packages and keep what will do, as build/scenery/N.webp."""
    whole = FOLDER.with_name("scenery.part")
    whole.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        unpack(PACKAGES, Path(folder))
        number = 0
        for name, picture in tqdm(pictures(Path(folder)), desc="scenery"):
            if OTHER.search(name) or min(picture.size) < LEAST or not opaque(picture):
                continue
            kept = picture.convert("RGB")
            kept.thumbnail((MOST, MOST), reducing_gap=3)
            if min(kept.size) < LEAST * 3 // 4 or np.asarray(kept).std((0, 1)).mean() < FLAT:
                continue
            kept.save(whole / f"{number:04d}.webp", quality=90)
            number += 1
    whole.rename(FOLDER)


def load() -> list[np.ndarray]:
    """The pictures, uint8 ``[h, w, 3]``; makes them first if need be."""
    if not FOLDER.exists():
        make()
    files = sorted(FOLDER.glob("*.webp"))
    return [np.asarray(Image.open(file)) for file in tqdm(files, desc="scenery")]


def draw(
    rng: np.random.Generator, scenery: Sequence[np.ndarray], count: int, height: int, width: int
) -> list[np.ndarray]:
    """Crops of them, and one time in five of toyworld's own: uint8 ``[height, width, 3]``.

    Of none but toyworld's own where `scenery` is empty.
    """
    own = backgrounds(rng, "train", count, height, width)
    if not scenery:
        return own
    return [
        each
        if rng.random() < 0.2
        else crop(rng, scenery[int(rng.integers(len(scenery)))], height, width)
        for each in own
    ]
