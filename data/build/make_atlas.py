"""Build data/sprites and data/backgrounds: `make atlas`.

Photographic cut-outs come from the Debian package tuxpaint-stamps-default, the photographs behind
them from packages of wallpapers, the drawn style from OpenMoji (asset "openmoji"). What is taken,
and what it is called, is chosen by hand in sprites.csv and backgrounds.csv beside this file.
Needs apt-get and dpkg (Debian, Ubuntu), or the packages' files unpacked under --packages, and the
`build` extra (resvg-py draws the SVG files of OpenMoji).
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from pgvl_core import assets

HERE = Path(__file__).parent
CELL = 128  # longest side of a sprite, pixels; a sheet is a grid of cells of this size
COLUMNS = 16
BACKGROUND = 360  # shorter side of a background, pixels
PACKAGES = (
    "tuxpaint-stamps-default",
    "mate-backgrounds",
    "gnome-backgrounds",
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
)
STAMPS = "tuxpaint-stamps-default/usr/share/tuxpaint/stamps"


def rows(name: str) -> list[dict[str, str]]:
    """The rows of a hand-made table beside this file."""
    with (HERE / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def unpack(packages: Iterable[str], folder: Path) -> None:
    """Download Debian packages and unpack each in a folder of its name."""
    for package in tqdm(list(packages), desc="packages"):
        subprocess.run(["apt-get", "download", package], cwd=folder, check=True, text=True)
        (archive,) = folder.glob(f"{package}_*.deb")
        subprocess.run(["dpkg", "-x", archive.name, package], cwd=folder, check=True)
        archive.unlink()


def draw_svg(file: Path) -> Image.Image:
    """An SVG file as an RGBA image, four times the size it is kept at."""
    try:
        import resvg_py
    except ImportError as error:
        raise SystemExit("resvg-py draws OpenMoji: pip install -e '.[build]'") from error
    png = resvg_py.svg_to_bytes(svg_path=str(file), width=4 * CELL, height=4 * CELL)
    return Image.open(io.BytesIO(bytes(png)))


def cut_out(image: Image.Image) -> Image.Image:
    """Crop to what is opaque and shrink to a cell; faint remains of a former backdrop go."""
    pixels = np.array(image.convert("RGBA"))
    pixels[pixels[..., 3] < 24] = 0
    ys, xs = np.nonzero(pixels[..., 3] >= 128)
    pixels = pixels[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    sprite = Image.fromarray(pixels)  # resize() weighs colours by alpha
    sprite.thumbnail((CELL, CELL), Image.Resampling.LANCZOS, reducing_gap=None)
    return sprite


def write_sprites(packages: Path, emoji: Path, target: Path) -> None:
    """Pack every sprite into one sheet per split, and describe them in atlas.json."""
    table, atlas = rows("sprites.csv"), []
    for split in ("seen", "unseen", "style"):
        chosen = [row for row in table if row["split"] == split]
        height = CELL * -(-len(chosen) // COLUMNS)
        sheet = Image.new("RGBA", (CELL * COLUMNS, height))
        for i, row in enumerate(tqdm(chosen, desc=split)):
            if split == "style":
                image = draw_svg(emoji / f"{Path(row['file']).name}.svg")
            else:
                image = Image.open(packages / STAMPS / row["file"])
            sprite = cut_out(image)
            x, y = CELL * (i % COLUMNS), CELL * (i // COLUMNS)
            sheet.paste(sprite, (x, y))
            atlas.append(
                {
                    "name": row["category"],
                    "split": split,
                    "colour": row["colour"] or None,
                    "group": row["group"] or row["category"],
                    "sheet": f"{split}.webp",
                    "rect": [x, y, *sprite.size],
                    "source": row["file"],
                }
            )
        sheet.save(target / f"{split}.webp", lossless=True, quality=100, method=6)
    lines = ",\n".join(json.dumps(entry) for entry in atlas)
    (target / "atlas.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def write_backgrounds(packages: Path, target: Path) -> None:
    """Crop and shrink the photographs, in a folder per use: train or test."""
    for row in tqdm(rows("backgrounds.csv"), desc="backgrounds"):
        image = Image.open(packages / row["file"]).convert("RGB")
        width, height = image.size
        left, top, right, bottom = (float(v) / 100 for v in row["crop_percent"].split())
        box = (left * width, top * height, right * width, bottom * height)
        scale = BACKGROUND / min(box[2] - box[0], box[3] - box[1])
        size = (round((box[2] - box[0]) * scale), round((box[3] - box[1]) * scale))
        image = image.resize(size, Image.Resampling.LANCZOS, box=box)
        (target / row["use"]).mkdir(exist_ok=True)
        image.save(target / row["use"] / f"{row['name']}.webp", quality=85, method=6)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--packages", type=Path, help="folder with the Debian packages unpacked")
    parser.add_argument("--openmoji", type=Path, help="folder with OpenMoji's colour SVG files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        packages = options.packages or Path(scratch)
        if options.packages is None:
            unpack(PACKAGES, packages)
        emoji = options.openmoji or assets.path("openmoji")
        write_sprites(packages, emoji, assets.DATA / "sprites")
        write_backgrounds(packages, assets.DATA / "backgrounds")


if __name__ == "__main__":
    main()
