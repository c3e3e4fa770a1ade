"""Every notebook's exercises: the check refuses the stub and wrong answers, takes the solution.

In a notebook an exercise is a heading ``### Exercise N.M``, a stub in a code cell tagged
``exercise:NAME``, a code cell tagged ``check:NAME`` with ``attempt(exercises.check_NAME, NAME)``,
and the solution in markdown: ``<details><summary>Solution</summary>``, a python fence, and
``<!-- solution:NAME -->``. Stub and solution use nothing of the notebook but its imports.
"""

import ast
import re
from dataclasses import dataclass

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from wrong_answers import WRONG_ANSWERS

from pgvl_core import exercises, workbook

SOLUTION = re.compile(
    r"<details>\s*<summary>Solution</summary>(?P<body>(?:(?!</details>).)*)</details>"
    r"(?:\s*<!-- solution:(?P<after>\w+) -->)?",
    re.DOTALL,
)
FENCE = re.compile(r"```python\n(.*?)```", re.DOTALL)
MARK = re.compile(r"<!-- solution:(\w+) -->")


@dataclass(frozen=True)
class Exercise:
    notebook: str
    name: str
    headed: bool
    imports: str
    stub: str
    check_cell: str
    solution: str

    def answer(self, source):
        """What a source defines under the exercise's name."""
        scope = {"__name__": "exercise"}
        exec(compile(self.imports, "imports", "exec"), scope)
        exec(compile(source, "answer", "exec"), scope)
        return scope[self.name]


def plain(cell):
    return TransformerManager().transform_cell(cell.source)


def solutions(cells):
    found = {}
    for cell in cells:
        if cell.cell_type == "markdown":
            for match in SOLUTION.finditer(cell.source):
                if mark := match["after"] or (MARK.search(match["body"]) or [None, None])[1]:
                    found[mark] = "\n".join(FENCE.findall(match["body"]))
    return found


def exercises_of(path):
    cells = nbformat.read(path, as_version=4).cells
    statements = [s for c in cells if c.cell_type == "code" for s in ast.parse(plain(c)).body]
    imports = "\n".join(
        ast.unparse(s) for s in statements if isinstance(s, (ast.Import, ast.ImportFrom))
    )
    tagged = {tag: cell for cell in cells for tag in cell.metadata.get("tags", []) if ":" in tag}
    solved = solutions(cells)
    heading = False
    for cell in cells:
        if cell.cell_type == "markdown":
            heading = heading or bool(re.search(r"(?m)^### Exercise \d+\.\d+", cell.source))
        for tag in cell.metadata.get("tags", []):
            if tag.startswith("exercise:"):
                name = tag.removeprefix("exercise:")
                check = tagged[f"check:{name}"].source if f"check:{name}" in tagged else ""
                yield Exercise(
                    path.stem, name, heading, imports, cell.source, check, solved.get(name, "")
                )
                heading = False  # the next exercise needs one of its own


EXERCISES = [exercise for path in workbook.notebooks() for exercise in exercises_of(path)]
each_exercise = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)


def check_of(exercise):
    return getattr(exercises, f"check_{exercise.name}")


@each_exercise
def test_exercise_is_complete(exercise):
    assert exercise.headed, "a heading ### Exercise N.M goes before it"
    assert f"attempt(exercises.check_{exercise.name}, {exercise.name})" in exercise.check_cell
    assert exercise.solution, "a folded solution goes with it"
    assert check_of(exercise).__doc__, "the docstring is what a right answer is told"
    assert len(WRONG_ANSWERS.get(exercise.name, [])) >= 2, "tests/wrong_answers.py needs two"


@each_exercise
def test_check_takes_the_solution(exercise):
    check_of(exercise)(exercise.answer(exercise.solution))


@each_exercise
def test_check_refuses_the_stub(exercise):
    with pytest.raises((NotImplementedError, AssertionError)):
        check_of(exercise)(exercise.answer(exercise.stub))


@pytest.mark.parametrize(
    ("exercise", "wrong"),
    [
        pytest.param(exercise, wrong, id=f"{exercise.name}-{i}")
        for exercise in EXERCISES
        for i, wrong in enumerate(WRONG_ANSWERS.get(exercise.name, []))
    ],
)
def test_check_refuses_a_wrong_answer(exercise, wrong):
    """By saying what is wrong: an answer that merely crashes would prove nothing of the check."""
    answer = exercise.answer(wrong)
    with pytest.raises(AssertionError) as refusal:
        check_of(exercise)(answer)
    assert len(str(refusal.value)) > 20


def test_wrong_answers_are_for_exercises_there_are():
    assert WRONG_ANSWERS.keys() <= {exercise.name for exercise in EXERCISES}


# The frame itself


def check_double(double):
    """Twice the number, whatever its sign.

    Not shown to the reader.
    """
    assert double(-3) == -6, "double(-3) must be -6: the sign is lost"


def raise_not_implemented(number):
    raise NotImplementedError


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (lambda number: 2 * number, "Correct: Twice the number, whatever its sign."),
        (lambda number: 6, "Not yet: double(-3) must be -6: the sign is lost"),
        (raise_not_implemented, "Not yet: the answer is still to be written."),
        (lambda number: number["a"], "Not yet: it stopped with TypeError: "),
    ],
)
def test_attempt_shows_a_verdict_and_never_raises(answer, shown, monkeypatch):
    displayed = []
    monkeypatch.setattr(exercises, "display", displayed.append)
    exercises.attempt(check_double, answer)
    assert repr(displayed[0]).startswith(shown)


def test_verdict_escapes_what_an_answer_puts_into_it():
    html = exercises.Verdict(False, "got <Tensor> & more")._repr_html_()
    assert "Not yet: got &lt;Tensor&gt; &amp; more" in html


def test_exercises_are_read_from_a_notebook(tmp_path):
    def code(source, tag):
        return nbformat.v4.new_code_cell(source, metadata={"tags": [tag]})

    solution = "<details><summary>Solution</summary>\n\n```python\n{}\n```\n{}\n</details>{}"
    text = nbformat.v4.new_markdown_cell
    cells = [
        nbformat.v4.new_code_cell("import math\nx = 1 / 0"),
        text("### Exercise 1.1 Twice\nDifficulty 1, ten minutes."),
        code("def double(x):\n    raise NotImplementedError", "exercise:double"),
        code("attempt(exercises.check_double, double)", "check:double"),
        text(
            solution.format(
                "def double(x):\n    return math.fsum([x, x])", "<!-- solution:double -->", ""
            )
        ),
        code("def half(x): ...", "exercise:half"),
        text(solution.format("def half(x):\n    return x / 2", "", "\n<!-- solution:half -->")),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "x.ipynb")
    double, half = exercises_of(tmp_path / "x.ipynb")
    assert (double.name, double.headed, half.name, half.headed) == ("double", True, "half", False)
    assert half.check_cell == ""
    assert half.answer(half.solution)(3) == 1.5
    check_double(double.answer(double.solution))
    with pytest.raises(NotImplementedError):
        check_double(double.answer(double.stub))
