import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from pgvl_core import temporal
from pgvl_core.pooling import pool
from pgvl_core.temporal import VARIANTS, Attention, Average, Conv3d, FrameTokens, TemporalModel

DIM, WIDTH, PLACES = 6, 8, 9


def features(frames=16, places=PLACES, seed=0):
    return torch.randn(frames, places, DIM, generator=torch.Generator().manual_seed(seed))


def build(variant, out=0):
    torch.manual_seed(0)
    return VARIANTS[variant](DIM, WIDTH, out).eval()


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


# ------------------------------------------------------------------------------------- what it is
def test_time_by_hand():
    """Of two frames the middles are at a quarter and three: half a turn of the video is pi."""
    found = temporal.time_embedding(2, 4)
    root = 0.5**0.5
    torch.testing.assert_close(found[0], torch.tensor([root, root, 1.0, 0.0]))
    torch.testing.assert_close(found[1], torch.tensor([root, -root, -1.0, 0.0]))


def test_average_is_the_papers_pooling():
    model = build("average")
    torch.testing.assert_close(model(features()), pool(model.reduce(features()), temporal.SLOTS))


def test_attention_is_that_of_torch_over_the_frames_of_each_place():
    model, x = build("attention"), features()
    seen = model.norm(model.reduce(x))
    seen = seen - seen.mean(0)
    seen = seen + temporal.time_embedding(16, WIDTH)[:, None]
    places = []
    for place in seen.unbind(1):  # one place after the other, heads taken apart by hand
        own = functional.linear(place, model.attention.in_proj_weight, model.attention.in_proj_bias)
        q, k, v = (part.view(16, temporal.HEADS, -1).transpose(0, 1) for part in own.chunk(3, -1))
        met = functional.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1)
        place = place + model.attention.out_proj(met)
        places.append(place + model.mlp(place))
    torch.testing.assert_close(model(x), pool(torch.stack(places, 1), temporal.SLOTS))


def test_convolution_is_a_product_with_unfolded_neighbourhoods():
    """Each of the three layers, as one matrix times the 27 neighbours of each cell."""
    model, x = build("conv3d"), features()
    seen = model.norm(model.reduce(x))
    maps = (seen - seen.mean(0)).view(16, 3, 3, WIDTH).permute(3, 0, 1, 2)
    for conv in model.layers[::2]:
        around = functional.pad(maps, (1,) * 6)
        for axis, step in zip((1, 2, 3), conv.stride, strict=True):
            around = around.unfold(axis, 3, step)
        maps = torch.einsum("cthwabd,ocabd->othw", around, conv.weight)
        maps = functional.gelu(maps + conv.bias[:, None, None, None])
    expected = maps.mean((2, 3)).view(WIDTH, temporal.SLOTS, 2).mean(2).T
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-4)


def test_frame_tokens_keep_frame_and_place_apart():
    """A change at one place of one frame changes the tokens there and, by the mean, that place's
    tokens in other frames; no other place's.
    """
    model = build("frames")
    x = features(places=16)  # 4 x 4: each coarse cell is one place
    other = x.clone()
    other[5, 7] += 1
    changed = (model(x) != model(other)).any(-1).view(16, 16)
    assert changed[:, 7].all()
    assert not changed[:, torch.arange(16) != 7].any()


# ------------------------------------------------------------------------------------------- time
@pytest.mark.parametrize("variant", ["attention", "conv3d", "frames"])
def test_time_reversed_gives_other_tokens(variant):
    model, x = build(variant), features()
    forward, backward = model(x), model(x.flip(0))
    assert not torch.allclose(forward, backward, atol=1e-3)
    # and not just the same ones in another order
    nearest = torch.cdist(forward, backward).min(1).values
    assert nearest.max() > 1e-3


def test_time_reversed_leaves_what_is_averaged_over_time():
    model, x = build("average"), features(temporal.SLOTS)
    forward, backward = model(x), model(x.flip(0))
    torch.testing.assert_close(forward[temporal.SLOTS :], backward[temporal.SLOTS :])
    torch.testing.assert_close(forward[: temporal.SLOTS].flip(0), backward[: temporal.SLOTS])


@pytest.mark.parametrize("variant", ["attention", "conv3d", "frames"])
def test_what_never_changes_is_left_to_pooling(variant):
    """Two still pictures are alike to a model that reads changes."""
    model = build(variant)
    pictures = [features(1, seed=seed).expand(16, -1, -1) for seed in (1, 2)]
    torch.testing.assert_close(*map(model, pictures), atol=1e-5, rtol=1e-4)


# ----------------------------------------------------------------------------------------- shapes
@pytest.mark.parametrize("frames", [1, 5, 16, 40])
@pytest.mark.parametrize(
    ("variant", "count"),
    [
        ("average", lambda frames: temporal.SLOTS + PLACES),
        ("attention", lambda frames: temporal.SLOTS + PLACES),
        ("conv3d", lambda frames: temporal.SLOTS),
        ("frames", lambda frames: 16 * frames),
    ],
)
def test_any_number_of_frames(variant, count, frames):
    assert build(variant)(features(frames)).shape == (count(frames), WIDTH)
    assert build(variant, out=DIM)(features(frames)).shape == (count(frames), DIM)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_is_its_clips_one_by_one(variant):
    model, clips = build(variant, DIM), [features(seed=1), features(seed=2)]
    together = model(torch.stack(clips))
    for clip, tokens in zip(clips, together, strict=True):
        torch.testing.assert_close(model(clip), tokens, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(4, 5), (0, 9, DIM), (2, 0, DIM), (1, 1, 4, 9, DIM)])
def test_wrong_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"\[T, N, D\]"):
        build("conv3d")(torch.zeros(shape))


def test_another_encoders_features_are_refused():
    with pytest.raises(ValueError, match="reads features of 6 numbers, the encoder gave 7"):
        build("attention")(torch.zeros(4, 9, 7))


@pytest.mark.parametrize("variant", ["conv3d", "frames"])
def test_patches_that_are_no_square_are_refused(variant):
    with pytest.raises(ValueError, match="12 patches are no square grid"):
        build(variant)(torch.zeros(4, 12, DIM))


def test_the_door_is_not_a_model():
    with pytest.raises(NotImplementedError):
        TemporalModel(DIM, WIDTH)(features())
    assert {*VARIANTS.values()} == {Average, Attention, Conv3d, FrameTokens}


# ------------------------------------------------------------------------------------------- files
def write(path, model, variant="conv3d", **more):
    save_file(temporal.tensors(model) | more, path, {"variant": variant})
    return path


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_file_gives_the_same_model_back(tmp_path, variant):
    model = build(variant, out=DIM)
    file = write(tmp_path / "own.safetensors", model, variant, lora_A=torch.ones(2, 3))
    found = temporal.read(file, DIM)
    torch.testing.assert_close(found.model(features()), model(features()))
    assert list(found.rest) == ["lora_A"]


def test_a_file_for_another_encoder_is_refused(tmp_path):
    file = write(tmp_path / "own.safetensors", build("conv3d", out=DIM))
    with pytest.raises(ValueError, match=r"own\.safetensors: .* features of 6 numbers.* gives 9"):
        temporal.read(file, 9)


def test_tokens_of_another_size_than_features_are_refused(tmp_path):
    file = write(tmp_path / "own.safetensors", build("conv3d"))
    with pytest.raises(ValueError, match=r"own\.safetensors"):
        temporal.read(file, DIM)


def test_another_variants_weights_are_refused(tmp_path):
    file = write(tmp_path / "own.safetensors", build("attention", out=DIM), "conv3d")
    with pytest.raises(ValueError, match=r"own\.safetensors"):
        temporal.read(file, DIM)


def test_what_is_no_temporal_model_is_refused(tmp_path):
    file = tmp_path / "other.safetensors"
    with pytest.raises(ValueError, match=r"other\.safetensors: not a readable"):
        temporal.read(file, DIM)
    file.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"other\.safetensors: not a readable"):
        temporal.read(file, DIM)
    save_file({"weight": torch.zeros(2)}, file)
    with pytest.raises(ValueError, match=r"other\.safetensors: no temporal model"):
        temporal.read(file, DIM)
