"""Run the notebooks, and the few things every notebook uses: show source, a table, its results."""

from __future__ import annotations

import ast
import datetime
import hashlib
import html
import importlib.metadata
import inspect
import json
import math
import platform
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from pgvl_core.files import write_text

# nbformat, papermill and nbconvert take two seconds to import: paid only where notebooks are run.
if TYPE_CHECKING:
    import nbformat

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
BUILD = ROOT / "build"
TIMEOUT = 1800.0  # seconds a whole notebook may take
RECORDED = ("torch", "transformers", "numpy")  # packages whose versions can move a measured number
KEY_NUMBERS = 4  # how many of a notebook's numbers the closing table shows


# What a notebook calls


@dataclass(frozen=True)
class Source:
    """Source text that a notebook shows highlighted."""

    file: str
    text: str

    def __repr__(self) -> str:
        return f"# {self.file}\n{self.text}"

    def _repr_html_(self) -> str:
        # Styles at each word: a page that shows the output may have no style sheet for it.
        frame = "font-family: monospace; line-height: 125%; padding: 6px"
        formatter = HtmlFormatter(noclasses=True, nobackground=True, prestyles=frame)
        return highlight(repr(self), PythonLexer(), formatter)


def show_source(definition: Any) -> Source:
    """The source of a function, class or module, as a cell shows it.

    The file is named relative to the checkout, or bare when it lies outside.
    """
    path = Path(inspect.getsourcefile(definition) or "")
    file = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    return Source(file, inspect.getsource(definition).rstrip())


@dataclass(frozen=True)
class Table:
    """Rows with one heading each, drawn as text and as HTML."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __repr__(self) -> str:
        lines = (self.headings, *self.rows)
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.headings))]
        return "\n".join(
            "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )

    def _repr_html_(self) -> str:
        def row(texts: tuple[str, ...], tag: str) -> str:
            cell = f'<{tag} style="text-align: left">'  # front ends align to the right
            return "<tr>" + "".join(f"{cell}{html.escape(t)}</{tag}>" for t in texts) + "</tr>"

        body = "".join(row(texts, "td") for texts in self.rows)
        return f"<table><thead>{row(self.headings, 'th')}</thead><tbody>{body}</tbody></table>"


def table(rows: Sequence[Mapping[str, object]]) -> Table:
    """A table of mappings that share their keys; floats are shown to three significant digits."""
    if not rows:
        raise ValueError("a table needs at least one row")
    headings = tuple(rows[0])
    return Table(headings, tuple(tuple(_shown(row[key]) for key in headings) for row in rows))


def _shown(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    # Always with its point: it says that this is a measurement, not a count.
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:#.3g}"


def peak_ram_mb() -> float:
    """The most memory (resident, 10^6 bytes) that this process has held at once."""
    if sys.platform == "linux":
        # Not getrusage: its maximum includes what the parent held when it forked this process.
        status = Path("/proc/self/status").read_text().split()
        return int(status[status.index("VmHWM:") + 1]) * 1024 / 1e6
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 1e6
    import resource  # not there on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # macOS counts bytes


def write_results(
    output_dir: str | Path,
    notebook: str,
    numbers: Mapping[str, float | int | str],
    *,
    profile: str,
    seed: int,
) -> Path:
    """Write ``results.json``: what the notebook measured, and how; the last cell of each calls it.

    Parameters
    ----------
    output_dir : the notebook's OUTPUT_DIR, made if missing
    notebook : its name without suffix, such as "01_frame_encoding"
    numbers : name -> finite number or text; NumPy and torch scalars are taken too
    profile, seed : the parameters the notebook ran with

    Returns
    -------
    Path of the file. Beside `numbers` it holds the minutes since the kernel started, the kernel's
    peak RAM in MB, and the versions of Python and of the packages that matter to a number.

    Raises
    ------
    ValueError : a value is NaN, infinite, or neither a scalar nor a text
    """
    results = {
        "notebook": notebook,
        "profile": profile,
        "seed": seed,
        "numbers": {name: _scalar(name, value) for name, value in numbers.items()},
        "minutes": round((time.time() - psutil.Process().create_time()) / 60, 2),
        "peak_ram_mb": round(peak_ram_mb()),
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in RECORDED},
    }
    path = Path(output_dir) / "results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    return path


def _scalar(name: str, value: Any) -> float | int | str:
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, (int, float, str)) or (
        isinstance(value, float) and not math.isfinite(value)
    ):
        raise ValueError(f"the result {name!r} must be a finite number or a text, not {value!r}")
    return value


# Running notebooks


def run_notebook(
    path: str | Path,
    output_dir: str | Path,
    parameters: Mapping[str, Any] | None = None,
    timeout: float = TIMEOUT,
) -> dict[str, Any]:
    """Run one notebook from top to bottom in a fresh kernel.

    Parameters
    ----------
    path : the notebook; it runs in its own folder and is left as it is
    output_dir : gets the executed notebook, under its own name, and a folder of that name
        (the OUTPUT_DIR parameter) for what the notebook writes
    parameters : values for names of the cell tagged "parameters"
    timeout : seconds for the whole notebook

    Returns
    -------
    What its last cell wrote to results.json (see `write_results`).

    Raises
    ------
    ValueError : a parameter that is not the notebook's (`check_parameters`), before anything runs
    papermill.PapermillExecutionError : a cell raised; the message is its traceback
    nbclient.exceptions.CellTimeoutError : the time was up
    """
    path, output_dir = Path(path).resolve(), Path(output_dir).resolve()
    written = output_dir / path.stem
    check_parameters(path, parameters or {})
    given = {**(parameters or {}), "OUTPUT_DIR": str(written)}
    written.mkdir(parents=True, exist_ok=True)
    _execute(path, output_dir / path.name, written, given, timeout)
    return read_results(written)


def defaults(path: Path) -> dict[str, Any]:
    """The parameters of a notebook and their default values."""
    import papermill

    declared = papermill.inspect_notebook(str(path))
    return {name: ast.literal_eval(each["default"]) for name, each in declared.items()}


def check_parameters(path: Path, given: Mapping[str, Any]) -> None:
    """Hold parameters against those that a notebook declares.

    Raises
    ------
    ValueError : one that it does not declare, a value of another type than its default (a whole
        number may stand for a float), or OUTPUT_DIR, which is set for every run
    """
    declared = defaults(path)
    if "OUTPUT_DIR" in given:
        raise ValueError(f"{path.name}: OUTPUT_DIR follows from where the run is to go (-o)")
    if unknown := sorted({*given, "OUTPUT_DIR"} - declared.keys()):
        raise ValueError(
            f"{path.name} has no parameter {', '.join(unknown)}; it has {', '.join(declared)}"
        )
    for name, value in given.items():
        kind = type(declared[name])
        if type(value) not in ({float, int} if kind is float else {kind}):
            raise ValueError(
                f"{path.name}: {name} is {declared[name]!r} by default, and {value!r} is "
                f"no {kind.__name__}"
            )


def read_parameters(path: Path, texts: Mapping[str, str]) -> dict[str, Any]:
    """Parameters from a command line: a text as it is, all else as one writes it in Python.

    Raises
    ------
    ValueError : as `check_parameters`, or a value that cannot be read
    """
    declared, given = defaults(path), dict[str, Any](texts)
    for name, text in texts.items():
        if not isinstance(declared.get(name, ""), str):
            try:
                given[name] = ast.literal_eval(text)
            except (ValueError, SyntaxError) as error:
                example = f"{declared[name]!r}"
                raise ValueError(
                    f"{path.name}: {name} {text} is no value like {example}"
                ) from error
    check_parameters(path, given)
    return given


def read_results(output_dir: Path) -> dict[str, Any]:
    """What `write_results` wrote there."""
    return json.loads((output_dir / "results.json").read_text(encoding="utf-8"))


def _execute(
    path: Path, output: Path, written: Path, parameters: dict[str, Any], timeout: float
) -> None:
    import papermill

    # A run that fails must not leave the numbers of an earlier one to be read as its own.
    (written / "results.json").unlink(missing_ok=True)
    end = time.monotonic() + timeout
    papermill.execute_notebook(
        str(path),
        str(output),
        parameters,
        cwd=str(path.parent),
        progress_bar={"desc": path.stem},
        # The kernel warns at each start that its local connection is not encrypted.
        extra_arguments=["--log-level=ERROR"],
        # The client counts per cell, and takes 0 and less as no limit at all.
        timeout_func=lambda cell: max(1, math.ceil(end - time.monotonic())),
    )


def notebooks(names: Sequence[str] | None = None) -> list[Path]:
    """The workbook's notebooks in reading order, or those of the names given (without suffix).

    Raises
    ------
    ValueError : a name that no notebook has
    """
    found = sorted(NOTEBOOKS.glob("*.ipynb"))
    if unknown := sorted(set(names or ()) - {path.stem for path in found}):
        there = ", ".join(path.stem for path in found)
        raise ValueError(f"there is no notebook {', '.join(unknown)}; there are {there}")
    return [path for path in found if not names or path.stem in names]


def run_workbook(output: str | Path = BUILD, names: Sequence[str] | None = None) -> int:
    """Run the notebooks in order into `output`, one after another, and print what they measured.

    One that fails does not stop the others: its traceback is shown, and kept in ``error.txt``
    beside its results. Each executed notebook is also written as an HTML page.

    Returns
    -------
    The number of notebooks that failed, fit for an exit status.
    """
    output = Path(output)
    rows, failed = [], 0
    for path in notebooks(names):
        error = output / path.stem / "error.txt"
        error.unlink(missing_ok=True)
        try:
            results = run_notebook(path, output)
        except Exception:
            trace = traceback.format_exc()
            error.parent.mkdir(parents=True, exist_ok=True)
            write_text(error, trace)
            print(f"{path.stem} failed:\n{trace}", file=sys.stderr, flush=True)
            row = ("-", "-", f"FAILED: see {error}")
            failed += 1
        else:
            numbers = list(results["numbers"].items())[:KEY_NUMBERS]
            shown = ", ".join(f"{name} {_shown(value)}" for name, value in numbers)
            row = (results["minutes"], results["peak_ram_mb"], shown)
        rows.append((path.stem, *row))
        executed = output / path.name
        if executed.exists():
            write_text(executed.with_suffix(".html"), _page(executed))
    headings = ("notebook", "minutes", "peak RAM (MB)", "key numbers")
    print(f"\n{table([dict(zip(headings, row, strict=True)) for row in rows])}\n")
    print(f"Read them as pages: {output}/*.html")
    print("Work with them: make lab, or jupyter lab notebooks/00_start_here.ipynb")
    return failed


def _page(executed: Path) -> str:
    """A notebook as HTML, without what JupyterLab folds (a quiz's source) and without widgets."""
    import nbformat
    from nbconvert import HTMLExporter

    notebook = nbformat.read(executed, as_version=4)
    for cell in notebook.cells:
        if cell.metadata.get("jupyter", {}).get("source_hidden"):
            cell.metadata.transient = {"remove_source": True}
        if cell.cell_type == "code":
            cell.outputs = _still(cell.outputs)
    return HTMLExporter().from_notebook_node(notebook)[0]


def _still(outputs: list[Any]) -> list[Any]:
    """Outputs without widgets, which no kernel moves any more: their HTML if they brought any.

    JupyterLab and nbconvert would show "model not found", or a script of the widget's from the
    web, rather than that HTML.
    """
    kept = []
    for output in outputs:
        widget = output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
        if widget is None or "text/html" in output.data:
            kept.append(output)
    return kept


# Committed outputs


def source_hash(notebook: nbformat.NotebookNode) -> str:
    """SHA-256 over the type, tags and source of every cell: changes when any of them does."""
    cells = [[c.cell_type, sorted(c.metadata.get("tags", [])), c.source] for c in notebook.cells]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def execute_in_place(path: Path) -> None:
    """Run a notebook with its own defaults and put the outputs into it, stamped with how it ran.

    Metadata of the run and paths of this machine are taken out. The stamp (``metadata.pgvl``) holds
    the source hash, the results and the date; the row ``| pocket | minutes | RAM |`` of
    the opening cell's table is set to what was measured.
    """
    import nbformat

    output, written = BUILD / f"{path.stem}.in_place.ipynb", BUILD / path.stem
    output.parent.mkdir(exist_ok=True)
    _execute(path, output, written, {}, TIMEOUT)
    results = read_results(written)
    notebook = nbformat.read(output, as_version=4)
    output.unlink()
    _strip(notebook)
    opening = notebook.cells[0]
    opening.source = measured_row(opening.source, results)
    results["executed"] = datetime.date.today().isoformat()
    notebook.metadata.pgvl = {"source_sha256": source_hash(notebook), **results}
    write_text(path, nbformat.writes(notebook) + "\n")


def measured_row(opening: str, results: Mapping[str, Any]) -> str:
    """The opening cell, the row of its table for the profile set to what was measured."""
    lines = opening.split("\n")
    for i, line in enumerate(lines):
        columns = line.split("|")
        if len(columns) > 4 and columns[1].strip(" `") == results["profile"]:
            columns[2] = f" {results['minutes']:.1f} "
            columns[3] = f" {results['peak_ram_mb'] / 1000:.1f} GB "
            lines[i] = "|".join(columns)
    return "\n".join(lines)


def _strip(notebook: nbformat.NotebookNode) -> None:
    import nbformat

    kept = ("kernelspec", "language_info")
    notebook.metadata = nbformat.NotebookNode({k: notebook.metadata[k] for k in kept})
    for cell in notebook.cells:
        for key in ("papermill", "execution", "ExecuteTime"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags"):
            cell.metadata.pop("tags", None)
        if cell.cell_type == "code":
            text = json.dumps(_still(cell.outputs), ensure_ascii=False)
            text = text.replace(str(ROOT), "..").replace(str(Path.home()), "~")
            cell.outputs = [nbformat.from_dict(output) for output in json.loads(text)]


if __name__ == "__main__":
    for notebook_path in notebooks(sys.argv[1:]):
        print(notebook_path.stem, flush=True)
        execute_in_place(notebook_path)
