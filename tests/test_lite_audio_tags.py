"""The tag head's inputs are Whisper's own states, and its outputs a linear map of them."""

import hashlib

import numpy as np
import pytest
import torch
import whisper
from safetensors.torch import save_file
from whisper.model import ModelDimensions, Whisper

from pgvl_core.lite.audio_tags import STATES, LiteTagger, states, summary

WIDTH, LAYERS = 16, 2


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny Whisper in openai-whisper's layout."""
    torch.manual_seed(0)
    size = ModelDimensions(80, 1500, WIDTH, 2, LAYERS, 51864, 16, WIDTH, 2, LAYERS)
    model = Whisper(size)
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.2)
    path = tmp_path_factory.mktemp("whisper") / "tiny.pt"
    torch.save({"dims": size.__dict__, "model_state_dict": model.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def sound():
    """Two seconds of a tone, then two of noise."""
    rng = np.random.default_rng(0)
    time = np.arange(2 * 16_000) / 16_000
    both = np.concatenate([0.3 * np.sin(2800 * time), 0.1 * rng.standard_normal(2 * 16_000)])
    return both.astype(np.float32)


def test_last_states_are_what_whispers_encoder_gives(checkpoint, sound):
    model = whisper.load_model(str(checkpoint), device="cpu")
    layers = states(model, sound)
    assert layers.shape == (LAYERS, 1500, WIDTH)
    mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(sound))
    with torch.no_grad():
        expected = model.encoder(mel[None])[0]
        found = model.encoder.ln_post(layers[-1])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not any(block._forward_hooks for block in model.encoder.blocks)


def test_summary_is_mean_and_spread_of_the_span():
    rng = np.random.default_rng(0)
    layers = rng.normal(size=(LAYERS, 1500, WIDTH)).astype(np.float32)
    found = summary(torch.from_numpy(layers), 2.0, 3.5).numpy()
    span = layers[:, 2 * STATES : 175]
    expected = np.stack([span.mean(1), span.std(1, ddof=1)]).ravel()
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("begin", "end"), [(0.0, 0.0), (29.99, 30.0), (30.0, 30.0), (1.0, 1.001)])
def test_a_span_of_no_length_still_has_a_summary(begin, end):
    layers = torch.rand(LAYERS, 1500, WIDTH)
    assert torch.isfinite(summary(layers, begin, end)).all()


def test_tags_are_a_linear_map_of_the_summary(checkpoint, sound, tmp_path):
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(3, 2 * LAYERS * WIDTH)).astype(np.float16)
    bias = np.array([1.0, -2.0, 0.5], np.float16)
    tensors = {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)}
    save_file(tensors, tmp_path / "head.safetensors", {"names": "Speech|Music|Animal"})
    tagger = LiteTagger(checkpoint, tmp_path / "head.safetensors")
    spans = [(0.0, 2.0), (2.0, 4.0)]
    found = tagger.tag(sound, spans)
    layers = states(tagger.model, sound)
    for tags, (begin, end) in zip(found, spans, strict=True):
        own = summary(layers, begin, end).numpy()
        expected = weight.astype(np.float32) @ own + bias.astype(np.float32)
        assert list(tags) == ["Speech", "Music", "Animal"]
        np.testing.assert_allclose(list(tags.values()), expected, atol=1e-3)
    assert found[0] != found[1]
    content = hashlib.sha256((tmp_path / "head.safetensors").read_bytes()).hexdigest()
    head = f"head.safetensors {content[:12]}"  # what is heard is remembered by it
    assert repr(tagger) == f"LiteTagger({head!r}: Speech, Music, Animal)"
