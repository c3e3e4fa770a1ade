import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
)

from pgvl_core.encoder import (
    CLIPEncoder,
    LiteCLIPEncoder,
    drop_last_layer,
    load_encoder,
    patch_features,
)

IMAGE_SIZE, PATCH, WIDTH = 32, 8, 24


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny.clip(tmp_path_factory.mktemp("clip"), IMAGE_SIZE, PATCH, WIDTH)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 40, 60, 3), dtype=np.uint8)


def test_clip_path_equals_a_direct_transformers_call(checkpoint, images):
    model = CLIPModel.from_pretrained(checkpoint).eval()
    processor = CLIPImageProcessor.from_pretrained(checkpoint)
    pixels = processor([Image.fromarray(image) for image in images], return_tensors="pt")
    with torch.no_grad():
        output = model.vision_model(**pixels, output_hidden_states=True)
    expected = output.hidden_states[-2][:, 1:]

    features = CLIPEncoder(checkpoint).encode(images, batch_size=2)

    assert features.shape == (5, (IMAGE_SIZE // PATCH) ** 2, WIDTH)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)


def test_clip_text_equals_a_direct_transformers_call(checkpoint):
    model = CLIPModel.from_pretrained(checkpoint).eval()
    tokenizer = CLIPTokenizer.from_pretrained(checkpoint)
    expected = []
    for name in ["dog", "wheelbarrow"]:  # one at a time: no padding in the reference
        with torch.no_grad():
            tokens = tokenizer(f"a photo of a {name}", return_tensors="pt")
            expected.append(model.get_text_features(**tokens).pooler_output)
    expected = torch.nn.functional.normalize(torch.cat(expected), dim=-1)
    vectors = CLIPEncoder(checkpoint).encode_text(["dog", "wheelbarrow"])
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=0)


def test_projection_is_the_last_layers_value_path(checkpoint, images):
    """With attention that looks at nothing but itself and no residual, MaskCLIP's reading."""
    encoder = CLIPEncoder(checkpoint)
    features = encoder.encode(images[:1])
    model = CLIPModel.from_pretrained(checkpoint).eval()
    layer = model.vision_model.encoder.layers[-1]
    patch = features[0, 3]
    with torch.no_grad():
        alone, _ = layer.self_attn(layer.layer_norm1(patch).reshape(1, 1, -1))
        joint = model.visual_projection(model.vision_model.post_layernorm(alone[0, 0]))
    expected = joint / joint.norm()
    torch.testing.assert_close(encoder.project(features)[0, 3], expected, atol=1e-5, rtol=0)


def test_vision_tower_alone(checkpoint, images, tmp_path):
    """Features without a text tower; words are refused with a remedy."""
    tower = CLIPModel.from_pretrained(checkpoint).vision_model
    tower.save_pretrained(tmp_path)
    CLIPImageProcessor.from_pretrained(checkpoint).save_pretrained(tmp_path)
    encoder = CLIPEncoder(tmp_path)
    torch.testing.assert_close(encoder.encode(images), CLIPEncoder(checkpoint).encode(images))
    with pytest.raises(ValueError, match="without a text tower"):
        encoder.encode_text(["dog"])


def test_shapes_of_the_papers_encoder():
    """openai/clip-vit-large-patch14-336 on the meta device: 24 x 24 patches of 1,024 numbers."""
    config = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    with torch.device("meta"):
        vision = CLIPVisionModel(config)
        drop_last_layer(vision)
        features = patch_features(vision, torch.zeros(2, 3, 336, 336))
    assert features.shape == (2, 576, 1024)
    assert len(vision.encoder.layers) == 23


def test_another_kind_of_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="bert"):
        load_encoder(tmp_path)


@pytest.fixture(scope="module")
def lite():
    return load_encoder("liteclip")


def test_lite_features_follow_the_frames_shape(lite):
    images = np.random.default_rng(1).integers(0, 256, (3, 90, 160, 3), dtype=np.uint8)
    features = lite.encode(images)
    rows, columns = lite.grid(90, 160)
    assert (rows, columns) == (7, 12)
    assert features.shape == (3, rows * columns, 1280)
    assert features.dtype == torch.float32


def test_batch_size_changes_nothing(lite, images):
    torch.testing.assert_close(
        lite.encode(images, batch_size=1), lite.encode(images, batch_size=5), atol=1e-4, rtol=1e-4
    )


def test_cells_are_in_reading_order(lite):
    """What lights up at the right of the picture lies in the right columns of the grid."""
    images = np.full((1, 224, 448, 3), 127, dtype=np.uint8)
    blank = lite.encode(images)
    images[:, :, 384:] = np.random.default_rng(2).integers(0, 256, (1, 224, 64, 3))
    change = (lite.encode(images) - blank).norm(dim=-1).reshape(lite.grid(224, 448))
    assert change[:, 12:].mean() > 3 * change[:, :6].mean()


@pytest.mark.parametrize("short_side", [0, 200])
def test_short_side_must_fit_the_stride(short_side):
    with pytest.raises(ValueError, match="multiple of 32"):
        LiteCLIPEncoder(short_side=short_side)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 32, 32), np.uint8), r"\[T, H, W, 3\]"),
        (np.zeros((0, 32, 32, 3), np.uint8), r"\[T, H, W, 3\]"),
        (np.zeros((1, 32, 32, 3), np.float32), "uint8"),
    ],
)
def test_what_is_no_frame_is_refused(lite, images, message):
    with pytest.raises(ValueError, match=message):
        lite.encode(images)


def test_words_are_unit_vectors_and_similarity_is_their_cosine(lite, images):
    names = ["dog", "bicycle", "traffic light"]
    text, features = lite.encode_text(names), lite.encode(images)
    torch.testing.assert_close(text.norm(dim=-1), torch.ones(3))
    similarity = lite.similarity(features, names)
    assert similarity.shape == (5, 3, features.shape[1])
    centred = features[2, 4] - lite.text_map.image_centre
    expected = torch.nn.functional.cosine_similarity(centred, text[1], dim=0)
    torch.testing.assert_close(similarity[2, 1, 4], expected, atol=1e-5, rtol=0)
