"""Frame encoders: frames in, one feature per patch out, with a text side to ask them with words."""

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, CLIPModel, CLIPVisionModel
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from . import assets
from .lite import clip
from .video import resize

PROMPT = "a photo of a {}"  # the template CLIP was evaluated with; names alone score lower


class FrameEncoder(ABC):
    """Patch features ``[T, N, D]`` of frames, each frame on its own, as the paper does (3.1).

    Attributes
    ----------
    dim : int
        ``D``, the size of a patch feature.
    temperature : float
        What to multiply a cosine with before a softmax over names (CLIP's logit scale).
    """

    dim: int
    temperature: float

    def __init__(self) -> None:
        self._vectors: dict[str, torch.Tensor] = {}

    @abstractmethod
    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches for frames of this size; ``N`` is their product."""

    @abstractmethod
    def _features(self, images: np.ndarray) -> torch.Tensor:
        """Patch features ``[t, N, D]`` of one chunk of frames."""

    @abstractmethod
    def _text(self, names: list[str]) -> torch.Tensor:
        """Unit vectors ``[K, E]`` of names that were not asked for before."""

    @abstractmethod
    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Unit vectors ``[..., E]`` of patch features ``[..., D]``, comparable with text."""

    def encode(self, images: np.ndarray, batch_size: int = 4) -> torch.Tensor:
        """Encode frames, a few at a time so that memory does not grow with their number.

        Parameters
        ----------
        images : uint8 array ``[T, H, W, 3]``
            RGB frames, at least one.
        batch_size : int
            Frames to a chunk; the result does not depend on it. Few fit a processor's cache;
            an accelerator wants more.

        Returns
        -------
        Tensor ``[T, N, D]``, float32, on the CPU

        Raises
        ------
        ValueError
            If `images` is not a uint8 array of that shape.
        """
        if images.ndim != 4 or images.shape[-1] != 3 or not len(images):
            raise ValueError(
                f"encode() wants RGB frames [T, H, W, 3], got shape {list(images.shape)}"
            )
        if images.dtype != np.uint8:
            raise ValueError(f"encode() wants uint8 frames (0 to 255), got {images.dtype}")
        chunks = range(0, len(images), batch_size)
        with torch.inference_mode():
            parts = [self._features(images[start : start + batch_size]) for start in chunks]
        return torch.cat([part.to("cpu", torch.float32) for part in parts])

    def encode_text(self, names: list[str]) -> torch.Tensor:
        """Unit vectors ``[K, E]`` of names such as "dog", in the space that `project` maps to.

        A name is encoded once: a tag list is asked for again at every shot.
        """
        new = [name for name in dict.fromkeys(names) if name not in self._vectors]
        if new:
            self._vectors.update(zip(new, self._text(new), strict=True))
        return torch.stack([self._vectors[name] for name in names])

    def similarity(self, features: torch.Tensor, names: list[str]) -> torch.Tensor:
        """Cosine of every patch with every name.

        Parameters
        ----------
        features : Tensor ``[T, N, D]``
            From `encode`.
        names : list of str
            ``K`` names; they are put into the prompt "a photo of a ...".

        Returns
        -------
        Tensor ``[T, K, N]`` with values from -1 to 1
            ``similarity(...)[t, k].reshape(encoder.grid(height, width))`` is a heat map.
        """
        return torch.einsum("tne,ke->tkn", self.project(features), self.encode_text(names))


class LiteCLIPEncoder(FrameEncoder):
    """The `pocket` encoder: cells of EfficientNet-Lite2's last map, named through MiniLM.

    The whole frame is kept: it is resized so that its short side is `short_side` pixels and both
    sides are multiples of 32, the pixels that one cell covers (at most 16 pixels of stretch).

    Parameters
    ----------
    short_side : int
        A multiple of 32. 224 gives 7 x 7 cells on a square video; more shows smaller things.
    """

    dim = clip.TRUNK_DIM
    temperature = 20.0  # the shares of a patch's names then spread about as wide as CLIP's do

    def __init__(self, short_side: int = 224, device: str | torch.device = "cpu") -> None:
        if short_side < clip.STRIDE or short_side % clip.STRIDE:
            raise ValueError(f"short_side must be a multiple of {clip.STRIDE}, got {short_side}")
        super().__init__()
        self.short_side = short_side
        self.trunk = clip.load_trunk(device)
        self.sentences = clip.SentenceEncoder(device)
        self.text_map = clip.TextMap.load()

    def grid(self, height: int, width: int) -> tuple[int, int]:
        cells = self.short_side / clip.STRIDE / min(height, width)
        return max(1, round(height * cells)), max(1, round(width * cells))

    def _features(self, images: np.ndarray) -> torch.Tensor:
        rows, columns = self.grid(*images.shape[1:3])
        images = resize(images, rows * clip.STRIDE, columns * clip.STRIDE)
        pixels = torch.from_numpy(np.require(images, requirements="W")).permute(0, 3, 1, 2)
        return clip.trunk_map(self.trunk, pixels).flatten(2).transpose(1, 2)

    def _text(self, names: list[str]) -> torch.Tensor:
        prompts = [PROMPT.format(name) for name in names]
        return self.text_map(self.sentences(prompts).to("cpu", torch.float32))

    def project(self, features: torch.Tensor) -> torch.Tensor:
        return normalize(features - self.text_map.image_centre, dim=-1)


class CLIPEncoder(FrameEncoder):
    """Any CLIP checkpoint in transformers' layout, read as LLaVA reads it.

    The patch features are the last layer's *input*, without the class token
    (``hidden_states[-2][:, 1:]``), so the last layer is never run on frames. It serves `project`:
    its value and output projections turn a patch feature into CLIP's joint space, which is how
    MaskCLIP (Zhou et al., 2022) reads words off single patches.

    Parameters
    ----------
    checkpoint : str or Path
        A hub name or a folder holding a CLIP model (both towers) or a CLIP vision model. With the
        vision tower alone there are no words: `encode_text` and `project` raise ValueError.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        kind = AutoConfig.from_pretrained(checkpoint).model_type
        if kind not in ("clip", "clip_vision_model"):
            raise ValueError(f"{checkpoint} holds a {kind} model; CLIPEncoder reads CLIP models")
        self.checkpoint = checkpoint
        self.clip: CLIPModel | None = None
        if kind == "clip":
            self.clip = CLIPModel.from_pretrained(checkpoint, dtype=dtype).eval().to(device)
            self.vision = self.clip.vision_model
            self.temperature = self.clip.logit_scale.exp().item()
            self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        else:
            self.vision = CLIPVisionModel.from_pretrained(checkpoint, dtype=dtype).eval().to(device)
        self.processor = AutoImageProcessor.from_pretrained(checkpoint)
        self.dim = self.vision.config.hidden_size
        self.last_layer = drop_last_layer(self.vision)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        side = self.vision.config.image_size // self.vision.config.patch_size
        return side, side

    def _features(self, images: np.ndarray) -> torch.Tensor:
        pixels = self.processor(list(images), return_tensors="pt")["pixel_values"]
        return patch_features(self.vision, pixels.to(self.vision.device, self.vision.dtype))

    def _both_towers(self) -> CLIPModel:
        if self.clip is None:
            raise ValueError(
                f"{self.checkpoint} is a vision tower without a text tower, so it cannot be asked "
                "with words; use a full CLIP checkpoint such as openai/clip-vit-base-patch32"
            )
        return self.clip

    def _text(self, names: list[str]) -> torch.Tensor:
        model = self._both_towers()
        prompts = [PROMPT.format(name) for name in names]
        tokens = self.tokenizer(prompts, padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            text = model.get_text_features(**tokens.to(model.device)).pooler_output
        return normalize(text.to("cpu", torch.float32), dim=-1)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        model, layer = self._both_towers(), self.last_layer
        with torch.inference_mode():
            values = layer.layer_norm1(features.to(model.device, model.dtype))
            values = layer.self_attn.out_proj(layer.self_attn.v_proj(values))
            joint = model.visual_projection(self.vision.post_layernorm(values))
        return normalize(joint.to("cpu", torch.float32), dim=-1)


def drop_last_layer(vision: CLIPVisionModel) -> CLIPEncoderLayer:
    """Take the last layer off a CLIP vision tower, so that it ends at ``hidden_states[-2]``."""
    *kept, last = vision.encoder.layers
    vision.encoder.layers = nn.ModuleList(kept)
    return last  # type: ignore[return-value]


def patch_features(vision: CLIPVisionModel, pixels: torch.Tensor) -> torch.Tensor:
    """Patch features ``[t, N, D]`` of a tower whose last layer was dropped; no class token."""
    return vision(pixel_values=pixels).last_hidden_state[:, 1:]


def load_encoder(checkpoint: str | Path, device: str | torch.device = "cpu") -> FrameEncoder:
    """The encoder that a profile names: "liteclip", an asset, or a CLIP checkpoint of your own."""
    if checkpoint == "liteclip":
        return LiteCLIPEncoder(device=device)
    if checkpoint in assets.ASSETS:
        checkpoint = assets.path(str(checkpoint))
    return CLIPEncoder(checkpoint, device=device)
