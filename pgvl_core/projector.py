"""The projector: from the frame encoder's space into the language model's, and its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

NAMES = {  # official name of a layer -> ours, for the MLP of LLaVA 1.5 and Video-ChatGPT's matrix
    "0.weight": "linear_1.weight",
    "0.bias": "linear_1.bias",
    "2.weight": "linear_2.weight",
    "2.bias": "linear_2.bias",
    "weight": "weight",
    "bias": "bias",
}


def build(kind: str, vision_dim: int, llm_dim: int) -> nn.Module:
    """A fresh projector ``[..., vision_dim] -> [..., llm_dim]``.

    "mlp2x_gelu" (LLaVA 1.5 and the paper, 3.1) is transformers' own LLaVA projector; "linear"
    (Video-ChatGPT) is one matrix.
    """
    if kind == "linear":
        return nn.Linear(vision_dim, llm_dim)
    if kind != "mlp2x_gelu":
        raise ValueError(f"no projector is called {kind!r}; there are mlp2x_gelu and linear")
    config = LlavaConfig(  # of which the projector reads the two widths alone
        vision_config=CLIPVisionConfig(hidden_size=vision_dim, num_attention_heads=1),
        text_config=LlamaConfig(hidden_size=llm_dim, num_attention_heads=1),
    )
    return LlavaMultiModalProjector(config)


def layers(projector: nn.Module) -> tuple[nn.Linear, nn.Linear]:
    """First and last matrix of a projector; the same one of a linear projector."""
    linear = [module for module in projector.modules() if isinstance(module, nn.Linear)]
    return linear[0], linear[-1]


@dataclass
class ProjectorFile:
    """What a projector file holds."""

    projector: nn.Module
    marks: torch.Tensor | None  # [2, K]: embeddings of <vid_start> and <vid_end>
    rest: dict[str, torch.Tensor]  # what is neither: pocket's LoRA


def read(path: str | Path, vision_dim: int, llm_dim: int) -> ProjectorFile:
    """Read a projector in the layout of LLaVA, Video-ChatGPT and PG-Video-LLaVA.

    Keys ``mm_projector.0.weight`` ... (or ``mm_projector.weight``) with any prefix, and
    ``embed_tokens.weight`` with the rows that video training added, alone or below the whole
    vocabulary: the last two are <vid_start> and <vid_end>. Pickled ``.bin`` files (tensors alone
    are accepted) or safetensors.

    Parameters
    ----------
    vision_dim, llm_dim : int
        The sizes that it has to fit.

    Raises
    ------
    ValueError
        When the file cannot be read, holds no projector, or one that does not fit.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except Exception as error:  # a broken pickle raises nearly anything
        raise ValueError(f"{path}: not a file of tensors ({type(error).__name__})") from error
    if not isinstance(weights, dict) or not all(map(torch.is_tensor, weights.values())):
        raise ValueError(f"{path}: not a file of named tensors")
    own: dict[str, torch.Tensor] = {}
    marks, rest = None, {}
    for key, value in weights.items():
        if "mm_projector." in key and (name := key.split("mm_projector.")[1]) in NAMES:
            own[NAMES[name]] = value.float()
        elif key.endswith("embed_tokens.weight"):
            marks = value[-2:].float()
        else:
            rest[key] = value
    kind = "linear" if "weight" in own else "mlp2x_gelu"
    projector = build(kind, vision_dim, llm_dim)
    wanted = {name: list(value.shape) for name, value in projector.state_dict().items()}
    found = {name: list(value.shape) for name, value in own.items()}
    if not own:
        raise ValueError(f"{path}: no mm_projector weights among its {len(weights)} tensors")
    if found != wanted:
        raise ValueError(
            f"{path}: this projector's layers are {found}, the model's encoder gives features of "
            f"{vision_dim} and its language model reads {llm_dim}, which needs {wanted}"
        )
    if marks is not None and marks.shape != (2, llm_dim):
        raise ValueError(
            f"{path}: the embeddings of its video marks are {list(marks.shape)}, the language "
            f"model reads {[2, llm_dim]}"
        )
    projector.load_state_dict(own)
    return ProjectorFile(projector, marks, rest)


def tensors(projector: nn.Module, marks: torch.Tensor) -> dict[str, torch.Tensor]:
    """A projector and its two video marks, as `read` reads them."""
    official = {ours: name for name, ours in NAMES.items()}
    weights = {f"mm_projector.{official[name]}": v for name, v in projector.state_dict().items()}
    return weights | {"embed_tokens.weight": marks}
