import html
import json
import math
import re
import subprocess
import sys

import nbformat
import pytest
import torch
from papermill import PapermillExecutionError

from pgvl_core import workbook

OPENING = """# Sum

| profile | minutes | peak RAM | download |
|---|---|---|---|
| pocket | - | - | 9 MB |"""
PARAMETERS = 'PROFILE = "pocket"\nSEED = 0\nCOUNT = 3\nOUTPUT_DIR = "../build/{stem}"'
RESULTS = """from pgvl_core import workbook
numbers = {"total": sum(range(COUNT)), "half": COUNT / 2}
workbook.write_results(OUTPUT_DIR, "sum", numbers, profile=PROFILE, seed=SEED)"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout of its own with an empty notebooks folder."""
    monkeypatch.setattr(workbook, "ROOT", tmp_path)
    monkeypatch.setattr(workbook, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(workbook, "BUILD", tmp_path / "build")
    workbook.NOTEBOOKS.mkdir()
    return tmp_path


def add_notebook(stem, *sources):
    parameters = nbformat.v4.new_code_cell(PARAMETERS.format(stem=stem))
    parameters.metadata["tags"] = ["parameters"]
    cells = [nbformat.v4.new_markdown_cell(OPENING), parameters]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = workbook.NOTEBOOKS / f"{stem}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def test_notebook_runs_with_its_parameters_and_is_left_as_it_is(checkout):
    path = add_notebook("sum", RESULTS)
    before = path.read_bytes()
    results = workbook.run_notebook(path, checkout / "out", {"COUNT": 5, "SEED": 7})
    assert results["numbers"] == {"total": 10, "half": 2.5}
    assert (results["notebook"], results["profile"], results["seed"]) == ("sum", "pocket", 7)
    assert torch.__version__.startswith(results["versions"]["torch"])
    assert 0 < results["minutes"] < 10
    assert path.read_bytes() == before
    assert (checkout / "out" / "sum" / "results.json").exists()
    executed = nbformat.read(checkout / "out" / "sum.ipynb", as_version=4)
    assert [cell.execution_count for cell in executed.cells if cell.cell_type == "code"] == [
        1,
        2,
        3,
    ]


def test_unknown_parameter_is_refused_before_anything_runs(checkout):
    path = add_notebook("sum", RESULTS)
    with pytest.raises(
        ValueError, match=r"sum\.ipynb has no parameter COUNTS; it has PROFILE, SEED"
    ):
        workbook.run_notebook(path, checkout / "out", {"COUNTS": 5})
    assert not (checkout / "out").exists()


def test_timeout_counts_the_whole_notebook(checkout):
    """Each cell alone would be within it."""
    sleep = "import time\ntime.sleep(3)"
    path = add_notebook("slow", sleep, sleep, sleep, RESULTS)
    with pytest.raises(TimeoutError):
        workbook.run_notebook(path, checkout / "out", timeout=5)


def test_numbers_of_an_earlier_run_are_not_taken_for_a_failed_one(checkout):
    path = add_notebook("sum", RESULTS)
    workbook.run_notebook(path, checkout / "out")
    path = add_notebook("sum", "1 / 0", RESULTS)
    with pytest.raises(PapermillExecutionError):
        workbook.run_notebook(path, checkout / "out")
    assert not (checkout / "out" / "sum" / "results.json").exists()


def test_workbook_goes_on_after_a_failure_and_keeps_the_traceback(checkout, capsys):
    add_notebook("00_fails", "def divide(x):\n    return x / 0", "divide(1)", RESULTS)
    add_notebook("01_works", RESULTS)
    assert workbook.run_workbook(checkout / "out") == 1
    shown = capsys.readouterr()
    kept = (checkout / "out" / "00_fails" / "error.txt").read_text()
    for text in (shown.err, kept):
        assert "ZeroDivisionError" in text
        assert "return x / 0" in text
    lines = shown.out.splitlines()
    assert next(line for line in lines if line.startswith("00_fails")).split()[1:3] == ["-", "-"]
    assert "total 3, half 1.50" in next(line for line in lines if line.startswith("01_works"))
    page = (checkout / "out" / "01_works.html").read_text()
    assert "write_results" in page
    assert "ZeroDivisionError" in (checkout / "out" / "00_fails.html").read_text()


def test_workbook_runs_the_named_notebook_alone(checkout):
    add_notebook("00_fails", "1 / 0")
    add_notebook("01_works", RESULTS)
    assert workbook.run_workbook(checkout / "out", ["01_works"]) == 0
    assert not (checkout / "out" / "00_fails.ipynb").exists()
    with pytest.raises(ValueError, match="no notebook 02_missing; there are 00_fails, 01_works"):
        workbook.run_workbook(checkout / "out", ["02_missing"])


def test_notebook_executed_in_place_is_stamped_and_names_no_path(checkout):
    path = add_notebook("sum", "from pathlib import Path\nprint(Path.cwd())\nPath.home()", RESULTS)
    workbook.execute_in_place(path)
    notebook = nbformat.read(path, as_version=4)
    stamp = notebook.metadata.pgvl
    assert stamp["source_sha256"] == workbook.source_hash(notebook)
    assert stamp["numbers"] == {"total": 3, "half": 1.5}
    assert stamp["profile"] == "pocket"
    cell = notebook.cells[2]
    assert cell.outputs[0].text == "../notebooks\n"
    assert cell.outputs[1].data["text/plain"] == "PosixPath('~')"
    assert str(checkout) not in path.read_text()
    assert "papermill" not in path.read_text()
    row = notebook.cells[0].source.splitlines()[-1].split("|")
    assert float(row[2]) == pytest.approx(stamp["minutes"], abs=0.051)
    assert row[3] == f" {stamp['peak_ram_mb'] / 1000:.1f} GB "
    assert row[4] == " 9 MB "
    assert [p.name for p in path.parent.iterdir()] == ["sum.ipynb"]


def test_a_widget_is_kept_as_its_html_and_a_bar_not_at_all(checkout):
    """In place and as a page: neither has the kernel that a widget talks to."""
    source = """
import ipywidgets
class Panel:
    def _repr_mimebundle_(self, **_):
        return {**ipywidgets.Text()._repr_mimebundle_(), "text/html": "<p>what was said</p>"}
display(ipywidgets.IntProgress())
Panel()"""
    path = add_notebook("sum", source, RESULTS)
    workbook.execute_in_place(path)
    cell = nbformat.read(path, as_version=4).cells[2]
    assert [set(output.data) for output in cell.outputs] == [{"text/html", "text/plain"}]
    assert workbook.run_workbook(checkout / "out") == 0
    page = (checkout / "out" / "sum.html").read_text()
    assert "<p>what was said</p>" in page
    assert "IntProgress(value" not in page
    assert "model_id" not in page


def test_notebook_that_fails_is_not_overwritten(checkout):
    path = add_notebook("sum", "1 / 0", RESULTS)
    before = path.read_bytes()
    with pytest.raises(PapermillExecutionError):
        workbook.execute_in_place(path)
    assert path.read_bytes() == before


def test_peak_ram_counts_this_process_and_not_its_parent():
    """getrusage, the usual way, reports at least what the parent held when it forked."""
    held = bytearray(600_000_000)
    held[::4096] = b"x" * len(held[::4096])
    child = "from pgvl_core.workbook import peak_ram_mb as p\na = p()\nb = bytearray(200_000_000)\n"
    child += "b[::4096] = b'x' * len(b[::4096])\ndel b\nprint(a, p())"
    output = subprocess.run(
        [sys.executable, "-c", child], capture_output=True, text=True, check=True
    )
    before, after = map(float, output.stdout.split())
    assert 10 < before < 400
    assert after - before == pytest.approx(200, abs=20)


def test_results_take_scalars_of_arrays(tmp_path):
    numbers = {"a": torch.tensor(2), "b": torch.tensor(0.5).numpy(), "c": "taxi", "d": True}
    path = workbook.write_results(tmp_path / "new", "x", numbers, profile="pocket", seed=0)
    assert json.loads(path.read_text())["numbers"] == {"a": 2, "b": 0.5, "c": "taxi", "d": True}
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


@pytest.mark.parametrize("value", [math.nan, -math.inf, None, [1.0]])
def test_results_refuse_what_is_no_number(tmp_path, value):
    with pytest.raises(ValueError, match="the result 'iou' must be a finite number or a text"):
        workbook.write_results(tmp_path, "x", {"iou": value}, profile="pocket", seed=0)
    assert list(tmp_path.iterdir()) == []


def test_source_is_shown_under_its_file():
    shown = workbook.show_source(workbook.table)
    assert repr(shown).startswith("# pgvl_core/workbook.py\ndef table(")
    words = html.unescape(re.sub(r"<[^>]+>", "", shown._repr_html_()))
    assert words.split() == repr(shown).split()
    assert "/" not in workbook.show_source(json.dumps).file


def test_table_is_aligned_and_escaped():
    rows = [{"clip": "<a>", "IoU": 0.12345, "n": 3}, {"clip": "street", "IoU": 1234.5, "n": 12}]
    shown = workbook.table([*rows, {"clip": "", "IoU": 12.0, "n": 0}])
    lines = ["clip    IoU     n", "<a>     0.123   3", "street  1234.5  12", "        12.0    0"]
    assert repr(shown).splitlines() == lines
    assert re.search("<td[^>]*>&lt;a&gt;</td><td[^>]*>0.123</td>", shown._repr_html_())
    with pytest.raises(ValueError, match="at least one row"):
        workbook.table([])
