"""LiteSAM: segment_anything's own model, with the frozen EfficientNet-Lite2 trunk for its eyes.

SAM (Kirillov et al., 2023) is an image encoder of 90 to 640 million weights, a prompt encoder, and
a mask decoder of four million. Here the last two are the package's own classes, with 192 channels
for 256; the first is the trunk that the rest of `pocket` sees with, and a neck that joins its
strides 8, 16 and 32 at stride 16. `segment_anything.SamPredictor` drives the whole as it drives
SAM.

The package's decoder draws a mask from stride 16 alone, which is enough for features that a large
encoder made for it and blunt for those of a small one. So the neck's strides 4 and 8 go past the
transformer into the upscaling of the mask, as SAM 2 does (Ravi et al., 2024, appendix).
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from timm.models import EfficientNet
from torch import nn
from torch.nn.functional import gelu, interpolate, pixel_shuffle, pixel_unshuffle

from .. import assets
from . import clip

SIDE = 512  # pixels of the square that an image is fitted into
GRID = SIDE // 16  # cells of the embedding; a mask has four times as many a side
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

    img_size = SIDE

    def __init__(self, trunk: EfficientNet) -> None:
        super().__init__()
        self.trunk, self.neck = trunk, Neck()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised pixels ``[B, 3, 512, 512]`` to the embedding."""
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


def build(trunk: EfficientNet) -> Sam:
    """LiteSAM around a trunk, all but the trunk untrained."""
    return Sam(
        ImageEncoder(trunk),  # type: ignore[arg-type]
        PromptEncoder(
            embed_dim=DIM,
            image_embedding_size=(GRID, GRID),
            input_image_size=(SIDE, SIDE),
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
    """LiteSAM with its weights, frozen, for `segment_anything.SamPredictor`.

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
