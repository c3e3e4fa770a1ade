import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pgvl_core.grounding import memory as carrying
from pgvl_core.grounding.memory import BLOCK, RECENT, Memory, draw, propagate, reach, share
from pgvl_core.lite import clip
from pgvl_core.toyworld import make_clip


def picture(numbers):
    """Cells that are alike where the numbers are: unit vectors of eight dimensions."""
    return torch.eye(8)[torch.tensor(numbers)].permute(2, 0, 1)


def test_a_cell_takes_over_what_its_like_was_part_of():
    """Kinds 1 and 2 belong to things; all have moved by a column, and the thing with them."""
    memory = Memory()
    memory.add(
        picture([[0, 1, 2, 3, 4, 5]]), torch.tensor([[[0, 1.0, 0, 0, 0, 0]], [[0, 0, 1, 0, 0, 0]]])
    )
    found = memory.read(picture([[5, 0, 1, 2, 3, 4]]))
    assert found.argmax(dim=2).tolist() == [[2], [3]]
    # Of the others the cosine is 0, so each weighs e to the -20 of the right one.
    torch.testing.assert_close(found.sum(dim=2), torch.ones(2, 1), atol=1e-4, rtol=0)


def test_recent_frames_are_looked_at_nearby_and_the_first_everywhere(monkeypatch):
    monkeypatch.setattr("pgvl_core.grounding.memory.NEIGHBOURS", 1)
    there, nowhere = torch.zeros(1, 1, 20), torch.zeros(1, 1, 20)
    there[0, 0, 2] = 1
    start, end = [[0] * 20], [[0] * 20]
    start[0][2], end[0][17] = 1, 1  # the thing has crossed the frame
    other = [[2] * 20]
    first = Memory()
    first.add(picture(start), there)
    assert first.read(picture(end))[0, 0, 17] == 1
    later = Memory()
    later.add(picture(other), nowhere)
    later.add(picture(start), there)
    assert later.read(picture(end))[0, 0, 17] == 0


def test_the_first_frame_is_never_forgotten():
    memory = Memory()
    memory.add(picture([[1, 0]]), torch.tensor([[[1.0, 0]]]))
    for _ in range(3 * RECENT):
        memory.add(picture([[3, 2]]), torch.zeros(1, 1, 2))
    assert len(memory.recent) == RECENT
    assert memory.read(picture([[1, 0]]))[0, 0].round().tolist() == [1, 0]


def test_a_memory_of_nothing_says_so():
    with pytest.raises(ValueError, match="add"):
        Memory().read(picture([[0]]))


@given(rows=st.integers(1, 12), columns=st.integers(1, 12))
def test_reach_is_the_same_from_both_sides_and_a_neighbour_is_in_it(rows, columns):
    own, near, outside = reach(rows, columns)
    within = torch.zeros(rows * columns, rows * columns, dtype=torch.bool)
    for cell, place in enumerate(own.tolist()):
        block, at = divmod(place, BLOCK * BLOCK)
        within[cell, near[block, ~outside[block, at]]] = True
    assert torch.equal(within, within.T)
    within = within.reshape(rows, columns, rows, columns)
    assert within[rows - 1, columns - 1, max(rows - 2, 0), max(columns - 2, 0)]


@given(st.integers(0, 2**31), st.integers(1, 20), st.integers(1, 20), st.integers(1, 5))
def test_all_cells_ranked_at_once_give_the_same(seed, rows, columns, later):
    """The plain way: a table of all pairs, in which pairs too far apart are crossed out."""
    random = torch.Generator().manual_seed(seed)
    frames = torch.randn(later + 2, 6, rows, columns, generator=random)
    frames = torch.nn.functional.normalize(frames, dim=1)
    shares = torch.rand(later + 1, 2, rows, columns, generator=random)
    memory = Memory()
    for cells, own in zip(frames[:-1], shares, strict=True):
        memory.add(cells, own)
    kept = [0, *range(1, later + 1)[-RECENT:]]
    place = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).reshape(-1, 2)
    apart = (place[:, None] - place).abs().amax(dim=2)
    far = apart > max(1, int(carrying.REACH * max(rows, columns)))
    alike = frames[-1].flatten(1).T @ frames[kept].flatten(2)  # [frames, cells, cells]
    alike[1:, far] = -torch.inf
    values, best = torch.cat(list(alike), dim=1).sort(dim=1, descending=True)
    weights = (values[:, : carrying.NEIGHBOURS] / carrying.SHARPNESS).softmax(dim=1)
    known = shares[kept].flatten(2).permute(1, 0, 2).flatten(1)
    right = (known[:, best[:, : carrying.NEIGHBOURS]] * weights).sum(dim=2)
    torch.testing.assert_close(memory.read(frames[-1]).flatten(1), right)


def test_shares_are_drawn_as_masks_that_do_not_overlap():
    masks = np.zeros((2, 40, 60), bool)
    masks[0, 8:24, 8:32], masks[1, 8:24, 32:48] = True, True
    drawn = draw(share(masks, 5, 8), 40, 60)
    assert drawn.sum(axis=0).max() == 1
    for mask, found in zip(masks, drawn, strict=True):
        assert (mask & found).sum() / (mask | found).sum() > 0.7


def test_masks_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"masks are \[4, 4\], frame 0 is \[8, 8\]"):
        next(propagate(None, [np.zeros((8, 8, 3), np.uint8)], np.zeros((1, 4, 4), bool)))


def test_things_of_toyworld_are_followed():
    """Two that travel, from their true masks in the first frame; one that stays put loses them."""
    made = make_clip(
        3, "unseen", frames=24, fps=8, objects=2, shots=1, motions=["circle", "bounce"]
    )
    frames = made.frames[::4]
    truth = np.stack([[t.visible[f] for t in made.tracks] for f in range(0, 24, 4)])
    found = np.stack(list(propagate(clip.load_trunk(), frames, truth[0])))

    def overlap(masks):
        return ((masks & truth).sum((2, 3)) / (masks | truth).sum((2, 3)))[1:].mean()

    assert overlap(found) > 0.6
    assert overlap(found) > overlap(np.broadcast_to(truth[0], truth.shape)) + 0.2
