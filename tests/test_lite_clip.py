import pytest
import torch
from torch.nn.functional import normalize

from pgvl_core import assets
from pgvl_core.lite import clip


def test_fit_recovers_a_map_that_is_known():
    """Image directions that are a rotation of the text vectors: new texts must land right."""
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q
    text = normalize(torch.randn(600, 8, generator=generator), dim=-1)
    directions = normalize((text[:500] - text[:500].mean(0)) @ rotation, dim=-1)
    fitted = clip.fit_text_map(text[:500], directions, torch.zeros(8), ridge=0.01)
    truth = normalize((text[500:] - text[:500].mean(0)) @ rotation, dim=-1)
    cosines = (fitted(text[500:]) * truth).sum(-1)
    assert cosines.min() > 0.9
    assert cosines.median() > 0.99


def test_fit_without_ridge_interpolates():
    text, directions = torch.randn(20, 6), normalize(torch.randn(20, 4), dim=-1)
    fitted = clip.fit_text_map(text, directions, torch.zeros(4), ridge=1e-6)
    torch.testing.assert_close(fitted(text), directions, atol=1e-2, rtol=0)


def test_bland_patches_prefer_no_word():
    """A patch whose feature is zero lies opposite the centre; every name is neutral to it."""
    generator = torch.Generator().manual_seed(1)
    centre, directions = torch.rand(12, generator=generator), torch.randn(40, 12)
    fitted = clip.fit_text_map(torch.randn(40, 6), directions, centre)
    bland = normalize(torch.zeros(12) - centre, dim=0)
    torch.testing.assert_close(fitted(torch.randn(9, 6)) @ bland, torch.zeros(9), atol=1e-5, rtol=0)


def test_length_of_a_text_vector_does_not_matter():
    fitted = clip.fit_text_map(torch.randn(9, 5), torch.randn(9, 3), torch.zeros(3))
    text = torch.randn(4, 5)
    torch.testing.assert_close(fitted(text), fitted(7 * text))


def test_save_and_load_keep_the_map(tmp_path):
    fitted = clip.fit_text_map(torch.randn(30, 5), torch.randn(30, 3), torch.randn(3), width=0.4)
    fitted.save(tmp_path / "map.safetensors")
    loaded = clip.TextMap.load(tmp_path / "map.safetensors")
    text = torch.randn(6, 5)
    torch.testing.assert_close(loaded(text), fitted(text), atol=5e-3, rtol=0)
    assert torch.equal(loaded.image_centre, fitted.image_centre)


def test_missing_map_names_the_remedy(tmp_path):
    with pytest.raises(assets.AssetError, match="make weights"):
        clip.TextMap.load(tmp_path / "none.safetensors")


def test_trunk_classifies_like_the_published_network():
    """The renamed checkpoint is put together right: its own classifier knows its own sprites."""
    from pgvl_core import toyworld

    trunk = clip.load_trunk()
    imagenet = {"zebra": 340, "violin": 889, "banana": 954, "goose": 99, "koala": 105}
    for sprite in toyworld.atlas():
        if sprite.name not in imagenet or sprite.split == "style":
            continue
        rgba = torch.from_numpy(sprite.image.copy()).permute(2, 0, 1)[None].float()
        rgba = torch.nn.functional.interpolate(rgba, size=(224, 224), mode="bilinear")
        alpha = rgba[:, 3:] / 255
        pixels = (rgba[:, :3] * alpha + 127 * (1 - alpha)).to(torch.uint8)
        features = clip.trunk_map(trunk, pixels).mean(dim=(2, 3))
        logits = features @ trunk.classifier.weight.T + trunk.classifier.bias
        assert imagenet[sprite.name] in logits[0].topk(5).indices.tolist(), sprite.name


def test_trunk_is_timms_network_with_its_normalisation_folded_in():
    published, trunk = clip.published_trunk(), clip.load_trunk()
    pixels = torch.randint(0, 256, (2, 3, 96, 160), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = published.forward_features((pixels - clip.MEAN) / clip.SPREAD)
    torch.testing.assert_close(clip.trunk_map(trunk, pixels.byte()), wanted, atol=1e-3, rtol=1e-3)
    assert wanted.std() > 0.1
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in trunk.modules())


def test_sentence_encoder_does_not_depend_on_its_batch():
    sentences = clip.SentenceEncoder()
    texts = ["dog", "a photo of a very long freight train in the snow", "cup"]
    together = sentences(texts)
    alone = torch.cat([sentences([text]) for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    cosine = torch.nn.functional.cosine_similarity
    puppy, cup = sentences(["puppy"])[0], together[2]
    assert cosine(puppy, together[0], dim=0) > cosine(puppy, cup, dim=0)
