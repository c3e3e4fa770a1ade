"""LiteSAM: segment_anything's own model, with the frozen EfficientNet-Lite2 trunk for its eyes.

SAM (Kirillov et al., 2023) is an image encoder of 90 to 640 million weights, a prompt encoder, and
a mask decoder of four million. Here the last two are the package's own classes, with 192 channels
for 256; the first is the trunk that the rest of `pocket` sees with, and a neck that joins its
strides 8, 16 and 32 at stride 16. `segment_anything.SamPredictor` drives the whole as it drives
SAM; `TwoViews` is one that draws each thing twice.

The package's decoder draws a mask from stride 16 alone, which is enough for features that a large
encoder made for it and blunt for those of a small one. So the neck's strides 4 and 8 go past the
transformer into the upscaling of the mask, as SAM 2 does (Ravi et al., 2024, appendix).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from segment_anything import SamPredictor
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from timm.models import EfficientNet
from torch import nn
from torch.nn.functional import gelu, interpolate, pixel_shuffle, pixel_unshuffle

from .. import assets
from . import clip

SIDE = 512  # pixels of the square that an image is fitted into
LARGER = 608  # of the square of the second view
STRIDE = 16  # pixels to a cell of the embedding; a mask has four times as many a side
DIM = 192  # channels of the embedding
FINE = {8: DIM // 4, 4: DIM // 8}  # stride -> channels of what goes past the transformer
WEIGHTS = assets.DATA / "weights" / "sam.safetensors"


def fold(coarse: torch.Tensor, eight: torch.Tensor, four: torch.Tensor) -> torch.Tensor:
    """Maps at strides 16, 8 and 4 as one at stride 16, a cell's finer values in its channels.

    One tensor is what `SamPredictor` keeps of an image.
    """
    return torch.cat([coarse, pixel_unshuffle(eight, 2), pixel_unshuffle(four, 4)], dim=1)


def unfold(folded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The three maps of `fold`."""
    coarse, eight, four = folded.split([DIM, 4 * FINE[8], 16 * FINE[4]], dim=1)
    return coarse, pixel_shuffle(eight, 2), pixel_shuffle(four, 4)


class Neck(nn.Module):
    """From the trunk's levels to the embedding of an image."""

    def __init__(self) -> None:
        super().__init__()
        four, eight, sixteen, thirtytwo = clip.LEVELS.values()
        self.from8 = nn.Conv2d(eight, DIM, 3, stride=2, padding=1)
        self.from16 = nn.Conv2d(sixteen, DIM, 1)
        self.from32 = nn.Conv2d(thirtytwo, DIM, 1)
        self.mix = nn.Sequential(
            LayerNorm2d(DIM), nn.GELU(), nn.Conv2d(DIM, DIM, 3, padding=1), LayerNorm2d(DIM)
        )
        self.fine8 = nn.Sequential(nn.Conv2d(eight, FINE[8], 1), LayerNorm2d(FINE[8]))
        self.fine4 = nn.Sequential(nn.Conv2d(four, FINE[4], 1), LayerNorm2d(FINE[4]))

    def forward(self, levels: list[torch.Tensor]) -> torch.Tensor:
        """Levels of `clip.trunk_levels` to ``[B, C, H / 16, W / 16]``, as `fold` lays it out."""
        four, eight, sixteen, thirtytwo = levels
        above = interpolate(self.from32(thirtytwo), scale_factor=2.0, mode="bilinear")
        joined = self.from8(eight) + self.from16(sixteen) + above
        return fold(self.mix(joined), self.fine8(eight), self.fine4(four))


class ImageEncoder(nn.Module):
    """What `Sam` calls its image encoder: the frozen trunk and the neck."""

    def __init__(self, trunk: EfficientNet, side: int) -> None:
        super().__init__()
        self.img_size = side
        self.trunk, self.neck = trunk, Neck()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised pixels ``[B, 3, side, side]`` to the embedding."""
        return self.neck(clip.trunk_levels(self.trunk, pixels))


class Upscaling(nn.Module):
    """From stride 16 to stride 4, with `detail` (maps at strides 8 and 4) added on the way."""

    detail: tuple[torch.Tensor, torch.Tensor]

    def __init__(self) -> None:
        super().__init__()
        eight, four = FINE[8], FINE[4]
        self.to8 = nn.ConvTranspose2d(DIM, eight, 2, stride=2)
        self.to4 = nn.ConvTranspose2d(eight, four, 2, stride=2)
        self.norm8, self.norm4 = LayerNorm2d(eight), LayerNorm2d(four)
        self.refine = nn.Sequential(
            nn.Conv2d(four, four, 3, padding=1, groups=four),
            nn.Conv2d(four, 2 * four, 1),
            nn.GELU(),
            nn.Conv2d(2 * four, four, 1),
        )

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        eight, four = self.detail
        finer = gelu(self.norm8(self.to8(embedding)) + eight)
        finest = self.norm4(self.to4(finer)) + four
        return gelu(finest + self.refine(finest))


class DetailedMaskDecoder(MaskDecoder):
    """segment_anything's decoder, whose upscaling also sees strides 8 and 4."""

    def __init__(self) -> None:
        super().__init__(
            transformer_dim=DIM,
            transformer=TwoWayTransformer(depth=2, embedding_dim=DIM, num_heads=8, mlp_dim=1024),
        )
        self.output_upscaling = Upscaling()

    def predict_masks(  # the package's signature
        self, image_embeddings: torch.Tensor, **prompts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        coarse, eight, four = unfold(image_embeddings)
        self.output_upscaling.detail = eight, four
        return super().predict_masks(coarse, **prompts)


def build(trunk: EfficientNet, side: int = SIDE) -> Sam:
    """LiteSAM around a trunk, all but the trunk untrained, for a square of `side` pixels."""
    return Sam(
        ImageEncoder(trunk, side),  # type: ignore[arg-type]
        PromptEncoder(
            embed_dim=DIM,
            image_embedding_size=(side // STRIDE, side // STRIDE),
            input_image_size=(side, side),
            mask_in_chans=16,
        ),
        DetailedMaskDecoder(),
        pixel_mean=[clip.MEAN] * 3,
        pixel_std=[clip.SPREAD] * 3,
    )


def trained(sam: Sam) -> dict[str, torch.Tensor]:
    """The tensors of `build` that are not the trunk's, by name: what WEIGHTS holds."""
    return {
        name: tensor
        for name, tensor in sam.state_dict().items()
        if not name.startswith("image_encoder.trunk.")
    }


def load(path: Path = WEIGHTS, device: str | torch.device = "cpu") -> Sam:
    """LiteSAM with its weights, frozen; `TwoViews` asks it.

    Raises
    ------
    AssetError
        When the weights are not there, or are not LiteSAM's.
    """
    if not path.exists():
        raise assets.AssetError(f"{path} is not there; `make weights` builds it")
    sam = build(clip.load_trunk(device))
    found = load_file(path)
    if wrong := found.keys() ^ trained(sam).keys():
        raise assets.AssetError(
            f"{path} is not LiteSAM's: {min(wrong)} is there or in the model, not in both; "
            "`make weights` builds it anew"
        )
    sam.load_state_dict(found, strict=False)
    return sam.to(device).eval().requires_grad_(False)


class TwoViews(SamPredictor):
    """LiteSAM's predictor: it looks at an image, and at a larger mirror image of it.

    What it draws is where the mean of both logits is over the threshold, and how good it thinks
    that is the mean of both guesses. A small trunk errs in one way on a thing and in another on its
    mirror image, and the larger view shows small things on more cells.

    Parameters
    ----------
    model : Sam
        LiteSAM, from `load`.
    """

    def __init__(self, model: Sam) -> None:
        super().__init__(model)
        larger = build(model.image_encoder.trunk, LARGER)  # type: ignore[arg-type]
        larger.load_state_dict(model.state_dict())
        self.mirrored = SamPredictor(larger.to(model.device).eval().requires_grad_(False))

    def set_image(self, image: np.ndarray, image_format: str = "RGB") -> None:
        """Encode an image, uint8 ``[H, W, 3]``, both ways."""
        super().set_image(image, image_format)
        self.mirrored.set_image(np.ascontiguousarray(image[:, ::-1]), image_format)

    def predict_torch(  # the package's signature
        self,
        point_coords: torch.Tensor | None,
        point_labels: torch.Tensor | None,
        boxes: torch.Tensor | None = None,
        mask_input: torch.Tensor | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As the package's; the third value, logits of the square, is of the plain view alone.

        Raises
        ------
        ValueError
            When a mask is given: those of the two views differ in size.
        """
        if mask_input is not None:
            raise ValueError("LiteSAM's two views take boxes and points, no mask")
        logits, iou, low = super().predict_torch(
            point_coords, point_labels, boxes, None, multimask_output, return_logits=True
        )
        if point_coords is not None:
            point_coords = self._mirror(point_coords)
        if boxes is not None:  # what was left is right, so the corners swap their x
            boxes = self._mirror(boxes.view(-1, 2, 2)).view(-1, 4)[:, [2, 1, 0, 3]]
        seen, iou_seen, _ = self.mirrored.predict_torch(
            point_coords, point_labels, boxes, None, multimask_output, return_logits=True
        )
        logits = (logits + seen.flip(-1)) / 2
        iou = (iou + iou_seen) / 2
        return (logits if return_logits else logits > self.model.mask_threshold), iou, low

    def _mirror(self, points: torch.Tensor) -> torch.Tensor:
        """Points ``[..., 2]``, x and y, of the plain square in the mirrored one."""
        (rows, columns), (more_rows, more_columns) = self.input_size, self.mirrored.input_size
        x, y = points.unbind(-1)
        return torch.stack([(columns - x) * more_columns / columns, y * more_rows / rows], dim=-1)
