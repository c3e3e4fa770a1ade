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
        subprocess.run(["apt-get", "download", package], cwd=folder, check=True)
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
    """Crop to what is opaque, shrink to a cell, and leave no haze.

    Alpha is stretched so that shadows, glows and hairs too fine for this size go: what is drawn is
    then what the mask (alpha of a half) says, but for a blended edge.
    """
    image = image.convert("RGBA")
    image = image.crop(image.getchannel("A").point(lambda a: 255 * (a >= 128)).getbbox())
    image.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)  # weighs colours by alpha
    image.putalpha(image.getchannel("A").point(lambda a: min(max(2 * (a - 64), 0), 255)))
    return image.crop(image.getchannel("A").point(lambda a: 255 * (a >= 128)).getbbox())


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
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        packages = options.packages or Path(scratch)
        if options.packages is None:
            unpack(PACKAGES, packages)
        write_sprites(packages, assets.path("openmoji"), assets.DATA / "sprites")
        write_backgrounds(packages, assets.DATA / "backgrounds")


if __name__ == "__main__":
    main()
