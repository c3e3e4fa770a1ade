"""Six floors and the ground they stand on: imports only go down."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pgvl_core"
FLOORS = {
    0: {"files"},
    1: {"video", "assets", "pooling", "projector", "prompts", "plots", "evaluation"},
    2: {"lite", "toyworld"},
    3: {"encoder", "audio"},
    4: {"model", "grounding"},
    5: {"chat", "train", "profiles"},
    6: {"claims", "cli", "doctor", "exercises", "sweep", "widgets", "workbook"},
}
FLOOR_OF = {part: floor for floor, parts in FLOORS.items() for part in parts}
# A module split off for its length is a piece of the part it serves: toyworld_text is toyworld.
PIECES = {"wheels": "assets", "temporal": "pooling"}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part_of(name):
    """The part that a module or subpackage directly under pgvl_core belongs to."""
    return PIECES.get(name, name.split("_")[0])


def imported_parts(source, package):
    """Parts of pgvl_core that a module imports, inside functions too; `package` is its own."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        ours = (name.split(".")[1] for name in names if name.startswith("pgvl_core."))
        yield from map(part_of, ours)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_go_down(path):
    part = part_of(path.relative_to(PACKAGE).parts[0].removesuffix(".py"))
    assert part in FLOOR_OF, "a new module is given its floor here"
    package = ".".join(["pgvl_core", *path.relative_to(PACKAGE).parent.parts])
    for imported in imported_parts(path.read_text(encoding="utf-8"), package):
        below = FLOOR_OF[imported] < FLOOR_OF[part]
        # The commands of the top floor call each other; a subpackage is one part.
        assert below or imported == part or FLOOR_OF[part] == 6, f"{part} imports {imported}"


@pytest.mark.parametrize(
    ("source", "package", "parts"),
    [
        ("import pgvl_core.video", "pgvl_core", ["video"]),
        ("from pgvl_core import video, assets", "pgvl_core", ["video", "assets"]),
        ("def f():\n    from pgvl_core.lite.clip import LiteCLIP", "pgvl_core", ["lite"]),
        ("from .video import Video", "pgvl_core", ["video"]),
        (
            "from ..video import Video\nfrom . import tags",
            "pgvl_core.grounding",
            ["video", "grounding"],
        ),
        ("import numpy\nfrom torch import nn", "pgvl_core", []),
    ],
)
def test_imports_are_read(source, package, parts):
    assert list(imported_parts(source, package)) == parts
