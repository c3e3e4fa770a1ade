"""The committed notebooks: their form, outputs and numbers, and a run with other parameters."""

import fnmatch
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import notebook_rules as rules
import pytest
import yaml
from nbval.plugin import get_sanitize_patterns

from pgvl_core import workbook

TESTS = Path(__file__).parent
CONFIG = yaml.safe_load((TESTS / "notebooks.yaml").read_text())
SANITISER = TESTS / "nbval.cfg"
TOLERANCE = 0.05  # relative; processors and library versions differ by less
TIER = os.environ.get("PGVL_TIER", "per_commit")

each_notebook = pytest.mark.parametrize(
    "path", workbook.notebooks(), ids=[path.stem for path in workbook.notebooks()]
)


def read(path):
    return nbformat.read(path, as_version=4)


@each_notebook
@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_notebook_keeps_the_rule(path, rule):
    assert list(rule(read(path))) == []


@each_notebook
def test_default_output_folder_is_in_build(path):
    assert rules.parameter_defaults(read(path))["OUTPUT_DIR"] == f"../build/{path.stem}"


@each_notebook
def test_numbers_are_those_committed(path):
    """nbval has just run the notebook with its defaults, but compares no decimals; this does."""
    if not (workbook.BUILD / path.stem / "results.json").exists():
        pytest.skip("make test runs the notebooks first")
    committed = read(path).metadata.pgvl
    measured = workbook.read_results(workbook.BUILD / path.stem)
    assert measured["profile"] == committed["profile"]
    assert measured["numbers"].keys() == committed["numbers"].keys()
    tolerances = CONFIG[path.stem].get("tolerance", {})
    assert [p for p in tolerances if not fnmatch.filter(committed["numbers"], p)] == []
    for name, value in committed["numbers"].items():
        again = measured["numbers"][name]
        if isinstance(value, str):
            assert again == value, name
        else:
            named = [t for pattern, t in tolerances.items() if fnmatch.fnmatch(name, pattern)]
            tolerance = max(named, default=TOLERANCE)
            assert math.isclose(again, value, rel_tol=tolerance, abs_tol=1e-3), name


@each_notebook
def test_overrides_are_read_and_differ_from_the_defaults(path):
    notebook = read(path)
    overrides = CONFIG[path.stem]["parameters"]
    assert overrides
    assert rules.unread_parameters(notebook, overrides) == {}
    defaults = rules.parameter_defaults(notebook)
    assert {name for name, value in overrides.items() if defaults[name] == value} == set()


@pytest.mark.parametrize(
    "path",
    [  # in two groups, which two workers take first: together they are most of the tests' time
        pytest.param(path, id=path.stem, marks=pytest.mark.xdist_group(f"notebooks {i % 2}"))
        for i, path in enumerate(workbook.notebooks())
    ],
)
def test_runs_with_other_parameters(path, tmp_path):
    config = CONFIG[path.stem]
    if config["tier"] == "weekly" and TIER != "weekly":
        pytest.skip("weekly")
    results = workbook.run_notebook(path, tmp_path, config["parameters"], config["timeout"])
    assert results["notebook"] == path.stem
    assert results["seed"] == config["parameters"].get("SEED", results["seed"])
    stamped, varies = read(path).metadata.pgvl["numbers"], config.get("varies", [])
    differ = results["numbers"].keys() ^ stamped.keys()
    assert {name for name in differ if not any(fnmatch.fnmatch(name, p) for p in varies)} == set()


def test_configuration_is_well_formed():
    for name, entry in CONFIG.items():
        assert {"timeout", "tier", "parameters"} <= entry.keys(), name
        assert entry.keys() <= {"timeout", "tier", "parameters", "tolerance", "varies"}, name
        assert entry["tier"] in ("per_commit", "weekly"), name
        assert "OUTPUT_DIR" not in entry["parameters"], name


# The rules themselves: each must find what it is for

OPENING = """# A notebook
After this you will be able to test. Paper: section 3.1. Prerequisites: none.

```text
frames -> features
```

| profile | minutes | peak RAM | download |
|---|---|---|---|
| pocket | 0.5 | 0.1 GB | 9 MB |
"""
STAMP = {"profile": "pocket", "minutes": 0.5, "peak_ram_mb": 100}
ALT = "Two frames of a street, side by side"


def code(source, *outputs, tags=(), count=None):
    return nbformat.v4.new_code_cell(
        source, outputs=list(outputs), execution_count=count, metadata={"tags": list(tags)}
    )


def good_notebook():
    cells = [
        nbformat.v4.new_markdown_cell(OPENING),
        code(
            'PROFILE = "pocket"\nSEED = 0\nOUTPUT_DIR = "../build/x"', tags=["parameters"], count=1
        ),
        code("quiz(PROFILE)", count=2),
        code("attempt(check, SEED)\nattempt(check, SEED)", count=3),
        code("plot()", display({"image/png": "iVBO"}, {"image/png": {"alt": ALT}}), count=4),
        code("workbook.write_results(OUTPUT_DIR)", count=5),
    ]
    return stamped(nbformat.v4.new_notebook(cells=cells))


def display(data, metadata=None):
    return nbformat.v4.new_output("display_data", data=data, metadata=metadata or {})


def printed(text, name="stdout"):
    return nbformat.v4.new_output("stream", text=text, name=name)


def stamped(notebook):
    notebook.metadata.pgvl = {**STAMP, "source_sha256": workbook.source_hash(notebook)}
    return notebook


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_rule_lets_a_good_notebook_pass(rule):
    assert list(rule(good_notebook())) == []


def edit_source(nb):
    nb.cells[2].source += "\n# later"


def retag(nb):
    nb.cells[2].metadata["tags"] = ["exercise:pool"]


def unstamp(nb):
    del nb.metadata["pgvl"]


def run_out_of_order(nb):
    nb.cells[2].execution_count = 9


def leave_unrun(nb):
    nb.cells[-1].execution_count = None


def end_in_an_error(nb):
    nb.cells[2].outputs = [nbformat.v4.new_output("error", ename="KeyError", traceback=["boom"])]


def warn(nb):
    nb.cells[2].outputs = [printed("UserWarning: beware", "stderr")]


def show_a_path(nb):
    nb.cells[2].outputs = [printed("read " + "/".join(["", "home", "me", "clip.mp4"]))]


def show_a_windows_path(nb):
    nb.cells[2].outputs = [printed("read C:\\" + "Users\\me\\clip.mp4")]


def print_too_much(nb):
    nb.cells[2].outputs = [printed("line\n" * 101)]


def write_a_long_cell(nb):
    nb.cells[2].source += "\nx" * 30


def write_long_cells(nb):
    for cell in nb.cells[2:5]:
        cell.source += "\nx" * 9


def show_a_mute_picture(nb):
    nb.cells[4].outputs = [display({"image/png": "iVBO"})]


def show_a_mute_picture_in_html(nb):
    nb.cells[4].outputs = [display({"image/png": "iVBO", "text/html": "<img src='x'>"})]


def show_a_mute_picture_in_text(nb):
    nb.cells[0].source += "\n![plot](plot.png)"


def forget_the_prerequisites(nb):
    nb.cells[0].source = OPENING.replace("Prerequisites", "Needs")


def claim_other_minutes(nb):
    nb.cells[0].source = OPENING.replace("0.5", "0.1")


def move_the_parameters(nb):
    nb.cells[1], nb.cells[2] = nb.cells[2], nb.cells[1]


def forget_the_seed(nb):
    nb.cells[1].source = nb.cells[1].source.replace("SEED = 0\n", "")


def ignore_a_parameter(nb):
    nb.cells[1].source += "\nFRAMES = 8"


def write_no_results(nb):
    nb.cells[-1].source = "print(OUTPUT_DIR)"


def move_a_slider(nb):
    nb.cells[2].source += "\nipywidgets.interact(print, frames=(1, 9))"


def ask_no_quiz(nb):
    nb.cells[2].source = "print(PROFILE)"


def set_one_exercise(nb):
    nb.cells[3].source = "attempt(check, SEED)"


@pytest.mark.parametrize(
    ("rule", "harm"),
    [
        (rules.is_stamped_for_its_source, edit_source),
        (rules.is_stamped_for_its_source, retag),
        (rules.is_stamped_for_its_source, unstamp),
        (rules.is_executed_in_order, run_out_of_order),
        (rules.is_executed_in_order, leave_unrun),
        (rules.outputs_are_fit_to_read, end_in_an_error),
        (rules.outputs_are_fit_to_read, warn),
        (rules.outputs_are_fit_to_read, show_a_path),
        (rules.outputs_are_fit_to_read, show_a_windows_path),
        (rules.outputs_are_fit_to_read, print_too_much),
        (rules.code_cells_are_short, write_a_long_cell),
        (rules.code_cells_are_short, write_long_cells),
        (rules.images_have_alt_text, show_a_mute_picture),
        (rules.images_have_alt_text, show_a_mute_picture_in_html),
        (rules.images_have_alt_text, show_a_mute_picture_in_text),
        (rules.opens_as_every_notebook, forget_the_prerequisites),
        (rules.opens_as_every_notebook, claim_other_minutes),
        (rules.second_cell_holds_the_parameters, move_the_parameters),
        (rules.second_cell_holds_the_parameters, forget_the_seed),
        (rules.second_cell_holds_the_parameters, ignore_a_parameter),
        (rules.last_cell_writes_the_results, write_no_results),
        (rules.has_no_output_widget, move_a_slider),
        (rules.asks_the_reader, ask_no_quiz),
        (rules.asks_the_reader, set_one_exercise),
    ],
)
def test_rule_finds_its_harm(rule, harm):
    notebook = good_notebook()
    harm(notebook)
    assert len(list(rule(notebook))) == 1


@pytest.mark.parametrize(
    ("later", "reason"),
    [
        ("print(FRAMES)", None),
        ("FRAMES = min(FRAMES, 8)", None),
        ("def clip():\n    return FRAMES", None),
        ("x = [frame for frame in range(FRAMES)]", None),
        ("%timeit -n1 print(1)\nprint(FRAMES)", None),
        ("print('FRAMES')", "is read by no later cell"),
        ("def clip(FRAMES):\n    return FRAMES", "is read by no later cell"),
        ("FRAMES = 8\nprint(FRAMES)", "is bound anew before any later cell reads it"),
        (
            "for FRAMES in (1, 2):\n    print(FRAMES)",
            "is bound anew before any later cell reads it",
        ),
    ],
)
def test_parameter_without_effect_is_found(later, reason):
    cells = [nbformat.v4.new_markdown_cell(OPENING), code("FRAMES = 4", tags=["parameters"])]
    notebook = nbformat.v4.new_notebook(cells=[*cells, code(later)])
    assert rules.unread_parameters(notebook, ["FRAMES"]) == ({"FRAMES": reason} if reason else {})
    assert rules.unread_parameters(notebook, ["FRAME"]) == {
        "FRAME": "is not in the parameters cell"
    }


# The comparison of outputs


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("similarity 0.1234", "similarity 0.1239", True),
        ("[ 0.5 -0.25]", "[-0.49  0.26]", True),
        ("[1. 2.]", "[1.1 2.]", True),
        ("loss 1e-05", "loss 2.3e-06", True),
        ("took 12 s, 300 MB", "took 7.5 s, 1,200 MB".replace(",200", "200"), True),
        ("top-1 34.2%", "top-1 35%", True),
        ("torch 2.6.0+cu124", "torch 2.14.1", True),
        ("wrote ../build/x/results.json", "wrote /data/me/x/results.json", True),
        ("on cuda:0 at 0x7f01", "on cpu at 0x12ab", True),
        ('<img src="data:image/png;base64,AAA=">', '<img src="data:image/png;base64,BB+/">', True),
        ("  3%|▎   | 1/30 [00:01<00:29, 1.0it/s]", " 99%|██▉| 29/30 [00:01<00:00]", True),
        ("features (8, 196, 768)", "features (8, 197, 768)", False),
        ("676 tokens", "675 tokens", False),
        ("taxi, bus, car", "bus, taxi, car", False),
        ("max 3", "max nan", False),
        ("score 0.5", "score nan", False),
        ("shot 3 of 6.", "shot 3 of 5.", False),
        ("found True", "found False", False),
    ],
)
def test_sanitiser_hides_the_machine_and_nothing_else(one, other, same):
    patterns = get_sanitize_patterns(SANITISER.read_text(encoding="utf-8"))

    def sanitised(text):
        for pattern, replacement in patterns:
            text = re.sub(pattern, replacement, text)
        return text

    assert (sanitised(one) == sanitised(other)) is same


@pytest.mark.parametrize(("committed", "status"), [("4 frames", 0), ("5 frames", 1)])
def test_wrong_output_fails_the_comparison(tmp_path, committed, status):
    cell = code("print(2 + 2, 'frames')", printed(committed + "\n"), count=1)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "sum.ipynb")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval",
        "--nbval-current-env",
        "-p",
        "no:cacheprovider",
    ]
    command += ["--nbval-sanitize-with", str(SANITISER), "--rootdir", str(tmp_path), str(tmp_path)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == status, ran.stdout
    assert ("Cell outputs differ" in ran.stdout) is (status == 1)
