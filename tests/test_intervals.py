import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgvl_core.evaluation.intervals import mcnemar, mean_interval, sign_flip, wilson


def test_the_textbook_example():
    """8 of 10, worked out by hand: centre (0.8 + 0.19208) / 1.38416, half width 0.22656."""
    assert wilson(8, 10) == pytest.approx((0.49016, 0.94331), abs=1e-4)


@given(st.integers(1, 500), st.data())
def test_its_ends_solve_the_equation_it_is_defined_by(asked, data):
    """At each end the share lies z standard errors, taken at that end, from it."""
    right = data.draw(st.integers(0, asked))
    low, high = wilson(right, asked)
    assert -1e-9 <= low <= right / asked + 1e-9
    assert right / asked - 1e-9 <= high <= 1 + 1e-9
    for end in (low, high):
        error = math.sqrt(max(end * (1 - end), 0) / asked)
        assert abs(abs(right / asked - end) - 1.96 * error) < 1e-6


def test_no_trials_have_no_interval():
    with pytest.raises(ValueError, match="no trials"):
        wilson(0, 0)


# -------------------------------------------------------------------------------------- of a mean
def test_interval_of_many_independent_values_is_the_normal_one():
    values = np.random.default_rng(1).normal(0.5, 0.2, 900)
    low, high = mean_interval(values, [str(i) for i in range(900)])
    error = values.std() / 30
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.integers(1, 5))
def test_asking_of_one_video_again_and_again_makes_nothing_surer(values, times):
    """Copies of a value in its cluster; taken as independent, they would narrow the interval."""
    names = [str(i) for i in range(len(values))]
    once = mean_interval(values, names)
    assert mean_interval(values * times, names * times) == pytest.approx(once, abs=1e-9)
    assert min(values) - 1e-9 <= once[0] <= once[1] <= max(values) + 1e-9


def test_one_cluster_says_nothing_of_others():
    assert all(map(math.isnan, mean_interval([0.1, 0.9], ["a", "a"])))


@pytest.mark.parametrize(("values", "clusters"), [([], []), ([0.5], ["a", "b"])])
def test_values_without_clusters_are_refused(values, clusters):
    with pytest.raises(ValueError, match="no interval"):
        mean_interval(values, clusters)


def test_mcnemar_of_a_case_worked_out_by_hand():
    """1 gained, 5 lost: (1 + 6) / 64 in a tail, 14 / 64 in both; what is alike does not count."""
    first = [False] + [True] * 5 + [True] * 20 + [False] * 7
    second = [True] + [False] * 5 + [True] * 20 + [False] * 7
    assert mcnemar(first, second) == pytest.approx(14 / 64)
    assert mcnemar(second, first) == pytest.approx(14 / 64)
    assert mcnemar([True, False], [True, False]) == 1
    with pytest.raises(ValueError, match="zip"):
        mcnemar([True], [True, False])


def test_signs_at_random_agree_with_all_signs():
    values = [0.4, 0.3, -0.1, 0.2, 0.5, 0.0, 0.25, -0.05]
    every = [abs(np.dot(s, values)) for s in itertools.product((-1, 1), repeat=len(values))]
    exact = np.mean(np.array(every) >= abs(sum(values)) - 1e-12)
    assert sign_flip(values, list("abcdefgh")) == pytest.approx(exact, abs=0.01)
    assert sign_flip([0.0, 0.0], ["a", "b"]) == 1
    assert sign_flip([1.0] * 30, [str(i) for i in range(30)]) < 0.001


def test_questions_of_one_video_change_sign_together():
    """Three videos gain: 2 of 8 patterns are as far, however many questions there are."""
    values, of = [0.3] * 20 + [0.2] * 20 + [0.4] * 20, ["a"] * 20 + ["b"] * 20 + ["c"] * 20
    assert sign_flip(values, of) == pytest.approx(0.25, abs=0.02)
    assert sign_flip([0.7, 0.1], ["a", "a"]) == 1


@pytest.mark.parametrize(("values", "clusters"), [([], []), ([1.0], []), ([1.0], ["a", "b"])])
def test_differences_without_clusters_are_refused(values, clusters):
    with pytest.raises(ValueError, match="no p"):
        sign_flip(values, clusters)
