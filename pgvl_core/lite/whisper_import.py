"""Read a Whisper model stored for CTranslate2 into openai-whisper's own checkpoint form.

The file (version 6 of CTranslate2's `model.bin`) is little-endian: version, name of the spec,
revision, count; then each variable as name, rank, dimensions, dtype, bytes, data; then aliases.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from whisper.model import ModelDimensions

DTYPES = [np.float32, np.int8, np.int16, np.int32, np.float16]  # by their number in the file
HEAD_WIDTH = 64  # of every Whisper size; the head counts follow from it

# CTranslate2's parts of a layer and openai-whisper's. Those that CTranslate2 fuses are listed as
# the parts they are stacked from.
PARTS = {
    "self_attention/layer_norm": ["attn_ln"],
    "self_attention/linear_0": ["attn.query", "attn.key", "attn.value"],
    "self_attention/linear_1": ["attn.out"],
    "attention/layer_norm": ["cross_attn_ln"],
    "attention/linear_0": ["cross_attn.query"],
    "attention/linear_1": ["cross_attn.key", "cross_attn.value"],
    "attention/linear_2": ["cross_attn.out"],
    "ffn/layer_norm": ["mlp_ln"],
    "ffn/linear_0": ["mlp.0"],
    "ffn/linear_1": ["mlp.2"],
}
WHOLE = {
    "encoder/conv1": "encoder.conv1",
    "encoder/conv2": "encoder.conv2",
    "encoder/layer_norm": "encoder.ln_post",
    "encoder/position_encodings/encodings": "encoder.positional_embedding",
    "decoder/embeddings": "decoder.token_embedding",
    "decoder/layer_norm": "decoder.ln",
    "decoder/position_encodings/encodings": "decoder.positional_embedding",
}
ENDINGS = {"weight": "weight", "gamma": "weight", "bias": "bias", "beta": "bias"}


def read_ctranslate2(file: Path) -> dict[str, np.ndarray]:
    """Variables of a CTranslate2 `model.bin` by name, as stored (float16 here)."""
    variables = {}
    with file.open("rb") as stream:
        _unpack(stream, "I")  # version
        _text(stream)  # spec
        _, count = _unpack(stream, "II")
        for _ in range(count):
            name = _text(stream)
            (rank,) = _unpack(stream, "B")
            shape = _unpack(stream, f"{rank}I")
            kind, size = _unpack(stream, "<BI")
            variables[name] = np.frombuffer(stream.read(size), DTYPES[kind]).reshape(shape)
    return variables


def _unpack(stream: BinaryIO, form: str) -> tuple[int, ...]:
    form = "<" + form.lstrip("<")
    return struct.unpack(form, stream.read(struct.calcsize(form)))


def _text(stream: BinaryIO) -> str:
    (length,) = _unpack(stream, "H")
    return stream.read(length)[:-1].decode()  # ends in a zero byte


def state_dict(variables: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """openai-whisper's state dict from the variables of a CTranslate2 file, in their own dtype."""
    state = {}
    for name, array in variables.items():
        if array.ndim == 0 or name.startswith(("decoder/alignment", "decoder/projection")):
            continue  # settings of CTranslate2's decoder
        owner, _, ending = name.rpartition("/")
        if name in WHOLE:
            state[WHOLE[name]] = array
        elif owner in WHOLE:
            state[f"{WHOLE[owner]}.{ENDINGS[ending]}"] = array
        else:
            side, layer, part = owner.split("/", 2)
            block = f"{side}.blocks.{layer.removeprefix('layer_')}"
            targets = PARTS[part]
            for target, piece in zip(targets, np.split(array, len(targets)), strict=True):
                if target.endswith(".key") and ending == "bias":
                    continue  # zeros: a key has no bias in Whisper
                state[f"{block}.{target}.{ENDINGS[ending]}"] = piece
    return {name: torch.from_numpy(array.copy()) for name, array in state.items()}


def dimensions(state: dict[str, torch.Tensor]) -> ModelDimensions:
    """The model's dimensions, read off the shapes of its state dict."""

    def layers(side: str) -> int:
        return sum(key.startswith(side) and key.endswith("mlp.0.weight") for key in state)

    audio_context, audio_width = state["encoder.positional_embedding"].shape
    text_context, text_width = state["decoder.positional_embedding"].shape
    return ModelDimensions(
        n_mels=state["encoder.conv1.weight"].shape[1],
        n_audio_ctx=audio_context,
        n_audio_state=audio_width,
        n_audio_head=audio_width // HEAD_WIDTH,
        n_audio_layer=layers("encoder"),
        n_vocab=state["decoder.token_embedding.weight"].shape[0],
        n_text_ctx=text_context,
        n_text_state=text_width,
        n_text_head=text_width // HEAD_WIDTH,
        n_text_layer=layers("decoder"),
    )


def convert(source: Path, folder: Path) -> None:
    """Write `folder`/tiny.en.pt, which `whisper.load_model` reads, from `source`/model.bin."""
    state = state_dict(read_ctranslate2(source / "model.bin"))
    torch.save({"dims": vars(dimensions(state)), "model_state_dict": state}, folder / "tiny.en.pt")
