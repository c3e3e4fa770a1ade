import math
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from pgvl_core.projector import build, layers, read, tensors

D, K, WORDS = 6, 10, 50


def mlp(prefix="", d=D, k=K, dtype=torch.float32):
    """The projector of LLaVA 1.5, as its authors name it."""
    shapes = {"0.weight": (k, d), "0.bias": (k,), "2.weight": (k, k), "2.bias": (k,)}
    return {
        f"{prefix}mm_projector.{name}": torch.randn(shape, dtype=dtype)
        for name, shape in shapes.items()
    }


def matrix(prefix="", d=D, k=K):
    """The projector of Video-ChatGPT."""
    return {
        f"{prefix}mm_projector.weight": torch.randn(k, d),
        f"{prefix}mm_projector.bias": torch.randn(k),
    }


def save(path, weights):
    if path.suffix == ".bin":
        torch.save(weights, path)
    else:
        save_file(weights, path)
    return path


def by_hand(weights, x):
    """Matrix, exact GELU, matrix; or one matrix."""
    w = {key.split("mm_projector.")[1]: value.double() for key, value in weights.items()}
    x = x.double()
    if "weight" in w:
        return x @ w["weight"].T + w["bias"]
    x = x @ w["0.weight"].T + w["0.bias"]
    x = x * (1 + torch.erf(x / math.sqrt(2))) / 2
    return x @ w["2.weight"].T + w["2.bias"]


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
@pytest.mark.parametrize("prefix", ["", "model.", "base_model.model.model."])
@pytest.mark.parametrize("kind", [mlp, matrix])
def test_official_layouts(tmp_path, kind, prefix, suffix):
    weights = kind(prefix)
    found = read(save(tmp_path / f"mm_projector{suffix}", weights), D, K)
    x = torch.randn(3, 4, D)
    torch.testing.assert_close(
        found.projector(x).double(), by_hand(weights, x), atol=1e-4, rtol=1e-4
    )
    assert found.marks is None
    assert found.rest == {}


@pytest.mark.parametrize("rows", [2, WORDS + 3])
def test_marks_are_the_last_two_rows(tmp_path, rows):
    """Of the rows that video training added: <vid_patch>, <vid_start>, <vid_end>."""
    table = torch.randn(rows, K)
    name = "model.embed_tokens.weight"
    found = read(save(tmp_path / "p.bin", mlp("model.") | {name: table}), D, K)
    assert torch.equal(found.marks, table[[rows - 2, rows - 1]])


def test_half_precision_is_read_as_float32(tmp_path):
    found = read(save(tmp_path / "p.bin", mlp(dtype=torch.float16)), D, K)
    assert {value.dtype for value in found.projector.state_dict().values()} == {torch.float32}


def test_what_is_neither_projector_nor_mark_is_kept_aside(tmp_path):
    extra = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.randn(2, K)}
    found = read(save(tmp_path / "p.safetensors", mlp() | extra), D, K)
    assert found.rest.keys() == extra.keys()


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
@pytest.mark.parametrize("kind", ["mlp2x_gelu", "linear"])
def test_saved_tensors_are_read_back(tmp_path, kind, suffix):
    projector, marks = build(kind, D, K), torch.randn(2, K)
    found = read(save(tmp_path / f"p{suffix}", tensors(projector, marks)), D, K)
    x = torch.randn(5, D)
    assert torch.equal(found.projector(x), projector(x))
    assert torch.equal(found.marks, marks)


@pytest.mark.parametrize("kind", ["mlp2x_gelu", "linear"])
def test_layers_are_what_reads_and_what_writes(kind):
    first, last = layers(build(kind, D, K))
    assert first.in_features == D
    assert last.out_features == K
    assert (first is last) == (kind == "linear")


@given(d=st.integers(1, 12), k=st.integers(1, 12))
def test_sizes_that_do_not_fit_are_both_named(tmp_path_factory, d, k):
    if (d, k) == (D, K):
        return
    path = save(tmp_path_factory.mktemp("p") / "other.safetensors", mlp(d=d, k=k))
    with pytest.raises(ValueError, match=r"other\.safetensors") as error:
        read(path, D, K)
    assert f"[{k}, {d}]" in str(error.value)
    assert f"[{K}, {D}]" in str(error.value)


@pytest.mark.parametrize("rows", [(2, K + 1), (1, K)])
def test_marks_that_do_not_fit(tmp_path, rows):
    weights = mlp() | {"embed_tokens.weight": torch.zeros(rows)}
    with pytest.raises(ValueError, match=rf"p\.bin.*\[{rows[0]}, {rows[1]}\].*\[2, {K}\]"):
        read(save(tmp_path / "p.bin", weights), D, K)


def test_a_layer_is_missing(tmp_path):
    weights = mlp()
    del weights["mm_projector.2.bias"]
    with pytest.raises(ValueError, match=r"p\.bin.*linear_2\.bias"):
        read(save(tmp_path / "p.bin", weights), D, K)


def test_no_projector_inside(tmp_path):
    path = save(tmp_path / "lora.safetensors", {"lora_A.weight": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match=r"lora\.safetensors: no mm_projector .* 1 tensors"):
        read(path, D, K)


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_truncated_file(tmp_path, suffix):
    path = save(tmp_path / f"cut{suffix}", mlp())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=f"cut{suffix}: not a file of tensors"):
        read(path, D, K)


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"<html>404</html>"])
@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_not_a_file_of_tensors(tmp_path, suffix, content):
    path = tmp_path / f"page{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"page{suffix}: not a file of tensors"):
        read(path, D, K)


@pytest.mark.parametrize("content", [[torch.zeros(3)], {"mm_projector.0.weight": "x"}, 7])
def test_a_pickle_of_something_else(tmp_path, content):
    with pytest.raises(ValueError, match=r"p\.bin: not a file of named tensors"):
        read(save(tmp_path / "p.bin", content), D, K)


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_missing_file(tmp_path, suffix):
    with pytest.raises(ValueError, match=f"none{suffix}: there is no such file"):
        read(tmp_path / f"none{suffix}", D, K)


class Trap:
    """A pickle that runs a command when it is opened."""

    def __init__(self, made):
        self.made = made

    def __reduce__(self):
        return os.mkdir, (str(self.made),)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path):
    weights = mlp() | {"trap": Trap(tmp_path / "trapped")}
    with pytest.raises(ValueError, match=r"trap\.bin: not a file of tensors"):
        read(save(tmp_path / "trap.bin", weights), D, K)
    assert not (tmp_path / "trapped").exists()


def test_unknown_projector():
    with pytest.raises(ValueError, match="'mlp3x'; there are mlp2x_gelu and linear"):
        build("mlp3x", D, K)
