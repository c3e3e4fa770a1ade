"""Pictures for the notebooks: each a matplotlib figure, which `show` displays with alt text."""

import io
from collections.abc import Sequence

import cv2
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image, display
from matplotlib.figure import Figure


def show(figure: Figure, alt: str, dpi: int = 90) -> None:
    """Display a figure with `alt`, the sentence that stands for it where it cannot be seen."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
    plt.close(figure)
    display(Image(buffer.getvalue(), alt=alt))


def frame_grid(
    images: Sequence[np.ndarray],
    titles: Sequence[str] = (),
    columns: int = 5,
    width: float = 11.0,
) -> Figure:
    """Pictures ``[H, W]`` or ``[H, W, 3]`` in rows of `columns`, each under its title."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height, frame_width = images[0].shape[:2]
    each = width / columns
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(width, rows * (each * height / frame_width + (0.3 if titles else 0.05))),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, image in zip(axes.flat, images, strict=False):
        axis.imshow(image)
    for axis, title in zip(axes.flat, titles, strict=False):
        axis.set_title(title, fontsize=9)
    return figure


def overlay(image: np.ndarray, heat: np.ndarray, low: float, high: float) -> np.ndarray:
    """Lay a heat map ``[rows, columns]`` over a frame ``[H, W, 3]``; uint8 ``[H, W, 3]``.

    Cells at `low` or below leave the frame grey; cells at `high` or above are painted fully.
    """
    height, width = image.shape[:2]
    strength = np.clip((heat - low) / (high - low), 0, 1).astype(np.float32)
    strength = cv2.resize(strength, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    colour = plt.get_cmap("inferno")(strength)[..., :3] * 255
    grey = image.mean(axis=-1, keepdims=True)
    weight = 0.75 * strength[..., None]
    return (grey * (1 - weight) + colour * weight).astype(np.uint8)


def bars(
    names: Sequence[str],
    values: Sequence[float],
    label: str,
    errors: Sequence[float] | None = None,
    width: float = 7.0,
) -> Figure:
    """Horizontal bars, the first on top, each with its value written at its end."""
    figure, axis = plt.subplots(figsize=(width, 0.35 * len(names) + 0.7), layout="constrained")
    drawn = axis.barh(range(len(names)), values, xerr=errors, color="#4c78a8")
    axis.bar_label(drawn, fmt=" {:.3g}", fontsize=9)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlabel(label)
    axis.spines[["top", "right"]].set_visible(False)
    return figure
