import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pgvl_core.pooling import pool


def test_hand_computed_case():
    """Two frames of three patches of two numbers, pooled with pencil and paper."""
    features = torch.tensor([[[1.0, 0], [2, 0], [3, 6]], [[5.0, 1], [0, 1], [1, 1]]])
    expected = [[2, 2], [2, 1], [0, 0], [3, 0.5], [1, 0.5], [2, 3.5]]
    assert pool(features, temporal_tokens=3).tolist() == expected


def test_layout_of_the_paper():
    """100 temporal tokens, then 24 x 24 spatial ones: 676, whatever the clip's length."""
    features = torch.randn(100, 576, 16)
    tokens = pool(features)
    assert tokens.shape == (676, 16)
    numpy = features.double().numpy()
    np.testing.assert_allclose(tokens[:100], numpy.mean(1), atol=1e-6)
    np.testing.assert_allclose(tokens[100:], numpy.mean(0), atol=1e-6)


def test_long_clip_is_subsampled_evenly():
    frames = torch.arange(10.0).reshape(10, 1, 1)
    assert pool(frames, temporal_tokens=5).flatten().tolist() == [1, 3, 5, 7, 9, 4.5]
    assert pool(frames, temporal_tokens=3).flatten().tolist() == [1, 5, 8, 4.5]


def test_half_precision_accumulates_in_float32():
    """4,096 ones and more cannot be summed in half precision; their mean must still be one."""
    tokens = pool(torch.ones(2, 70_000, 1, dtype=torch.float16), temporal_tokens=2)
    assert tokens.dtype == torch.float32
    assert torch.equal(tokens, torch.ones(70_002, 1))


@given(
    frames=st.integers(1, 12),
    patches=st.integers(1, 6),
    temporal=st.integers(1, 15),
    seed=st.integers(0, 99),
)
def test_spatial_tokens_forget_order_and_temporal_tokens_keep_it(frames, patches, temporal, seed):
    features = torch.randn(
        frames, patches, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    forward, backward = pool(features, temporal), pool(features.flip(0), temporal)
    assert forward.shape == (temporal + patches, 3)
    torch.testing.assert_close(forward[temporal:], backward[temporal:])
    if frames <= temporal:
        torch.testing.assert_close(forward[:frames].flip(0), backward[:frames])
        assert not forward[frames:temporal].any()


@pytest.mark.parametrize("shape", [(4, 5), (0, 5, 6), (1, 4, 5, 6)])
def test_wrong_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"\[T, N, D\]"):
        pool(torch.zeros(shape))


def test_no_temporal_tokens_is_refused():
    with pytest.raises(ValueError, match="temporal_tokens"):
        pool(torch.zeros(2, 3, 4), temporal_tokens=0)
