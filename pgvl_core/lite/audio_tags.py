"""Audio tags read off Whisper's own encoder, as Whisper-AT does, by a small trained head.

Whisper learned to write down speech in any noise, and so its encoder knows the noise: one linear
map from the states of all its layers tells what a sound is like (Gong et al., Whisper-AT, 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
import whisper
from safetensors import safe_open

from ..files import sha256

STATES = 50  # of Whisper's encoder to a second


@cache
def load_whisper(checkpoint: str, device: str = "cpu") -> whisper.Whisper:
    """A Whisper, read once: pocket's hears the words and tags the sounds."""
    return whisper.load_model(checkpoint, device=device)


def states(model: whisper.Whisper, audio: np.ndarray) -> torch.Tensor:
    """States of the encoder's layers ``[layers, 1500, K]`` for float32 sound of at most 30 s."""
    found: list[torch.Tensor] = []
    hooks = [
        block.register_forward_hook(lambda _module, _given, state: found.append(state))
        for block in model.encoder.blocks
    ]
    try:
        mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(audio), model.dims.n_mels)
        with torch.inference_mode():
            model.encoder(mel[None].to(model.device))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(found).float().cpu()


def summary(layers: torch.Tensor, begin: float, end: float) -> torch.Tensor:
    """Mean and spread ``[2 * layers * K]`` of the states from `begin` to `end`, in seconds."""
    first = min(int(begin * STATES), layers.shape[1] - 2)
    span = layers[:, first : max(round(end * STATES), first + 2)]
    return torch.cat([span.mean(1), span.std(1)]).flatten()


class LiteTagger:
    """A Whisper of which the encoder is used, and the head that was trained on it."""

    def __init__(self, speech: str | Path, head: str | Path) -> None:
        self.speech = str(speech)
        self.head = f"{Path(head).name} {sha256(Path(head))[:12]}"
        with safe_open(head, "pt") as stored:
            self.names: list[str] = stored.metadata()["names"].split("|")
            self.weight = stored.get_tensor("weight").float()
            self.bias = stored.get_tensor("bias").float()

    @property
    def model(self) -> whisper.Whisper:
        """The Whisper, loaded at first use."""
        return load_whisper(self.speech)

    def __repr__(self) -> str:
        return f"LiteTagger({self.head!r}: {', '.join(self.names)})"

    def tag(
        self, audio: np.ndarray, spans: Sequence[tuple[float, float]]
    ) -> list[dict[str, float]]:
        """Logits of all tags in each span (seconds) of at most 30 s of sound at 16 kHz."""
        layers = states(self.model, audio)
        found = []
        for begin, end in spans:
            logits = self.weight @ summary(layers, begin, end) + self.bias
            found.append(dict(zip(self.names, logits.tolist(), strict=True)))
        return found
