"""What is tracked is small, names no machine, and its links lead somewhere."""

import ast
import re
import subprocess
from pathlib import Path

import nbformat
import pytest

from pgvl_core import assets, profiles, train

ROOT = Path(__file__).parent.parent
MAX_FILE = 5_000_000  # bytes; larger things are fetched, not tracked
MAX_WEIGHTS = 40_000_000  # bytes of all weights together, each of which `make weights` rebuilds
MACHINE_PATH = re.compile(r"(?<![\w.~])/(home|root|tmp|work|Users)/\w")
LINK = re.compile(r"\]\((?!https?:|#|data:|attachment:)([^)#\s]+)")


def tracked(pattern):
    """Tracked files that match, or all files where there is no git (an unpacked archive)."""
    listed = subprocess.run(
        ["git", "ls-files", pattern], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def test_no_tracked_file_is_large():
    weights = tracked("data/weights/*")
    sizes = {path.name: path.stat().st_size for path in tracked("*") if path not in weights}
    assert {name: size for name, size in sizes.items() if size > MAX_FILE} == {}
    assert 0 < sum(path.stat().st_size for path in weights) < MAX_WEIGHTS


@pytest.mark.parametrize(
    "pattern", ["*.py", "*.md", "*.yml", "*.yaml", "*.toml", "Makefile", "*.json"]
)
def test_no_text_names_a_path_of_a_machine(pattern):
    found = {
        path.name: match[0]
        for path in tracked(pattern)
        if (match := MACHINE_PATH.search(path.read_text(encoding="utf-8")))
    }
    assert found == {}


def prose(path):
    """The text of a page; of a notebook, that of its Markdown cells, as code has brackets too."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = nbformat.reads(text, as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


@pytest.mark.parametrize("pattern", ["*.md", "*.ipynb"])
def test_links_within_the_repository_lead_somewhere(pattern):
    broken = [
        (path.name, target)
        for path in tracked(pattern)
        for target in LINK.findall(prose(path))
        if not (path.parent / target).exists()
    ]
    assert broken == []


def test_python_of_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    training, encoding = blocks
    # The training's steps are tested in test_train.py; here, that they are called what it says.
    for node in ast.walk(ast.parse(training)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = {"train": train, "profiles": profiles}.get(node.value.id)
            assert module is None or hasattr(module, node.attr), node.attr
    scope: dict = {}
    exec(encoding.replace("clip.mp4", str(assets.sample_video("bikes"))), scope)
    assert len(scope["tokens"]) == 100 + scope["features"].shape[1]
