"""Quick-check questions inside a notebook."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Quiz:
    """A question and its options, each a (text, is it right, why); see `quiz`."""

    question: str
    options: tuple[tuple[str, bool, str], ...]

    def __repr__(self) -> str:
        lines = [f"Quiz: {self.question}"]
        for letter, (text, right, why) in zip("ABCDEFGH", self.options, strict=False):
            lines += [f"  {letter}. {text}", f"     {_verdict(right)}: {why}"]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        # <details> opens without a script, so it works in JupyterLab, on a page and where scripts
        # are taken out.
        folds = "".join(
            f"<details><summary>{html.escape(text)}</summary>"
            f"<p><b>{_verdict(right)}.</b> {html.escape(why)}</p></details>"
            for text, right, why in self.options
        )
        return f"<div><p><b>{html.escape(self.question)}</b></p>{folds}</div>"


def quiz(question: str, options: Sequence[tuple[str, bool, str]]) -> Quiz:
    """A multiple-choice question whose options unfold to say whether they are right, and why.

    Parameters
    ----------
    question : plain text
    options : 2 to 8 of (text of the option, is it right, why), in plain text

    Raises
    ------
    ValueError : not exactly one option is right, or their number is out of range
    """
    if not 2 <= len(options) <= 8:
        raise ValueError(f"a quiz needs 2 to 8 options, not {len(options)}: {question!r}")
    if (right := sum(is_right for _, is_right, _ in options)) != 1:
        raise ValueError(f"a quiz needs exactly one right option, not {right}: {question!r}")
    return Quiz(question, tuple(options))


def _verdict(right: bool) -> str:
    return "Right" if right else "Not this one"
