"""Spatio-temporal pooling: from patch features of every frame to a few hundred video tokens."""

import torch


def pool(features: torch.Tensor, temporal_tokens: int = 100) -> torch.Tensor:
    """Average patch features over space and over time, and put the two side by side.

    Parameters
    ----------
    features : Tensor ``[T, N, D]``
        ``N`` patch features of each of ``T`` frames, of any floating dtype.
    temporal_tokens : int
        The number ``T'`` of temporal tokens. A clip of fewer frames is padded with zeros at the
        end, a longer one is subsampled at the middles of ``T'`` equal segments.

    Returns
    -------
    Tensor ``[T' + N, D]``, float32
        First the temporal tokens (each frame averaged over its patches), then the spatial tokens
        (each patch averaged over all ``T`` frames, the subsampled-away ones included).

    Raises
    ------
    ValueError
        If ``features`` is not three-dimensional, is empty, or ``temporal_tokens`` is below 1.

    Notes
    -----
    Section 3.1 of the paper; with 100 frames of 24 x 24 patches this is its 676-token layout.
    Both means accumulate in float32, so that half-precision features lose nothing here.
    """
    if features.ndim != 3 or 0 in features.shape:
        raise ValueError(
            f"pool() wants non-empty features [T, N, D], got shape {list(features.shape)}"
        )
    if temporal_tokens < 1:
        raise ValueError(f"temporal_tokens must be at least 1, got {temporal_tokens}")

    temporal = features.mean(dim=1, dtype=torch.float32)
    spatial = features.mean(dim=0, dtype=torch.float32)

    frames = len(temporal)
    if frames > temporal_tokens:
        middles = (torch.arange(temporal_tokens) + 0.5) * frames / temporal_tokens
        temporal = temporal[middles.long()]
    elif frames < temporal_tokens:
        temporal = torch.nn.functional.pad(temporal, (0, 0, 0, temporal_tokens - frames))
    return torch.cat([temporal, spatial])
