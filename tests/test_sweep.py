"""Sweeps over tiny notebooks, in processes as a reader starts them."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import nbformat
import pytest
import yaml
from PIL import Image

from pgvl_core import cli, sweep, workbook

ROOT = Path(__file__).parent.parent
PARAMETERS = """PROFILE = "pocket"
SEED = 0
COUNT = 3
RATE = 0.5
WORDS = ["a"]
NAME = "x"
DIARY = ""
OUTPUT_DIR = "../build/{stem}"
"""
BODY = """from pathlib import Path
import os, time
with Path(DIARY or os.devnull).open("a") as diary:
    print(COUNT, SEED, os.environ["OMP_NUM_THREADS"], file=diary)
"""
RESULTS = """from pgvl_core import workbook
numbers = {"total": sum(range(COUNT)), "rate": RATE * COUNT + SEED, "name": NAME}
workbook.write_results(OUTPUT_DIR, "sum", numbers, profile=PROFILE, seed=SEED)"""


def add_notebook(stem, *sources):
    """A notebook that writes its parameters, and its threads, into its diary when it runs."""
    parameters = nbformat.v4.new_code_cell(PARAMETERS.format(stem=stem))
    parameters.metadata["tags"] = ["parameters"]
    cells = [parameters, *map(nbformat.v4.new_code_cell, (BODY, *sources, RESULTS))]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, workbook.NOTEBOOKS / f"{stem}.ipynb")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with notebooks of its own, in which the commands are given."""
    monkeypatch.setattr(workbook, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(workbook, "BUILD", tmp_path / "build")
    monkeypatch.chdir(tmp_path)
    workbook.NOTEBOOKS.mkdir()
    return tmp_path


def write_sweep(folder, **content):
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"notebook": "sum", **content}))
    return path


def diary(folder):
    """COUNT and SEED of the runs that were begun, sorted."""
    path = folder / "diary.txt"
    return sorted(line.split()[:2] for line in path.read_text().splitlines())


def rows(folder):
    with (folder / "results.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


# ------------------------------------------------------------------------------------------- run
def test_run_takes_typed_parameters_and_says_what_it_measured(checkout, capsys):
    add_notebook("sum")
    given = ["-p", "COUNT", "5", "-p", "RATE", "1e-1", "-p", "NAME", "12", "-p", "WORDS", "['b']"]
    assert cli.main(["run", "sum", *given]) == 0
    written = workbook.read_results(checkout / "build" / "run" / "sum")
    assert written["numbers"] == {"total": 10, "rate": 0.5, "name": "12"}
    assert re.search(r"total +10\n", capsys.readouterr().out)
    executed = (checkout / "build" / "run" / "sum.ipynb").read_text()
    assert 'WORDS = [\\"b\\"]' in executed
    assert cli.main(["run", "sum", "-o", "elsewhere"]) == 0
    assert workbook.read_results(checkout / "elsewhere" / "sum")["numbers"]["total"] == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["som"], "there is no notebook som; there are sum"),
        (["sum", "-p", "COUNTS", "5"], "sum.ipynb has no parameter COUNTS; it has PROFILE, SEED"),
        (["sum", "-p", "COUNT", "five"], "COUNT five is no value like 3"),
        (["sum", "-p", "COUNT", "0.5"], "COUNT is 3 by default, and 0.5 is no int"),
        (["sum", "-p", "COUNT", "True"], "COUNT is 3 by default, and True is no int"),
        (["sum", "-p", "WORDS", "'b'"], "WORDS is ['a'] by default, and 'b' is no list"),
        (["sum", "-p", "OUTPUT_DIR", "x"], "OUTPUT_DIR follows from where the run is to go"),
    ],
)
def test_run_refuses_at_the_door_what_the_notebook_does_not_take(checkout, capsys, arguments, told):
    add_notebook("sum")
    assert cli.main(["run", *arguments]) == 1
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not (checkout / "build").exists()


# ----------------------------------------------------------------------------------------- sweep
def test_sweep_of_the_readme_runs_as_written(checkout, capsys):
    """The command and the file's form, with a notebook of the same name and parameters."""
    (command,) = re.findall(r"^\.venv/bin/pgvl (sweep .*)$", (ROOT / "README.md").read_text(), re.M)
    file = ROOT / command.split()[1]
    content = yaml.safe_load(file.read_text())
    add_notebook(content["notebook"])
    notebook = nbformat.read(workbook.NOTEBOOKS / f"{content['notebook']}.ipynb", as_version=4)
    notebook.cells[0].source += "CLIPS = 160\nFRAMES = 100\n"
    shown = dict.fromkeys(content["show"], "CLIPS / 100 + SEED + FRAMES")
    values = ", ".join(f"{name!r}: {value}" for name, value in shown.items())
    notebook.cells[-1].source = RESULTS.replace('{"total"', f'{{{values}, "total"')
    nbformat.write(notebook, workbook.NOTEBOOKS / f"{content['notebook']}.ipynb")
    (checkout / file.relative_to(ROOT)).parent.mkdir(parents=True)
    (checkout / file.relative_to(ROOT)).write_text(file.read_text())
    assert cli.main(command.split()) == 0
    output = checkout / "build" / "sweeps" / file.stem
    expected = [
        (clips, seed, clips / 100 + seed + content["fixed"]["FRAMES"])
        for clips in content["grid"]["CLIPS"]
        for seed in content["grid"]["SEED"]
    ]
    for row, (clips, seed, value) in zip(rows(output), expected, strict=True):
        assert (row["CLIPS"], row["SEED"]) == (str(clips), str(seed))
        assert float(row[content["show"][0]]) == pytest.approx(value)
        assert row["total"] == "3"
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == [*content["grid"], *content["show"]]
    assert len(printed) == len(expected) + 3
    with Image.open(output / "results.png") as plot:
        assert plot.format == "PNG"
        assert plot.width > 400


def test_sweep_of_the_repository_is_about_its_notebook():
    """The file that the README names is read with the notebook it is meant for."""
    read = sweep.read_sweep(ROOT / "data" / "sweeps" / "pooling.yaml")
    stamped = nbformat.read(read.notebook, as_version=4).metadata.pgvl["numbers"]
    assert set(read.show) <= set(stamped)
    assert len(sweep.combinations(read)) == 6


def test_finished_runs_are_kept_and_new_ones_run(checkout):
    add_notebook("sum")
    fixed = {"DIARY": str(checkout / "diary.txt"), "RATE": 2}
    file = write_sweep(checkout, grid={"COUNT": [2, 4]}, fixed=fixed)
    assert cli.main(["sweep", str(file), "-o", "out"]) == 0
    write_sweep(checkout, grid={"COUNT": [4, 2, 3]}, fixed=fixed)
    assert cli.main(["sweep", str(file), "-o", "out"]) == 0
    assert diary(checkout) == [["2", "0"], ["3", "0"], ["4", "0"]]
    assert [(r["COUNT"], r["rate"]) for r in rows(checkout / "out")] == [
        ("4", "8"),
        ("2", "4"),
        ("3", "6"),
    ]
    write_sweep(checkout, grid={"COUNT": [2]}, fixed={**fixed, "RATE": 3.5})
    assert cli.main(["sweep", str(file), "-o", "out"]) == 0
    assert [r["rate"] for r in rows(checkout / "out")] == ["7.0"]
    add_notebook("sum", "COUNT = 100")  # another source: nothing of before holds
    assert cli.main(["sweep", str(file), "-o", "out"]) == 0
    assert [r["total"] for r in rows(checkout / "out")] == ["4950"]
    assert len(diary(checkout)) == 5


def test_a_run_that_fails_takes_no_other_with_it_and_is_tried_again(checkout, capfd):
    mend = "if COUNT == 3 and not Path('mended').exists():\n    os.kill(os.getpid(), 9)\n"
    raises = "assert COUNT != 2 or Path('mended').exists(), 'two is too few'"
    add_notebook("sum", mend + raises)
    fixed = {"DIARY": str(checkout / "diary.txt")}
    file = write_sweep(checkout, grid={"COUNT": [2, 3, 4]}, fixed=fixed, workers=3)
    assert cli.main(["sweep", str(file), "-o", "out"]) == 1
    shown = capfd.readouterr()
    assert [r["COUNT"] for r in rows(checkout / "out")] == ["4"]
    assert "COUNT-2" in shown.err
    assert "two is too few" in shown.err
    assert "COUNT-3" in shown.err
    (log,) = (checkout / "out").glob("COUNT-2*/log.txt")
    assert "AssertionError" in log.read_text()
    (workbook.NOTEBOOKS / "mended").touch()
    assert cli.main(["sweep", str(file), "-o", "out"]) == 0
    assert [r["COUNT"] for r in rows(checkout / "out")] == ["2", "3", "4"]
    assert [count for count, _ in diary(checkout)] == ["2", "2", "3", "3", "4"]


COMMAND = """import sys
from pathlib import Path
from pgvl_core import cli, workbook
workbook.NOTEBOOKS = Path("notebooks").absolute()
sys.exit(cli.main(["sweep", "sweep.yaml", "-o", "out"]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_is_stopped_goes_on_where_it_was(checkout, stop):
    """The one run it was in is run again, from the start; nothing of it goes on by itself."""
    wait = "while COUNT == 3 and not Path('go').exists():\n    time.sleep(0.1)\n"
    add_notebook("sum", wait)
    fixed = {"DIARY": str(checkout / "diary.txt")}
    write_sweep(checkout, grid={"COUNT": [2, 3]}, fixed=fixed)
    command = [sys.executable, "-c", COMMAND]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # A shell's background jobs ignore SIGINT, and their children would too.
    listens = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    first = subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=listens)
    until(lambda: ["3", "0"] in diary(checkout) if (checkout / "diary.txt").exists() else False)
    finished = list((checkout / "out").glob("*/run.json"))
    assert [path.parent.name.split("_")[0] for path in finished] == ["COUNT-2"]
    before = finished[0].read_bytes()
    first.send_signal(stop)  # to the sweep alone
    assert first.wait(timeout=300) != 0
    until(lambda: not alive(first.pid))
    assert not (checkout / "out" / "results.csv").exists()
    (workbook.NOTEBOOKS / "go").touch()
    again = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert [r["total"] for r in rows(checkout / "out")] == ["1", "3"]
    assert diary(checkout) == [["2", "0"], ["3", "0"], ["3", "0"]]
    assert finished[0].read_bytes() == before
    assert again.stdout.splitlines()[0].split()[0] == "COUNT"


def until(true, seconds=300):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.1)


def alive(session):
    """Whether a process of the session is left; a kernel is of a session of its own."""
    found = subprocess.run(["ps", "-eo", "sid=,args="], capture_output=True, text=True).stdout
    return any(line.split()[0] == str(session) for line in found.splitlines())


def test_workers_share_the_cores(checkout, monkeypatch):
    add_notebook("sum")
    monkeypatch.setattr(os, "cpu_count", lambda: 9)
    fixed = {"DIARY": str(checkout / "diary.txt")}
    file = write_sweep(checkout, grid={"COUNT": [2]}, fixed=fixed, workers=2)
    assert cli.main(["sweep", str(file), "-o", "out"]) == 0
    assert (checkout / "diary.txt").read_text() == "2 0 4\n"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "not a readable YAML file"),
        ("[]", "a sweep has a notebook and a grid, and may have"),
        ("{notebook: sum}", "a sweep has a notebook and a grid"),
        ("{notebook: sum, grid: {COUNT: [1]}, worker: 2}", "may have .*workers"),
        ("{notebook: som, grid: {COUNT: [1]}}", "there is no notebook som; there are sum"),
        ("{notebook: sum, grid: {COUNTS: [1]}}", "no parameter COUNTS; it has PROFILE, SEED"),
        ("{notebook: sum, grid: {COUNT: [1]}, fixed: {TIME: 2}}", "no parameter TIME; it has"),
        ("{notebook: sum, grid: {COUNT: [1, x]}}", "COUNT is 3 by default, and 'x' is no int"),
        ("{notebook: sum, grid: {COUNT: 1}}", "COUNT needs a list of values"),
        ("{notebook: sum, grid: {COUNT: []}}", "COUNT needs a list of values"),
        ("{notebook: sum, grid: {}}", "grid is not empty"),
        ("{notebook: sum, grid: {COUNT: [1]}, fixed: {COUNT: 2}}", "in grid and in fixed"),
        ("{notebook: sum, grid: {COUNT: [1]}, workers: 0}", "a number from 1, not 0"),
        ("{notebook: sum, grid: {COUNT: [1]}, show: total}", "show is a list"),
        ("{notebook: sum, grid: {OUTPUT_DIR: [x]}}", "OUTPUT_DIR follows"),
    ],
)
def test_what_is_no_sweep_is_refused_before_anything_runs(checkout, capsys, content, told):
    add_notebook("sum")
    (checkout / "sweep.yaml").write_text(content)
    assert cli.main(["sweep", "sweep.yaml"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: sweep.yaml: ")
    assert re.search(told, error)
    assert not (checkout / "build").exists()


def test_a_result_that_no_run_has_is_told(checkout, capsys):
    add_notebook("sum")
    write_sweep(checkout, grid={"COUNT": [2]}, show=["totals", "r*"])
    assert cli.main(["sweep", "sweep.yaml", "-o", "out"]) == 1
    assert "no result is called totals; there are total, rate, name" in capsys.readouterr().err


def test_two_sweeps_do_not_share_a_folder(checkout, capsys):
    add_notebook("sum")
    write_sweep(checkout, grid={"COUNT": [2]})
    (checkout / "out").mkdir()
    with sweep.filelock.FileLock(checkout / "out" / ".lock"):
        assert cli.main(["sweep", "sweep.yaml", "-o", "out"]) == 1
    assert "another sweep is at work in out" in capsys.readouterr().err
