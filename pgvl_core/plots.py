"""Pictures for the notebooks: each a matplotlib figure, which `show` displays with alt text."""

import base64
import html
import io
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

import cv2
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import DisplayHandle, display
from matplotlib.figure import Figure


def show(figure: Figure, alt: str) -> None:
    """Display a figure with `alt`, the sentence that stands for it where it cannot be seen."""
    display(bundle(figure, alt), raw=True)


class Live:
    """A figure that is drawn again and again in one place, as something goes on."""

    def __init__(self, alt: str) -> None:
        self.alt = alt
        self._handle: DisplayHandle | None = None

    def show(self, figure: Figure) -> None:
        """Put this figure in place of the last."""
        if self._handle is None:
            self._handle = display(bundle(figure, self.alt), raw=True, display_id=True)
        else:
            self._handle.update(bundle(figure, self.alt), raw=True)


def bundle(figure: Figure, alt: str) -> dict[str, str]:
    """What `show` displays, by MIME type; the figure is closed."""
    buffer = io.BytesIO()
    # WebP: a notebook full of photographs is a quarter of what it is with PNG.
    figure.savefig(buffer, format="webp", dpi=90, bbox_inches="tight", pil_kwargs={"quality": 88})
    plt.close(figure)
    # As HTML, since JupyterLab gives a bare picture no alt text; as plain text, alt itself.
    picture = base64.b64encode(buffer.getvalue()).decode()
    tag = f'<img alt="{html.escape(alt)}" src="data:image/webp;base64,{picture}">'
    return {"text/html": tag, "text/plain": alt}


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
    errors: Sequence[float] | np.ndarray | None = None,
) -> Figure:
    """Horizontal bars, the first on top, each with its value written at its end.

    Errors are as matplotlib takes them: one to a bar, or ``[2, bars]`` for below and above.
    """
    figure, axis = plt.subplots(figsize=(7, 0.35 * len(names) + 0.7), layout="constrained")
    drawn = axis.barh(range(len(names)), values, xerr=errors, color="#4c78a8")
    axis.bar_label(drawn, fmt=" {:.3g}", fontsize=9)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlabel(label)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def flow_chart(
    boxes: Mapping[str, tuple[int, int]],
    chains: Sequence[Sequence[str]],
    filled: Collection[str],
) -> Figure:
    """Named boxes at (column, row), joined by an arrow along each chain of names.

    Boxes in `filled` are coloured. A name is broken at its spaces.
    """
    columns = 1 + max(column for column, _ in boxes.values())
    rows = 1 + max(row for _, row in boxes.values())
    figure, axis = plt.subplots(figsize=(11, rows * 11 / columns * 0.6))
    drawn = {}
    for name, (column, row) in boxes.items():
        colour = "#d5e5f5" if name in filled else "white"
        style = {"boxstyle": "round,pad=0.5", "facecolor": colour, "edgecolor": "#4c78a8"}
        label = name.replace(" ", "\n")
        drawn[name] = axis.text(column, -row, label, ha="center", va="center", bbox=style)
    axis.set(xlim=(-0.5, columns - 0.5), ylim=(0.5 - rows, 0.5))
    axis.axis("off")
    figure.canvas.draw()  # boxes get their size, at which the arrows stop
    for start, end in {pair for chain in chains for pair in pairwise(chain)}:
        patches = {"patchA": drawn[start].get_bbox_patch(), "patchB": drawn[end].get_bbox_patch()}
        arrow = {"arrowstyle": "->", "color": "#666666", "shrinkA": 4, "shrinkB": 4, **patches}
        axis.annotate("", drawn[end].get_position(), drawn[start].get_position(), arrowprops=arrow)
    return figure


def sound_track(
    sound: np.ndarray,
    rate: int,
    regions: Sequence[tuple[float, float]],
    lanes: Mapping[str, Sequence[tuple[float, float, str]]],
    begin: float = 0.0,
    end: float = np.inf,
) -> Figure:
    """A wave, regions of it shaded, and under it what is where: a lane of texts for each name.

    Parameters
    ----------
    sound : samples [S], in [-1, 1]
    regions : seconds
    lanes : for each name, (begin, end, text) in seconds
    begin, end : what is shown, in seconds
    """
    end = min(end, len(sound) / rate)
    figure, axes = plt.subplots(
        1 + len(lanes),
        1,
        figsize=(11, 1.6 + 0.8 * len(lanes)),
        height_ratios=[2] + [1] * len(lanes),
        sharex=True,
        layout="constrained",
        squeeze=False,
    )
    wave, *below = axes[:, 0]
    piece = sound[int(begin * rate) : int(end * rate)]
    step = max(1, len(piece) // 4000)
    wave.plot(begin + np.arange(0, len(piece), step) / rate, piece[::step], "#4c78a8", lw=0.5)
    for first, last in regions:
        wave.axvspan(first, last, color="#f2cf5b", alpha=0.4, lw=0)
    for axis, (name, lane) in zip(below, lanes.items(), strict=True):
        inside = [row for row in lane if row[1] > begin and row[0] < end]
        for i, (first, last, text) in enumerate(inside):
            height = 0.55 if i % 2 else 0.05  # in turns, so that short words do not touch
            axis.plot([first, last], [height, height], color="#e45756", lw=2)
            axis.text(first, height + 0.08, text, fontsize=8, va="bottom", clip_on=True)
        axis.set(ylim=(0, 1.15), yticks=[])
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
        axis.spines[["top", "right", "left"]].set_visible(False)
    wave.set(yticks=[], xlim=(begin, end))
    wave.spines[["top", "right", "left"]].set_visible(False)
    axes[-1, 0].set_xlabel("seconds")
    return figure
