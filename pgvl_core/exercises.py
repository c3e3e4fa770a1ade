"""The notebooks' exercises: one check for each, and the word it gives the reader.

A check is a plain function of the reader's answer. It raises AssertionError with what to look at
next, and its docstring says what a right answer has shown.
"""

from __future__ import annotations

import html
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from IPython.display import display


@dataclass(frozen=True)
class Verdict:
    """What a check found, as text and as HTML."""

    correct: bool
    reason: str

    def __repr__(self) -> str:
        return f"{'Correct' if self.correct else 'Not yet'}: {self.reason}"

    def _repr_html_(self) -> str:
        colour = "#2e7d32" if self.correct else "#b26a00"
        style = f"border-left: 4px solid {colour}; padding-left: 8px"
        return f'<p style="{style}">{html.escape(repr(self))}</p>'


def attempt(check: Callable[[Any], None], answer: Any) -> None:
    """Run a check on the reader's answer and display its verdict.

    Nothing that the answer raises ends the notebook: an exercise not done yet is no failure.
    """
    try:
        check(answer)
    except NotImplementedError:
        verdict = Verdict(False, "the answer is still to be written.")
    except AssertionError as error:
        verdict = Verdict(False, str(error) or "an assertion in the answer failed.")
    except Exception as error:
        verdict = Verdict(False, f"it stopped with {type(error).__name__}: {error}")
    else:
        verdict = Verdict(True, inspect.cleandoc(check.__doc__ or "").split("\n\n")[0])
    display(verdict)
