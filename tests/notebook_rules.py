"""What a committed notebook has to be. Each rule takes a notebook and yields its complaints."""

from __future__ import annotations

import ast
import dis
import re
import statistics
import types
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

from pgvl_core import workbook

MAX_CELL_LINES = 30
MAX_MEDIAN_CELL_LINES = 8
MAX_OUTPUT_LINES = 100
MIN_ALT_LENGTH = 15  # characters; "image" or "plot" tells a reader who cannot see it nothing
MACHINE_PATH = re.compile(r"(?<![\w.~])/(home|root|tmp|work|Users)/|[A-Za-z]:\\+Users\\")
EMBEDDED = re.compile(r"data:[\w/.+-]+;base64,[A-Za-z0-9+/=]+")
OPENING = {
    "what the reader will be able to do": r"(?i)you will be able to",
    "the paper's section": r"(?i)paper.{0,80}(section|§)|(section|§).{0,80}paper",
    "a diagram (a fenced block)": r"(?m)^```",
    "prerequisites": r"(?i)prerequisite",
    "a table of minutes, peak RAM and download per profile": (
        r"(?im)^\|\s*profile\s*\|\s*minutes\s*\|\s*peak RAM\s*\|\s*download"
    ),
}


def is_stamped_for_its_source(nb: nbformat.NotebookNode) -> Iterator[str]:
    stamp = nb.metadata.get("pgvl")
    if stamp is None:
        yield "has no stamp; run make notebooks"
    elif stamp["source_sha256"] != workbook.source_hash(nb):
        yield "was edited after it was executed; run make notebooks"


def is_executed_in_order(nb: nbformat.NotebookNode) -> Iterator[str]:
    counts = [cell.execution_count for cell in _code(nb)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"is not executed from top to bottom: {counts}"


def outputs_are_fit_to_read(nb: nbformat.NotebookNode) -> Iterator[str]:
    for number, output in _outputs(nb):
        if output.output_type == "error":
            yield f"cell {number} ends in {output.ename}"
        if output.get("name") == "stderr":
            yield f"cell {number} has a warning in its output: {output.text[:200]}"
        for kind, text in _texts(output):
            if path := MACHINE_PATH.search(EMBEDDED.sub("", text)):
                yield f"cell {number} shows a path of a machine: {text[path.start() :][:60]}"
            if kind != "text/html" and text.count("\n") >= MAX_OUTPUT_LINES:
                yield f"cell {number} prints more than {MAX_OUTPUT_LINES} lines"


def code_cells_are_short(nb: nbformat.NotebookNode) -> Iterator[str]:
    lengths = [cell.source.count("\n") + 1 for cell in _code(nb)]
    for number, length in enumerate(lengths, 1):
        if length > MAX_CELL_LINES:
            yield f"cell {number} has {length} lines, more than {MAX_CELL_LINES}"
    if statistics.median(lengths) > MAX_MEDIAN_CELL_LINES:
        yield f"its cells are long: a median of {statistics.median(lengths)} lines"


def images_have_alt_text(nb: nbformat.NotebookNode) -> Iterator[str]:
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            yield from _without_alt(cell.source, "the text")
    for number, output in _outputs(nb):
        data = output.get("data", {})
        # The front ends show HTML in place of a picture where a cell gives both.
        for kind in data if "text/html" not in data else ():
            alt = output.metadata.get(kind, {}).get("alt", "")
            if kind.startswith("image/") and len(alt) < MIN_ALT_LENGTH:
                yield f"cell {number} shows a picture without alt text"
        for kind in ("text/html", "text/markdown"):
            yield from _without_alt(_joined(data.get(kind, "")), f"cell {number}")


def opens_as_every_notebook(nb: nbformat.NotebookNode) -> Iterator[str]:
    opening = nb.cells[0]
    if opening.cell_type != "markdown":
        yield "does not open with text"
    for what, pattern in OPENING.items():
        if not re.search(pattern, opening.source):
            yield f"does not open with {what}"
    stamp = nb.metadata.get("pgvl")
    if stamp and workbook.measured_row(opening.source, stamp) != opening.source:
        yield "opens with minutes or RAM that are not those measured; run make notebooks"


def second_cell_holds_the_parameters(nb: nbformat.NotebookNode) -> Iterator[str]:
    tagged = [i for i, cell in enumerate(nb.cells) if "parameters" in _tags(cell)]
    if tagged != [1]:
        yield f"its cells tagged parameters are {tagged}, not the second alone"
        return
    defaults = parameter_defaults(nb)
    for name in ("PROFILE", "SEED", "OUTPUT_DIR"):
        if name not in defaults:
            yield f"has no parameter {name}"
    for name, reason in unread_parameters(nb, defaults).items():
        yield f"its parameter {name} {reason}"


def last_cell_writes_the_results(nb: nbformat.NotebookNode) -> Iterator[str]:
    calls = [node for node in ast.walk(_tree(_code(nb)[-1])) if isinstance(node, ast.Call)]
    if not any(ast.unparse(call.func).split(".")[-1] == "write_results" for call in calls):
        yield "its last code cell does not call write_results"


def has_no_output_widget(nb: nbformat.NotebookNode) -> Iterator[str]:
    """One makes nbclient, and so papermill, wait for ever now and then (jupyter/nbclient#312)."""
    for call in {"interact", "interactive", "interactive_output", "Output"} & set(_calls(nb)):
        yield f"calls {call}, which makes an output widget; Explorer does without"


def asks_the_reader(nb: nbformat.NotebookNode) -> Iterator[str]:
    calls = _calls(nb)
    if "quiz" not in calls:
        yield "has no quiz"
    if calls.count("attempt") < 2:
        yield f"has {calls.count('attempt')} checked exercises, fewer than two"


RULES = (
    is_stamped_for_its_source,
    is_executed_in_order,
    outputs_are_fit_to_read,
    code_cells_are_short,
    images_have_alt_text,
    opens_as_every_notebook,
    second_cell_holds_the_parameters,
    last_cell_writes_the_results,
    has_no_output_widget,
    asks_the_reader,
)


def parameter_defaults(nb: nbformat.NotebookNode) -> dict[str, object]:
    """Names bound in the parameters cell with their values, which must be literals."""
    return {
        target.id: ast.literal_eval(statement.value)
        for statement in _tree(nb.cells[1]).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }


def unread_parameters(nb: nbformat.NotebookNode, names: Iterable[str]) -> dict[str, str]:
    """Which of the parameters have no effect, and why.

    papermill sets a parameter right after the cell tagged "parameters" and reports none of three
    mistakes: that the notebook does not declare it, that no later cell reads it, or that a later
    cell binds the name anew before any reads it.
    """
    declared = parameter_defaults(nb)
    first_use: dict[str, str] = {}
    for cell in nb.cells[2:]:
        if cell.cell_type == "code":
            for name, use in _global_uses(compile(_plain(cell), "cell", "exec")):
                first_use.setdefault(name, use)
    reasons = {}
    for name in names:
        if name not in declared:
            reasons[name] = "is not in the parameters cell"
        elif name not in first_use:
            reasons[name] = "is read by no later cell"
        elif first_use[name] == "bound":
            reasons[name] = "is bound anew before any later cell reads it"
    return reasons


def _calls(nb: nbformat.NotebookNode) -> list[str]:
    """Names of what is called, without what they belong to."""
    return [
        ast.unparse(node.func).split(".")[-1]
        for cell in _code(nb)
        for node in ast.walk(_tree(cell))
        if isinstance(node, ast.Call)
    ]


def _global_uses(code: types.CodeType) -> Iterator[tuple[str, str]]:
    # Bytecode rather than syntax: it stands in the order of evaluation, and the compiler has told
    # a function's locals from the notebook's names.
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_NAME", "LOAD_GLOBAL"):
            yield instruction.argval, "read"
        elif instruction.opname in ("STORE_NAME", "STORE_GLOBAL"):
            yield instruction.argval, "bound"
        elif isinstance(instruction.argval, types.CodeType):
            yield from _global_uses(instruction.argval)


class _Images(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.alts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.alts.append(dict(attrs).get("alt") or "")


def _without_alt(text: str, where: str) -> Iterator[str]:
    parser = _Images()
    parser.feed(text)
    alts = parser.alts + re.findall(r"!\[([^\]]*)\]\(", text)
    for alt in alts:
        if len(alt) < MIN_ALT_LENGTH:
            yield f"{where} shows a picture whose alt text is {alt!r}"


def _code(nb: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def _tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def _plain(cell: nbformat.NotebookNode) -> str:
    """The cell's Python, its magics turned into calls."""
    return TransformerManager().transform_cell(cell.source)


def _tree(cell: nbformat.NotebookNode) -> ast.Module:
    return ast.parse(_plain(cell))


def _outputs(nb: nbformat.NotebookNode) -> Iterator[tuple[int, nbformat.NotebookNode]]:
    for number, cell in enumerate(_code(nb), 1):
        for output in cell.outputs:
            yield number, output


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def _texts(output: nbformat.NotebookNode) -> Iterator[tuple[str, str]]:
    if output.output_type == "stream":
        yield "stream", output.text
    if output.output_type == "error":
        yield "error", "\n".join(output.traceback)
    for kind, text in output.get("data", {}).items():
        if kind.startswith("text/"):
            yield kind, _joined(text)
