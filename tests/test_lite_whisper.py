"""Whisper read from a CTranslate2 file, against openai-whisper's own model."""

import struct
import wave

import numpy as np
import pytest
import torch
import whisper
from whisper.model import ModelDimensions, Whisper, sinusoids

from pgvl_core import assets
from pgvl_core.evaluation.words import read_stm
from pgvl_core.lite import whisper_import


def ctranslate2_bytes(variables: dict[str, np.ndarray]) -> bytes:
    """A CTranslate2 model file of these variables, written from the description of the format."""

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    kinds = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
    out = [struct.pack("<I", 6), text("WhisperSpec"), struct.pack("<II", 3, len(variables))]
    for name, array in variables.items():
        out += [
            text(name),
            struct.pack("<B", array.ndim),
            struct.pack(f"<{array.ndim}I", *array.shape),
        ]
        out += [struct.pack("<BI", kinds[array.dtype.name], array.nbytes), array.tobytes()]
    aliases = text("decoder/projection/weight") + text("decoder/embeddings/weight")
    return b"".join(out) + struct.pack("<I", 1) + aliases


def fused(model: Whisper) -> dict[str, np.ndarray]:
    """The variables that CTranslate2 stores of a model: attention fused, layers renamed."""
    out: dict[str, np.ndarray] = {"decoder/num_heads": np.int16(2)}

    def put(name: str, *modules: torch.nn.Module) -> None:
        norm = isinstance(modules[0], torch.nn.LayerNorm)
        zeros = torch.zeros(modules[0].weight.shape[0])
        biases = [m.bias if getattr(m, "bias", None) is not None else zeros for m in modules]
        weight, bias = torch.cat([m.weight for m in modules]), torch.cat(biases)
        out[f"{name}/{'gamma' if norm else 'weight'}"] = weight.detach().numpy()
        out[f"{name}/{'beta' if norm else 'bias'}"] = bias.detach().numpy()

    def attention(name: str, module: torch.nn.Module, norm: torch.nn.Module) -> None:
        put(f"{name}/layer_norm", norm)
        if name.endswith("self_attention"):
            put(f"{name}/linear_0", module.query, module.key, module.value)
            put(f"{name}/linear_1", module.out)
        else:
            put(f"{name}/linear_0", module.query)
            put(f"{name}/linear_1", module.key, module.value)
            put(f"{name}/linear_2", module.out)

    for side, part in (("encoder", model.encoder), ("decoder", model.decoder)):
        for number, block in enumerate(part.blocks):
            layer = f"{side}/layer_{number}"
            attention(f"{layer}/self_attention", block.attn, block.attn_ln)
            if block.cross_attn:
                attention(f"{layer}/attention", block.cross_attn, block.cross_attn_ln)
            put(f"{layer}/ffn/layer_norm", block.mlp_ln)
            put(f"{layer}/ffn/linear_0", block.mlp[0])
            put(f"{layer}/ffn/linear_1", block.mlp[2])
        positions = part.positional_embedding.detach().numpy()
        out[f"{side}/position_encodings/encodings"] = positions
    put("encoder/conv1", model.encoder.conv1)
    put("encoder/conv2", model.encoder.conv2)
    put("encoder/layer_norm", model.encoder.ln_post)
    put("decoder/layer_norm", model.decoder.ln)
    out["decoder/embeddings/weight"] = model.decoder.token_embedding.weight.detach().numpy()
    return out


def test_a_converted_model_is_the_model(tmp_path):
    torch.manual_seed(0)
    dims = ModelDimensions(
        n_mels=80, n_audio_ctx=20, n_audio_state=128, n_audio_head=2, n_audio_layer=3,
        n_vocab=40, n_text_ctx=16, n_text_state=128, n_text_head=2, n_text_layer=2,
    )  # fmt: skip
    model = Whisper(dims).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    (tmp_path / "model.bin").write_bytes(ctranslate2_bytes(fused(model)))

    whisper_import.convert(tmp_path, tmp_path)
    converted = whisper.load_model(str(tmp_path / "tiny.en.pt"), device="cpu").eval()
    assert converted.dims == dims
    sound, tokens = torch.randn(1, 80, 40), torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        torch.testing.assert_close(converted(sound, tokens), model(sound, tokens))


@pytest.fixture(scope="module")
def tiny() -> Whisper:
    return whisper.load_model(str(assets.path("whisper-tiny.en")), device="cpu")


def test_the_real_model_is_tiny_en(tiny):
    # Dimensions as OpenAI published them for tiny.en; load_model has checked that all keys match.
    assert tiny.dims == ModelDimensions(80, 1500, 384, 6, 4, 51864, 448, 384, 6, 4)
    assert not tiny.is_multilingual
    # Whisper's encoder positions are no weights but sinusoids, here rounded to float16.
    torch.testing.assert_close(
        tiny.encoder.positional_embedding, sinusoids(1500, 384), atol=5e-4, rtol=0
    )


def words(text: str) -> list[str]:
    return "".join(c for c in text.lower() if c.isalpha() or c in " '").split()


def edits(a: list[str], b: list[str]) -> int:
    """Words to insert, delete or replace to make one text of the other."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (left != right))
    return row[-1]


def test_the_real_model_hears_a_real_conversation(tiny):
    folder = assets.path("conversation")
    with wave.open(str(folder / "sample.wav")) as file:
        assert file.getframerate() == 16_000
        sound = np.frombuffer(file.readframes(file.getnframes()), np.int16) / np.float32(32768)
    spoken = words(read_stm(folder / "sample.stm"))
    heard = words(tiny.transcribe(sound, fp16=False, temperature=0)["text"])
    assert edits(spoken, heard) / len(spoken) < 0.25
