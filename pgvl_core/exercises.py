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

import numpy as np
import torch
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


# 00_start_here


def check_middles(answer: Callable[[int, int], list[int]]) -> None:
    """Right: the middles of equal stretches, and every frame of a clip shorter than that."""
    assert list(answer(9, 4)) == [1, 3, 5, 7], (
        f"9 frames, 4 samples: the stretches end at 0, 2, 4, 6, 8, so their middles are "
        f"[1, 3, 5, 7], not {list(answer(9, 4))}."
    )
    long = list(answer(1001, 10))
    assert long == [50 + 100 * i for i in range(10)], (
        f"1,001 frames, 10 samples: the first should be frame 50 and the last 950, not {long}."
    )
    assert list(answer(3, 8)) == [0, 1, 2], (
        "A clip of 3 frames has no 8 different ones to give: return each once."
    )


def check_frame_at(answer: Callable[[np.ndarray, float], int]) -> None:
    """Right: the frame that is on screen at that moment, at any frame rate, even a changing one."""
    steady = np.arange(50) / 25
    assert answer(steady, 1.01) == 25, "At 25 frames a second, frame 25 is on screen at 1.01 s."
    assert answer(steady, 1.03) == 25, "Frame 25 stays on screen until 1.04 s: round down."
    phone = np.array([0, 0.03, 0.07, 0.50, 1.20, 1.23])
    assert answer(phone, 1.0) == 3, (
        "The phone skipped frames: frame 3 came at 0.50 s, the next at 1.20 s, so frame 3 is on "
        f"screen at 1.0 s, not frame {answer(phone, 1.0)}. Use the timestamps, not a rate."
    )
    assert answer(phone, 9.0) == 5, "After the last timestamp the last frame stays."


# 01_frame_encoding


def check_patch_grid(answer: Callable[[int, int, int], tuple[int, int]]) -> None:
    """Right: rows by columns, the short side exact, the long side to the nearest cell."""
    assert tuple(answer(224, 224, 224)) == (7, 7), "A square of 224 pixels has 7 x 7 cells of 32."
    assert tuple(answer(272, 640, 224)) == (7, 16), (
        "272 x 640 becomes 224 x 527: 7 rows (height first) and 16.5 columns, rounded to 16; "
        f"not {tuple(answer(272, 640, 224))}."
    )
    assert tuple(answer(1920, 1080, 384)) == (21, 12), (
        f"An upright phone video is taller than wide: 21 rows, 12 columns, "
        f"not {tuple(answer(1920, 1080, 384))}."
    )
    assert tuple(answer(90, 159, 224)) == (7, 12), "12.4 columns are 12: the nearest, not the next."


def check_word_map(
    answer: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    """Right: a cosine for every frame, word and patch."""
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(2, 6, 4, generator=generator) * torch.tensor([[1.0], [5.0]]).unsqueeze(2)
    centre = torch.rand(4, generator=generator)
    words = torch.eye(4)[:3]
    found = answer(features, centre, words)
    assert tuple(found.shape) == (2, 3, 6), (
        f"The map should be [T, K, N] = [2, 3, 6], not {list(found.shape)}."
    )
    assert found.abs().max() <= 1 + 1e-5, "A cosine lies between -1 and 1: normalise the patches."
    for t, k, n in ((0, 0, 0), (1, 2, 5), (1, 1, 3)):
        patch = features[t, n] - centre
        cosine = (patch @ words[k] / patch.norm()).item()
        assert abs(found[t, k, n].item() - cosine) < 1e-5, (
            f"Frame {t}, word {k}, patch {n}: the cosine of (feature - centre) with the word is "
            f"{cosine:.3f}, not {found[t, k, n].item():.3f}."
        )
