import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgvl_core.evaluation.intervals import wilson


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
