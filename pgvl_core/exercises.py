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
    """The middles of equal stretches, and every frame of a clip shorter than that."""
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
    """The frame that is on screen at that moment, at any frame rate, even a changing one."""
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
    """Rows by columns, the short side exact, the long side to the nearest cell."""
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
    """A cosine for every frame, word and patch."""
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


# 02_spatio_temporal_pooling


def check_pool_by_hand(answer: Callable[[np.ndarray, int], np.ndarray]) -> None:
    """Means over space, zeros for the frames that are missing, means over time."""
    features = np.random.default_rng(0).normal(2, 1, (3, 4, 2))
    found = np.asarray(answer(features.copy(), 5))
    assert found.shape == (9, 2), (
        "3 frames of 4 patches in the layout of 5 temporal tokens make 5 + 4 = 9 tokens [9, 2], "
        f"not {list(found.shape)}."
    )
    assert np.allclose(found[:3], features.mean(1)), (
        "The first 3 tokens should be the 3 frames, each averaged over its patches (axis 1)."
    )
    assert not found[3:5].any(), "Tokens 3 and 4 stand for frames that are missing: zeros."
    assert np.allclose(found[5:], features.mean(0)), (
        "The last 4 tokens should be the 4 patches, each averaged over the 3 real frames (axis 0)."
    )
    full = np.asarray(answer(features.copy(), 3))
    assert np.allclose(full, np.concatenate([features.mean(1), features.mean(0)])), (
        "A clip that has all its frames needs no zeros: 3 temporal tokens, then 4 spatial ones."
    )


def check_impostor(answer: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Another film, the same tokens."""
    for shape in ((5, 6, 3), (2, 2, 1)):
        features = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        forged = answer(features.clone())
        assert forged.shape == features.shape, (
            f"The shape should stay {list(shape)}, it became {list(forged.shape)}."
        )
        for dim, kind, over in ((1, "temporal", "patches"), (0, "spatial", "frames")):
            apart = (forged.mean(dim) - features.mean(dim)).abs().max().item()
            assert apart < 1e-4, (
                f"The {kind} tokens differ by {apart:.2f}: what you add somewhere has to be taken "
                f"away again among the same token's {over}."
            )
        change = (forged - features).abs().max().item()
        assert change >= 0.999, (
            f"The tokens are the same, but so are the features: the largest change is {change:.2g}."
        )


def check_pool_with_direction(answer: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Means only, every feature counts, and the way that a thing goes shows."""
    side = 4
    frames, patches = 2 * side, side * side
    # Pooling the identity writes the pooling down as a matrix: a row a token, a column a feature.
    means = answer(torch.eye(frames * patches).reshape(frames, patches, -1))
    assert len(means) <= frames + 2 * patches, (
        f"{frames} frames of {patches} patches may become {frames + 2 * patches} tokens, "
        f"not {len(means)}."
    )
    assert torch.allclose(means.sum(1), torch.ones(len(means)), atol=1e-4), (
        "Each token should be a mean: of equal features it is that feature again."
    )
    assert (means.abs().amax(0) > 1e-6).all(), (
        "Some feature does not count: it can change at will and no token changes."
    )
    place = torch.eye(side).repeat_interleave(2, dim=0)  # two frames in each column
    right = place.unsqueeze(1).repeat(1, side, 1)
    for name, film in (("left", right), ("up", right.mT)):
        apart = (means @ (film - film.flip(0)).flatten()).abs().max().item()
        assert apart > 0.05, (
            f"A thing that crosses the frame {name}wards gives the same tokens as one that goes "
            "the other way."
        )


# 03_projector_training


def check_project(answer: Callable[..., torch.Tensor]) -> None:
    """Two matrices with a bend between them, in the order in which LLaVA applies them."""
    generator = torch.Generator().manual_seed(0)
    x, w1, b1, w2, b2 = (
        torch.randn(shape, generator=generator) for shape in ((5, 6), (4, 6), (4,), (4, 4), (4,))
    )
    found = answer(x, w1, b1, w2, b2)
    assert tuple(found.shape) == (5, 4), (
        f"5 tokens of 6 numbers become 5 of 4: the shape should be [5, 4], not {list(found.shape)}."
    )
    first, second = torch.nn.Linear(6, 4), torch.nn.Linear(4, 4)
    for layer, weight, bias in ((first, w1, b1), (second, w2, b2)):
        layer.weight.data, layer.bias.data = weight, bias
    bent = second(torch.nn.functional.gelu(first(x)))
    straight = second(first(x))
    assert not torch.allclose(found, straight, atol=1e-4), (
        "That is one matrix in disguise: the bend, GELU, is missing between the two."
    )
    assert torch.allclose(found, bent, atol=1e-4), (
        "The shape is right, the values are not: W1 and b1, then GELU, then W2 and b2; each matrix "
        "is stored as [out, in], so it is transposed in the product."
    )


def check_labels(answer: Callable[[list[int], list[tuple[int, int]]], list[int]]) -> None:
    """The answers are graded, at their own places, and nothing else."""
    ids = [11, 12, 13, 14, 15, 16, 17, 18]
    found = list(answer(list(ids), [(2, 4), (6, 8)]))
    assert len(found) == len(ids), f"One label a token: {len(ids)}, not {len(found)}."
    assert found[1] == -100, "The token before an answer is not graded: labels are not shifted."
    assert found[4] == -100, "Spans are half-open: the token at their end is outside."
    assert found == [-100, -100, 13, 14, -100, -100, 17, 18], (
        f"Tokens 2, 3, 6 and 7 are graded and the others are -100; not {found}."
    )
    assert list(answer([5, 6], [])) == [-100, -100], "Without an answer nothing is graded."


# 04_audio_prompting


def check_word_errors(answer: Callable[[list[str], list[str]], int]) -> None:
    """Word for word, and at the fewest: replaced, left out or put in, each counts one."""
    cases = {
        ("a dog barks", "a dog barks"): (0, "Nothing differs."),
        ("a dog barks", "a log barks"): (1, "One word is replaced."),
        ("a dog barks", "dog barks"): (
            1,
            "One word is left out; what follows is right, only not at its place.",
        ),
        ("dog barks", "the big dog barks"): (2, "Two words were put in."),
        ("one two three four", "two three four five"): (2, "One left out, one put in."),
        ("a b", ""): (2, "Nothing was heard: every word is left out."),
        ("", "you you"): (2, "Nothing was said: every word was put in."),
    }
    for (truth, heard), (count, why) in cases.items():
        found = answer(truth.split(), heard.split())
        assert found == count, f"'{truth}', heard as '{heard}': {count}, not {found}. {why}"


def check_keeps(answer: Callable[[dict[str, float]], bool]) -> None:
    """Speech is among the three strongest, and music exceeds it by no more than 1.1."""
    cases = (
        ({"Speech": 2.0, "Music": -3.0, "Animal": -4.0}, True, "Speech is the strongest."),
        ({"Music": 3.0, "Speech": 2.0}, True, "Speech over a music bed: 1.0 is not too much."),
        ({"Music": 3.5, "Speech": 2.0}, False, "Music exceeds speech by 1.5: somebody sings."),
        (
            {"Speech": 0.9, "Wind": 3.0, "Rain": 2.0, "Animal": 1.0},
            False,
            "Speech is the fourth strongest. (A dict has an order, but not that of strength.)",
        ),
        ({"Music": -1.0, "Wind": -2.0}, False, "Nobody speaks at all."),
        ({"Wind": 1.0, "Speech": -0.5}, True, "Among the three strongest, though below zero."),
    )
    for tags, kept, why in cases:
        found = bool(answer(dict(tags)))
        assert found == kept, f"{tags} should be {'kept' if kept else 'dropped'}. {why}"


# 05_vicuna_chat


def check_reusable(answer: Callable[[list[int], list[int]], int]) -> None:
    """As far as the two agree from the start, and never the whole prompt."""
    cases = {
        ((1, 2, 3), (1, 2, 3, 4, 5)): (3, "All that is cached can stay."),
        ((1, 2, 9, 4), (1, 2, 3, 4)): (2, "What follows a difference was computed from it."),
        ((), (1, 2)): (0, "An empty cache has nothing to give."),
        ((1, 2, 3, 4), (1, 2)): (1, "The last token has to be fed: its output is the next word."),
        ((7, 1, 2), (1, 2, 3)): (0, "Keys know their position: a run that has moved is of no use."),
    }
    for (cached, prompt), (right, why) in cases.items():
        found = answer(list(cached), list(prompt))
        assert found == right, (
            f"Cached {list(cached)}, prompt {list(prompt)}: {right} can stay, not {found}. {why}"
        )


def check_nucleus(answer: Callable[[np.ndarray, float], np.ndarray]) -> None:
    """The smallest set of likeliest tokens with that probability, rescaled to a sum of one."""
    chances = np.array([0.1, 0.5, 0.05, 0.3, 0.05])
    found = np.asarray(answer(chances.copy(), 0.75))
    assert found.shape == chances.shape, "Return a probability for every token, 0 if left out."
    assert np.isclose(found.sum(), 1), f"They should sum to 1, not {found.sum():.3f}: rescale."
    assert np.allclose(found, [0, 0.625, 0, 0.375, 0]), (
        "The likeliest is 0.5, the next 0.3: together 0.8, the first to reach 0.75, so these two "
        f"stay, as 0.625 and 0.375; not {np.round(found, 3).tolist()}."
    )
    assert np.allclose(answer(chances.copy(), 0.2), [0, 1, 0, 0, 0]), (
        "The likeliest token alone reaches 0.2: one token always stays."
    )
    assert np.allclose(answer(chances.copy(), 1.0), chances), "With p = 1 nothing is left out."


# 06_grounding


def check_box_of(answer: Callable[[np.ndarray], tuple[int, int, int, int]]) -> None:
    """Tight, x before y, and ends exclusive, also for one pixel and at the frame's edge."""
    mask = np.zeros((6, 9), bool)
    mask[2, 5] = True
    found = tuple(int(v) for v in answer(mask.copy()))
    assert found != (2, 5, 3, 6), "x is the column and y the row: x comes first."
    assert found == (5, 2, 6, 3), (
        f"One pixel at row 2, column 5 has the box 5, 2, 6, 3; not {found}."
    )
    mask[4:, 7:] = True
    found = tuple(int(v) for v in answer(mask.copy()))
    assert found == (5, 2, 9, 6), (
        f"Ends are exclusive, at the frame's edge too: 5, 2, 9, 6; {found}."
    )


def check_pair(answer: Callable[[np.ndarray, float], dict[int, int]]) -> None:
    """The best pair first, each row and column once, and none below the least."""
    iou = np.array([[0.8, 0.6, 0.0], [0.9, 0.0, 0.2]])
    found = answer(iou.copy(), 0.3)
    assert len(set(found.values())) == len(found), f"{found} gives one column to two rows."
    assert found == {1: 0, 0: 1}, (
        f"Best of all is row 1 with column 0 (0.9); row 0 takes what is left, column 1; {found}."
    )
    assert answer(iou.copy(), 0.7) == {1: 0}, "0.6 is below a least of 0.7: row 0 has no partner."
    assert answer(np.zeros((0, 3)), 0.3) == {}, "Nothing carried, nothing to pair."


# 07_iou_evaluation


def check_iou_xywh(answer: Callable[[tuple[float, ...], tuple[float, ...]], float]) -> None:
    """What two boxes share over what they cover together, from corner, width and height."""
    cases: dict[tuple[tuple[float, ...], tuple[float, ...]], tuple[float, str]] = {
        ((2, 2, 6, 4), (4, 3, 6, 4)): (
            1 / 3,
            "They share 4 x 3 and cover 24 + 24 - 12; the last two numbers are sizes, not edges.",
        ),
        ((5, 5, 2, 3), (5, 5, 2, 3)): (1, "They are the same box."),
        ((0, 0, 10, 10), (2, 2, 5, 4)): (0.2, "One holds the other: 20 of 100."),
        ((0, 0, 2, 2), (5, 0, 2, 2)): (0, "They lie beside each other."),
        ((0, 0, 2, 2), (5, 5, 2, 2)): (0, "Apart in both directions: minus times minus is plus."),
    }
    for (a, b), (right, why) in cases.items():
        found = float(answer(a, b))
        assert np.isclose(found, right), f"{a} and {b}: {right:.3f}, not {found:.3f}. {why}"


def check_tube_iou(answer: Callable[[dict[int, Any], dict[int, Any]], float]) -> None:
    """The shared frames' IoUs over the frames of either tube: place and time in one figure."""
    box, half, far = [0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 2.0], [9.0, 9.0, 10.0, 10.0]
    cases = (
        (range(4), dict.fromkeys(range(4), box), 1.0, "The same tube."),
        (range(4), dict.fromkeys(range(2, 6), box), 2 / 6, "Two frames of six are shared."),
        (range(4), dict.fromkeys(range(4), half), 0.5, "The right time, half of the place."),
        (range(2), dict.fromkeys(range(8), box), 2 / 8, "Six frames too many count too."),
        (range(8), dict.fromkeys(range(2), box), 2 / 8, "Six frames that are missed count too."),
        (range(4), {0: box, 1: half, 2: far}, 1.5 / 4, "1 + 0.5 + 0 over four frames."),
        (range(3), dict.fromkeys(range(5, 8), box), 0.0, "No frame is shared."),
    )
    for frames, tube, right, why in cases:
        found = float(answer(dict.fromkeys(frames, box), dict(tube)))
        assert np.isclose(found, right), (
            f"True in frames {list(frames)}, found in {list(tube)}: {right:.3f}, not "
            f"{found:.3f}. {why}"
        )


# 08_video_qa_benchmark


def check_same_answer(answer: Callable[[str, str], bool]) -> None:
    """Case, punctuation and articles do not count, word by word; everything else does."""
    cases = (
        ("A dog.", "a dog", True, "Case and the full stop do not count."),
        ("A dog.", "the dog", True, "Articles do not count."),
        ("An ostrich.", "Ostrich!", True, "Articles do not count, nor punctuation."),
        ("A cat.", "ct", False, "An article is a word, not a letter."),
        ("A dog.", "not a dog", False, "Another word more, and another meaning."),
        ("A dog.", "a dog and a cat", False, "That is more than the truth."),
        ("A dog, then a cat.", "a cat, then a dog", False, "The order of words counts."),
        ("No.", "none", False, "These are two words."),
        ("It moves up.", "it moves  up", True, "A space more changes nothing."),
    )
    for truth, said, right, why in cases:
        found = answer(truth, said)
        assert bool(found) == right, (
            f"'{truth}' and '{said}' are {'the same' if right else 'not the same'}. {why}"
        )


def check_kappa_of(answer: Callable[[list[bool], list[bool]], float]) -> None:
    """Agreement beyond chance, where each judge's dice have its own share of yes."""
    cases = (
        ("yynn", "yynn", 1.0, "The same verdicts."),
        ("yynn", "nnyy", -1.0, "Never the same: worse than dice."),
        ("yynn", "ynyn", 0.0, "Half of them the same, as of dice."),
        ("yyyn", "yynn", 0.5, "Three of four the same; by chance 3/4 x 1/2 + 1/4 x 1/2."),
        ("nnnnnnnnny", "nnnnnnnnnn", 0.0, "Nine of ten the same, as by always saying no."),
        ("yynnn", "ynynn", 1 / 6, "Three of five the same; by chance 4/25 + 9/25."),
    )
    for first, second, right, why in cases:
        found = float(answer([c == "y" for c in first], [c == "y" for c in second]))
        assert np.isclose(found, right), (
            f"{first} and {second}: {right:.3f}, not {found:.3f}. {why}"
        )


def check_verdict_of(answer: Callable[[str], tuple[bool, float] | None]) -> None:
    """A dictionary of the form that was asked for, decimals kept; else None."""
    cases: tuple[tuple[str, tuple[bool, float] | None, str], ...] = (
        ("{'pred': 'yes', 'score': 4.8}", (True, 4.8), "Keep the decimals."),
        ("{'pred': 'no', 'score': 0}", (False, 0.0), "A whole number is a number too."),
        (" {'score': 3, 'pred': 'no'}\n", (False, 3.0), "The order of keys does not matter."),
        ("The answer is yes, 4.8.", None, "No dictionary."),
        ("{''score': 4.8}", None, "Not Python: the form that the official code shows."),
        ("{'pred': 'yes or no', 'score': 3}", None, "Neither yes nor no."),
        ("{'pred': 'yesterday', 'score': 3}", None, "A yes in it is not a yes."),
        ("{'pred': 'yes'}", None, "There is no score."),
        ("{'pred': 'yes', 'score': 48}", None, "Scores end at 5."),
        ("{'pred': 'yes', 'score': '4'}", None, "A text is no number."),
        ("['yes', 4]", None, "A list is no dictionary."),
    )
    for reply, right, why in cases:
        try:
            found = answer(reply)
        except NotImplementedError:
            raise
        except Exception as error:
            raise AssertionError(
                f"{reply}: {right} is expected, not {type(error).__name__}. {why}"
            ) from error
        assert found == right, f"{reply}: {right}, not {found}. {why}"


# 09_audio_and_grounding


def check_two_sided(answer: Callable[[int, int], float]) -> None:
    """Both tails of a fair coin, over the questions that changed sides."""
    cases = (
        (1, 5, 14 / 64, "(1 + 6) of 64 ways in a tail, and two tails."),
        (5, 1, 14 / 64, "It does not matter which side is the longer."),
        (4, 0, 2 / 16, "1 of 16 ways in a tail, and two tails."),
        (3, 3, 1.0, "Nothing is more even: both tails together would be above 1."),
        (0, 0, 1.0, "No question changed sides: no evidence at all."),
    )
    for gained, lost, right, why in cases:
        found = float(answer(gained, lost))
        assert np.isclose(found, right), (
            f"{gained} gained, {lost} lost: {right:.4f}, not {found:.4f}. {why}"
        )


def check_flips(answer: Callable[[list[float]], float]) -> None:
    """All ways to sign the differences, of which the true one is one."""
    cases = (
        ([0.1, 0.2, 0.3], 2 / 8, "Only all plus and all minus are as far from 0."),
        ([0.5, -0.5], 1.0, "The mean is 0, and every mean is at least as far from it."),
        ([0.4, 0.4, -0.1], 4 / 8, "0.7 is reached or passed by +++, ++-, and their opposites."),
        ([0.2], 1.0, "One difference: plus and minus are equally far."),
        ([-0.3, -0.2, -0.1, -0.4], 2 / 16, "Losses count as gains do."),
    )
    for differences, right, why in cases:
        found = float(answer(list(differences)))
        assert np.isclose(found, right), f"{differences}: {right:.4f}, not {found:.4f}. {why}"


# 10_temporal_models


def check_changes(answer: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """What is left is what comes and goes, place by place; a still picture leaves nothing."""
    features = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0))
    found = torch.as_tensor(answer(features.clone()))
    assert found.shape == features.shape, (
        f"The features are {list(features.shape)} and stay so; yours are {list(found.shape)}."
    )
    still = torch.as_tensor(answer(features[:1].expand(4, -1, -1).clone()))
    assert still.abs().max() < 1e-5, "A picture that stands still has no changes: all zeros."
    for place in range(6):
        own = features[:, place]
        assert torch.allclose(found[:, place], own - own.mean(0), atol=1e-5), (
            f"Place {place}: its own mean over the frames is to be taken off, and no other's."
        )


def check_way(answer: Callable[[torch.Tensor], str]) -> None:
    """Where the middle of what is seen goes, from the first frame to the last, tells the way."""
    for step, right in (((0, 1), "right"), ((0, -1), "left"), ((1, 0), "down"), ((-1, 0), "up")):
        maps = torch.zeros(3, 7, 5)
        for t in range(3):
            maps[t, 3 + step[0] * (t - 1), 2 + step[1] * (t - 1)] = 2.0
            maps[t] += 0.01
        found = answer(maps.clone())
        assert found == right, (
            f"Maps [frame, row, column], 3 of 7 rows and 5 columns; the bright cell goes {right}, "
            f"and the answer was {found!r}. Rows count downwards."
        )


# 11_grounding_generalisation


def check_count_switches(answer: Callable[[list[int]], int]) -> None:
    """Changes of the number, over the frames that have one."""
    cases: tuple[tuple[list[int], int, str], ...] = (
        ([0, 0, 0], 0, "It stays the same."),
        ([0, 0, 1, 1], 1, "One change."),
        ([0, 1, 0, 1], 3, "There and back again: three changes."),
        ([2, -1, -1, 2], 0, "Lost and found again as the same is no switch."),
        ([2, -1, 3], 1, "Lost, and found again as another: one switch."),
        ([-1, -1, 4], 0, "It was nobody before: found is not switched."),
        ([-1, -1], 0, "Never found, never switched."),
        ([], 0, "Nothing was seen."),
    )
    for numbers, right, why in cases:
        found = answer(list(numbers))
        assert found == right, f"{numbers}: {right}, not {found}. {why}"


def check_paired_difference(
    answer: Callable[[list[float], list[float]], tuple[float, float]],
) -> None:
    """The mean of the pairs' differences, and its standard error by their spread."""
    mean, error = answer([0.1, 0.5, 0.9], [0.2, 0.6, 1.0])
    assert np.isclose(mean, 0.1), f"Each of the second is 0.1 more: 0.1, not {mean}."
    assert np.isclose(error, 0, atol=1e-9), (
        f"All pairs differ alike, so the error is 0, not {error}."
    )
    mean, error = answer([1.0, 1.0], [0.0, 2.0])
    assert np.isclose(mean, 0), f"One lost 1, one gained 1: 0, not {mean}."
    assert np.isclose(error, 1), (
        f"Differences -1 and 1: their variance is (1 + 1) / (2 - 1), and the error 1, not {error}."
    )
