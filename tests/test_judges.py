"""Judges that need no server, and how far two judges agree."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgvl_core.evaluation.judges import Verdict, agreement, exact, kappa, normalise, similarity
from pgvl_core.evaluation.qa_sets import QASample
from pgvl_core.lite.clip import SentenceEncoder


def sample(answer, questions=("What is there?",)):
    return QASample("7", Path("clip.mp4"), questions, answer, "object", {})


# ----------------------------------------------------------------------------------- word for word
@pytest.mark.parametrize(
    ("truth", "said", "right"),
    [
        ("A dog.", "dog", True),
        ("It moves to the left.", "it moves to left", True),
        ("Two.", "2", True),
        ("grey", "gray", True),
        ("yes", "Yes!", True),
        ("yes", "ye", False),  # what the official inference makes of it
        ("grass", "gra", False),
        ("A dog.", "a dog and a cat", False),
        ("left", "right", False),
        ("a", "the", False),  # nothing is left of either
        ("dog", "", False),
    ],
)
def test_exact_by_hand(truth, said, right):
    verdict = exact(sample(truth), [said])
    assert (verdict.right, verdict.score, verdict.status) == (right, 5.0 * right, "judged")
    assert verdict.id == "7"


def test_every_answer_has_to_be_exact():
    both = sample("a dog", ("What barks?", "What is it that barks?"))
    assert exact(both, ["dog", "The dog."]).right
    assert not exact(both, ["dog", "cat"]).right
    assert not exact(both, ["cat", "dog"]).right


@given(st.text())
def test_what_is_normal_stays_so_and_is_never_nothing(text):
    plain = normalise(text)
    assert bool(plain) == bool(text)
    assert exact(sample(text), [text]).right


# -------------------------------------------------------------------------------------- similarity
TABLE = {"north": (0, 2), "east": (3, 0), "north east": (1, 1), "south": (0, -1)}


def compass(texts):
    return np.array([TABLE[text] for text in texts])


@pytest.mark.parametrize(
    ("answers", "cosine"),
    [
        (["north"], 1),
        (["north east"], math.sqrt(0.5)),
        (["east"], 0),
        (["south"], -1),
        (["north", "north east"], math.sqrt(0.5)),  # the least similar
    ],
)
def test_similarity_by_hand(answers, cosine):
    for threshold in (-1.0, 0.0, 0.5, 0.9):
        verdict = similarity(compass, threshold)(sample("north"), answers)
        assert verdict.score == pytest.approx(5 * max(0, cosine))
        assert verdict.right == (cosine >= threshold)


def test_minilm_knows_what_is_alike():
    judge = similarity(SentenceEncoder(), 0.7)
    scores = [judge(sample("a dog"), [said]).score for said in ("a dog", "a puppy", "a volcano")]
    assert scores[0] == pytest.approx(5)
    assert scores[0] > scores[1] > scores[2]


# --------------------------------------------------------------------------------------- agreement
def test_kappa_by_hand():
    """50 things: 20 both yes, 15 both no, 5 and 10 apart. Observed 0.7; expected 0.5 * 0.6 + 0.5 *
    0.4 = 0.5; kappa 0.4."""
    first = [True] * 20 + [True] * 5 + [False] * 10 + [False] * 15
    second = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    assert kappa(first, second) == pytest.approx(0.4)


def test_kappa_at_its_ends():
    assert kappa("aabb", "aabb") == 1
    assert kappa("aabb", "abab") == 0
    assert kappa("ab", "ba") == -1
    assert math.isnan(kappa("aa", "aa"))
    assert kappa("aa", "bb") == 0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_kappa_does_not_care_who_is_first_or_what_yes_is_called(pairs):
    first, second = zip(*pairs, strict=True)
    value = kappa(first, second)
    for other in (kappa(second, first), kappa(["ny"[a] for a in first], ["ny"[b] for b in second])):
        assert other == pytest.approx(value, nan_ok=True)
    assert math.isnan(value) or -1 - 1e-9 <= value <= 1 + 1e-9


@pytest.mark.parametrize(("first", "second"), [([], []), ([1], [1, 0])])
def test_kappa_of_nothing_is_refused(first, second):
    with pytest.raises(ValueError, match="compared"):
        kappa(first, second)


def test_agreement_is_of_what_both_judged():
    def verdicts(**right):
        return [Verdict(id, value, None) for id, value in right.items()]

    first = verdicts(a=True, b=False, c=True, d=None, e=True)
    second = verdicts(e=True, d=True, c=False, b=False, a=None)
    measured = agreement(first, second)
    # b, c and e: said no, yes, yes and no, no, yes. Expected 2/3 * 1/3 + 1/3 * 2/3 = 4/9.
    assert measured == pytest.approx({"both": 3, "agreement": 2 / 3, "kappa": 0.4})
    nothing = agreement(first, verdicts(d=False))
    assert nothing["both"] == 0
    assert math.isnan(nothing["kappa"])
