"""Identities and their switches, against cases counted by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgvl_core.evaluation.boxes import NOWHERE
from pgvl_core.evaluation.identity import identities, one_to_one, switches

LEFT, RIGHT, BETWEEN = [0, 0, 10, 10], [40, 0, 50, 10], [3, 0, 13, 10]


def test_pairs_are_one_to_one_and_none_fits_by_nothing():
    fits = np.array([[0.9, 0.8, 0], [0.85, 0.1, 0]])
    assert one_to_one(fits) == {0: 0, 1: 1}
    assert one_to_one(np.zeros((2, 2))) == {}


def test_two_things_keep_their_tracks_whatever_the_order():
    truth = [[LEFT] * 3, [RIGHT] * 3]
    found = [[RIGHT] * 3, [LEFT] * 3]
    assert identities(truth, found).tolist() == [[1, 1, 1], [0, 0, 0]]
    assert switches(identities(truth, found)).tolist() == [0, 0]


def test_a_track_that_ends_and_another_that_goes_on_are_one_switch():
    found = [[LEFT, LEFT, NOWHERE, NOWHERE], [NOWHERE, NOWHERE, LEFT, LEFT]]
    identity = identities([[LEFT] * 4], found)
    assert identity.tolist() == [[0, 0, 1, 1]]
    assert switches(identity).tolist() == [1]


def test_two_tracks_that_change_places_are_two_switches():
    truth = [[LEFT] * 4, [RIGHT] * 4]
    found = [[LEFT, LEFT, RIGHT, RIGHT], [RIGHT, RIGHT, LEFT, LEFT]]
    assert switches(identities(truth, found)).tolist() == [1, 1]


def test_lost_and_found_again_is_no_switch():
    identity = identities([[LEFT] * 4], [[LEFT, NOWHERE, NOWHERE, LEFT]])
    assert identity.tolist() == [[0, -1, -1, 0]]
    assert switches(identity).tolist() == [0]


def test_a_pair_stays_though_another_fits_better():
    found = [[LEFT, BETWEEN, BETWEEN], [NOWHERE, LEFT, LEFT]]
    identity = identities([[LEFT] * 3], found)  # BETWEEN meets LEFT with 7 / 13
    assert identity.tolist() == [[0, 0, 0]]
    assert identities([[LEFT] * 3], found, least=0.6).tolist() == [[0, 1, 1]]


def test_where_nothing_is_true_or_found_nothing_is_paired():
    assert identities([[NOWHERE, LEFT]], [[LEFT, NOWHERE]]).tolist() == [[-1, -1]]
    assert identities([[LEFT, LEFT]], np.zeros((0, 2, 4))).tolist() == [[-1, -1]]
    assert identities(np.zeros((0, 2, 4)), [[LEFT, LEFT]]).shape == (0, 2)
    with pytest.raises(ValueError, match="4"):
        identities([[LEFT[:3]]], [[LEFT]])


@given(st.permutations(range(4)), st.lists(st.booleans(), min_size=8, max_size=8))
def test_perfect_tracks_have_no_switches_in_any_order_and_with_any_gaps(order, seen):
    truth = np.array(
        [[[20 * k, t, 20 * k + 10, t + 10] for t in range(8)] for k in range(4)], float
    )
    found = truth[list(order)]
    found[:, ~np.array(seen)] = np.nan
    identity = identities(truth, found)
    for k in range(4):
        assert (identity[k, seen] == order.index(k)).all()
        assert (identity[k, ~np.array(seen)] == -1).all()
    assert not switches(identity).any()
