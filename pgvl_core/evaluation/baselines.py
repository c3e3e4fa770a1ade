"""What a grounding figure is to be seen beside: guesses that look at nothing, and the paper's own.

A set in which things are large and in the middle gives a high sIoU to whoever does not look; only
what a system adds to that is its own.
"""

from .runner import Prediction
from .samples import Sample


def whole_frame(sample: Sample) -> Prediction:
    """The whole frame, always: its sIoU is the share of the frame that the thing takes."""
    return dict.fromkeys(sample.frames.tolist(), (0.0, 0.0, *sample.size))


def centre_box(sample: Sample) -> Prediction:
    """A box in the middle, half as wide and half as high as the frame."""
    width, height = sample.size
    box = (width / 4, height / 4, width * 3 / 4, height * 3 / 4)
    return dict.fromkeys(sample.frames.tolist(), box)


def true_box(sample: Sample) -> Prediction:
    """The truth: no system does better, and what is missing from 1 is the measurement's fault."""
    return dict(zip(sample.frames.tolist(), sample.boxes, strict=True))


BASELINES = {"whole frame": whole_frame, "centre box": centre_box, "true box": true_box}

# Mean IoU in percent on interrogative sentences, as printed: nothing here was measured by us. The
# authors' code takes the best of all boxes shown (`siou_official`), and a figure on other videos
# is not to be compared with these.
SOURCE = "cited: arXiv 2311.13435, table 2"
CITED = [
    {"model": model, "VidSTG": vidstg, "HC-STVG": hcstvg, "source": SOURCE}
    for model, vidstg, hcstvg in (
        ("Grounding DINO", 25.3, 19.5),
        ("Video-LLaMA", 28.6, 26.1),
        ("Video-ChatGPT", 32.8, 20.8),
        ("PG-Video-LLaVA (7B)", 34.2, 28.3),
        ("PG-Video-LLaVA (13B)", 35.1, 27.3),
    )
]
