"""Run a notebook with every combination of some of its parameters, and collect what it measures.

Each run is a process of its own with a kernel of its own, so that one that fails, or that the
system kills for its memory, takes no other with it. A run's folder is named by what was run: its
parameters and the notebook's source. What is there is not run again, and a sweep whose file was
changed runs what is new in it. (A change of `pgvl_core` is not seen: delete the folder then.)
"""

from __future__ import annotations

import csv
import fnmatch
import hashlib
import io
import itertools
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import yaml
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from pgvl_core import workbook
from pgvl_core.files import whole, write_text

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
PANEL = 3.6, 2.8  # inches of a panel of the plot
DONE = "run.json"  # what a finished run's folder holds: its parameters and its results


@dataclass(frozen=True)
class Sweep:
    """What a sweep's file says.

    Attributes
    ----------
    notebook : Path
    grid : parameter -> its values; every combination is run
    fixed : parameter -> its value in all runs, where it is not the notebook's own default
    show : names of results, or patterns of names, for the table and the plot; the CSV has all
    workers : how many runs at a time; they share the machine's cores evenly
    """

    notebook: Path
    grid: Mapping[str, list[Any]]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    show: Sequence[str] = ("*",)
    workers: int = 1


def read_sweep(path: str | Path) -> Sweep:
    """Read a sweep's file (YAML) and hold every value against the notebook's own parameters.

    Raises
    ------
    ValueError
        When the file cannot be read as a sweep, or names a notebook or a parameter that is not
        there, or a value of another kind than the parameter's default.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: not a readable YAML file ({error})") from error
    try:
        return _sweep(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _sweep(content: Any) -> Sweep:
    known = Sweep.__dataclass_fields__
    if not isinstance(content, dict) or not {"notebook", "grid"} <= content.keys() <= known.keys():
        raise ValueError(f"a sweep has a notebook and a grid, and may have {', '.join(known)}")
    (notebook,) = workbook.notebooks([str(content["notebook"])])
    sweep = Sweep(**{**content, "notebook": notebook})
    if not (isinstance(sweep.grid, dict) and sweep.grid and isinstance(sweep.fixed, dict)):
        raise ValueError("grid and fixed map parameters to values, and grid is not empty")
    for name, values in sweep.grid.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"grid: {name} needs a list of values, such as [1, 2]")
        if name in sweep.fixed:
            raise ValueError(f"{name} is in grid and in fixed")
    if not (isinstance(sweep.show, list | tuple) and all(isinstance(n, str) for n in sweep.show)):
        raise ValueError("show is a list of names of results")
    if not isinstance(sweep.workers, int) or sweep.workers < 1:
        raise ValueError(f"workers is a number from 1, not {sweep.workers!r}")
    for parameters in combinations(sweep):
        workbook.check_parameters(notebook, parameters)
    return sweep


def combinations(sweep: Sweep) -> list[dict[str, Any]]:
    """The parameters of each run: all combinations of the grid, its last name varying fastest."""
    values = itertools.product(*sweep.grid.values())
    return [{**sweep.fixed, **dict(zip(sweep.grid, each, strict=True))} for each in values]


def run_sweep(path: str | Path, output: str | Path | None = None) -> int:
    """Run what is not yet there of a sweep, and write and print what was measured.

    Parameters
    ----------
    path : the sweep's file
    output : gets a folder for each run, ``results.csv`` and ``results.png``; by default
        ``build/sweeps/`` and the file's name

    Returns
    -------
    The number of runs that failed, fit for an exit status. Each is named with its last words, and
    ``log.txt`` in its folder has the rest; the next sweep tries it again.

    Raises
    ------
    ValueError
        When the file is no sweep (`read_sweep`), another sweep is at work in the folder, or
        `show` names a result that no run has.
    """
    sweep = read_sweep(path)
    output = Path(output or workbook.BUILD / "sweeps" / Path(path).stem)
    output.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(output / ".lock", timeout=0):
            results = _run_all(sweep, output)
    except filelock.Timeout as error:
        raise ValueError(f"another sweep is at work in {output}; wait for it") from error
    measured = [(run, each["numbers"]) for run, each in results if each is not None]
    if measured:
        _collect(sweep, measured, output)
    return len(results) - len(measured)


Measured = list[tuple[dict[str, Any], dict[str, Any]]]  # the parameters and numbers of runs


def _run_all(sweep: Sweep, output: Path) -> list[tuple[dict[str, Any], dict[str, Any] | None]]:
    """Parameters and results of every run, in the grid's order; None for one that failed."""
    import nbformat

    source = workbook.source_hash(nbformat.read(sweep.notebook, as_version=4))
    runs = combinations(sweep)
    folders = [output / _name(sweep, run, source) for run in runs]
    todo = [i for i, folder in enumerate(folders) if _finished(folder) is None]
    threads = str(max(1, (os.cpu_count() or 1) // sweep.workers))
    environment = {**os.environ, **dict.fromkeys(THREADS, threads)}
    children: list[subprocess.Popen[str]] = []
    bar = tqdm(total=len(runs), initial=len(runs) - len(todo), desc=f"{output.name}, runs")
    with bar, ThreadPoolExecutor(sweep.workers) as pool:
        jobs = [
            pool.submit(_start, sweep.notebook, runs[i], folders[i], environment, children)
            for i in todo
        ]
        try:
            for job in as_completed(jobs):
                bar.update()
                if failure := job.result():
                    tqdm.write(failure, file=sys.stderr)
        except BaseException:  # Ctrl-C above all: nobody waits for notebooks that run for minutes
            pool.shutdown(wait=False, cancel_futures=True)
            for child in children:
                child.kill()
            raise
    return list(zip(runs, map(_finished, folders), strict=True))


def _name(sweep: Sweep, run: Mapping[str, Any], source: str) -> str:
    """A folder's name: the run's place in the grid, to be read, and a hash of all that it is."""
    about = json.dumps([sweep.notebook.stem, source, run], sort_keys=True, default=str)
    varied = "_".join(f"{name}-{run[name]}" for name in sweep.grid)
    readable = re.sub("[^A-Za-z0-9._-]+", "-", varied)[:60]
    return f"{readable}_{hashlib.sha256(about.encode()).hexdigest()[:10]}"


def _finished(folder: Path) -> dict[str, Any] | None:
    """The results of a run that came to its end."""
    try:
        return json.loads((folder / DONE).read_text(encoding="utf-8"))["results"]
    except FileNotFoundError:
        return None


def _start(
    notebook: Path,
    parameters: dict[str, Any],
    folder: Path,
    environment: dict[str, str],
    children: list[subprocess.Popen[str]],
) -> str:
    """Run one notebook in a process of its own; what went wrong, or "" if nothing did."""
    folder.mkdir(exist_ok=True)
    log = folder / "log.txt"
    with log.open("w", encoding="utf-8") as lines:
        child = subprocess.Popen(
            [sys.executable, "-m", "pgvl_core.sweep"],
            stdin=subprocess.PIPE,
            stdout=lines,
            stderr=lines,
            env=environment,
            text=True,
        )
        children.append(child)
        assert child.stdin is not None
        job = {"notebook": str(notebook), "folder": str(folder), "parameters": parameters}
        # Left open: its end tells the child that the sweep is gone, however it went.
        child.stdin.write(json.dumps(job) + "\n")
        child.stdin.flush()
        status = child.wait()
        child.stdin.close()
    if not status:
        return ""
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    return f"{folder.name} failed ({''.join(said) or f'exit status {status}'}): see {log}"


def _child() -> None:
    """What the process of a run does: its notebook, and then the word that it is done."""
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()
    folder = Path(job["folder"])
    results = workbook.run_notebook(job["notebook"], folder, job["parameters"])
    write_text(folder / DONE, json.dumps({**job, "results": results}, indent=1) + "\n")


def _end_with_the_sweep() -> None:
    sys.stdin.read()  # until the sweep closes it, or dies
    os._exit(1)  # the kernel sees that its parent is gone, and goes too


# ---------------------------------------------------------------------------------------- results
def _collect(sweep: Sweep, measured: Measured, output: Path) -> None:
    """Write the CSV and the plot, and print the table, of the runs that came to their end."""
    names = list(dict.fromkeys(name for _, numbers in measured for name in numbers))
    if strange := [pattern for pattern in sweep.show if not fnmatch.filter(names, pattern)]:
        raise ValueError(f"no result is called {', '.join(strange)}; there are {', '.join(names)}")
    shown = list(dict.fromkeys(n for each in sweep.show for n in fnmatch.filter(names, each)))
    lines = io.StringIO(newline="")
    writer = csv.DictWriter(lines, [*sweep.grid, *names], lineterminator="\n")
    writer.writeheader()
    writer.writerows({**{name: run[name] for name in sweep.grid}, **n} for run, n in measured)
    write_text(output / "results.csv", lines.getvalue())
    with whole(output / "results.png") as part:
        _plot(sweep, measured, shown).savefig(part, format="png", dpi=110)
    rows = [
        {name: run[name] for name in sweep.grid} | {name: numbers.get(name, "") for name in shown}
        for run, numbers in measured
    ]
    print(f"{workbook.table(rows)}\n\nAll of it: {output}/results.csv, results.png")


def _plot(sweep: Sweep, measured: Measured, shown: Sequence[str]) -> Figure:
    """A panel for each result, over the grid's first parameter; a line for each of the others."""
    x, *others = sweep.grid
    numeric = [
        name for name in shown if all(not isinstance(n.get(name, 0), str) for _, n in measured)
    ]
    columns = min(3, max(1, len(numeric)))
    rows = max(1, -(-len(numeric) // columns))
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes[len(numeric) :]:
        axis.axis("off")
    for axis, name in zip(axes, numeric, strict=False):
        points: dict[str, list[tuple[Any, float]]] = {}
        for run, numbers in measured:
            if name in numbers:
                line = ", ".join(f"{other} {run[other]}" for other in others)
                points.setdefault(line, []).append((_place(run[x]), numbers[name]))
        for line, each in points.items():
            axis.plot(*zip(*each, strict=True), marker="o", label=line)
        axis.set(title=name, xlabel=x)
    if others and numeric:
        axes[0].legend(fontsize="small")
    return figure


def _place(value: Any) -> Any:
    """Where a value lies on an axis: numbers where they are, all else side by side."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


if __name__ == "__main__":
    _child()
