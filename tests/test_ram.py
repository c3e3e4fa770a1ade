"""RAM's tags, against the package's own modules and against torch's attention; random weights."""

import importlib.util
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from pgvl_core import assets
from pgvl_core.grounding import ram
from pgvl_core.toyworld import make_clip

SIDE, TAGS, WIDTH = 64, 12, 768
# Three stages, of which the last is one window, as in RAM's own.
SIZES = {"embed_dim": 16, "depths": (2, 2, 2), "num_heads": (2, 4, 8)}
HEAD = "vision_multi"  # or "tagging_head": the package's own loader takes either
NAMES = [f"tag {i}" for i in range(TAGS)]


def swin():
    return SwinTransformer(img_size=SIDE, window_size=4, num_classes=0, **SIZES)


def shaken(module):
    """The module with all its weights moved: those that begin as 0 or 1 must matter too."""
    with torch.no_grad():
        for weight in module.parameters():
            weight += 0.05 * torch.randn(weight.shape)
    return module.eval()


@pytest.fixture
def parts():
    """What RAM is besides its encoder and its attention."""
    torch.manual_seed(0)
    return shaken(
        nn.ModuleDict(
            {
                "image_proj": nn.Linear(64, 512),
                "wordvec_proj": nn.Linear(512, WIDTH),
                "fc": nn.Linear(WIDTH, 1),
            }
        )
    )


@pytest.fixture
def labels():
    return torch.randn(TAGS, 512, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def images():
    return make_clip(3, "train", frames=3, height=SIDE, width=SIDE).frames


def checkpoint(parts, labels, encoder, layers):
    return {
        "label_embed": labels,
        **parts.state_dict(),
        **{f"visual_encoder.{name}": weight for name, weight in encoder.items()},
        **{f"{HEAD}.encoder.layer.{name}": weight for name, weight in layers.items()},
        "text_decoder.cls.predictions.bias": torch.zeros(1),  # of the half that writes
    }


def probabilities(parts, labels, cells, look):
    tags = parts["wordvec_proj"](labels).relu().repeat(len(cells), 1, 1)
    return parts["fc"](look(tags, parts["image_proj"](cells)))[..., 0].sigmoid()


class Layer(nn.Module):
    """Attention to the image and two linear maps, from torch's own attention."""

    def __init__(self):
        super().__init__()
        self.look = nn.MultiheadAttention(WIDTH, 4, kdim=512, vdim=512, batch_first=True)
        self.first, self.second = nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH)
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH, 1e-12) for _ in range(2)])

    def forward(self, tags, cells):
        tags = self.norms[0](tags + self.look(tags, cells, cells)[0])
        return self.norms[1](tags + self.second(nn.functional.gelu(self.first(tags))))

    def official(self):
        """Its weights by RAM's names."""
        look, cross = self.look, "crossattention"
        query, key, value = look.in_proj_bias.chunk(3)
        return {
            f"{cross}.self.query.weight": look.q_proj_weight,
            f"{cross}.self.key.weight": look.k_proj_weight,
            f"{cross}.self.value.weight": look.v_proj_weight,
            f"{cross}.self.query.bias": query,
            f"{cross}.self.key.bias": key,
            f"{cross}.self.value.bias": value,
            f"{cross}.output.dense.weight": look.out_proj.weight,
            f"{cross}.output.dense.bias": look.out_proj.bias,
            f"{cross}.output.LayerNorm.weight": self.norms[0].weight,
            f"{cross}.output.LayerNorm.bias": self.norms[0].bias,
            "intermediate.dense.weight": self.first.weight,
            "intermediate.dense.bias": self.first.bias,
            "output.dense.weight": self.second.weight,
            "output.dense.bias": self.second.bias,
            "output.LayerNorm.weight": self.norms[1].weight,
            "output.LayerNorm.bias": self.norms[1].bias,
        }


@pytest.fixture
def tagger(parts, labels):
    """And what it must say of cells."""
    layers = [shaken(Layer()) for _ in range(2)]
    encoder = shaken(swin())
    official = {  # there a stage ends with the merging that in timm begins the next
        re.sub(r"(?<=^layers\.)\d(?=\.down)", lambda found: str(int(found[0]) - 1), name): weight
        for name, weight in encoder.state_dict().items()
    }
    heads = {
        f"{i}.{name}": w for i, each in enumerate(layers) for name, w in each.official().items()
    }
    found = ram.RAM(
        swin(), checkpoint(parts, labels, official, heads), NAMES, torch.full((TAGS,), 0.5)
    )
    return found, encoder, layers


@torch.no_grad()
def test_probabilities_are_those_of_torchs_own_attention(tagger, parts, labels, images):
    found, encoder, layers = tagger
    mean, spread = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (torch.from_numpy(images) / 255 - mean) / spread
    cells = encoder.forward_features(pixels.permute(0, 3, 1, 2)).flatten(1, 2)
    cells = torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1)
    want = probabilities(
        parts, labels, cells, lambda tags, seen: layers[1](layers[0](tags, seen), seen)
    )
    got = found.probabilities(images)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    assert got.std(dim=1).min() > 0.01  # the tags differ


def test_tags_are_ranked_by_frames_and_then_by_probability(tagger, monkeypatch):
    found, _, _ = tagger
    found.names, found.thresholds = ["a", "b", "c", "d"], torch.tensor([0.5, 0.5, 0.9, 0.5])
    sure = torch.tensor([[0.6, 0.6, 0.8, 0.9], [0.6, 0.7, 0.8, 0.1]])
    monkeypatch.setattr(found, "probabilities", lambda images: sure)
    assert found(np.zeros(0)) == [("b", 1.0), ("a", 1.0), ("d", 0.5)]  # c is below its own
    assert found(np.zeros(0), 1) == [("b", 1.0)]


def test_a_checkpoint_of_other_tags_is_refused(parts, labels):
    with pytest.raises(ValueError, match=r"has 12 tags, its package lists 3: take ram_swin"):
        ram.RAM(swin(), checkpoint(parts, labels, {}, {}), NAMES[:3], torch.zeros(3))


# ------------------------------------------------------------------------- the package's own code
@pytest.fixture
def own(monkeypatch):
    """Its Swin and its BERT, imported file by file: `ram.models` is written for transformers 4,
    which has the three functions set here where that file looks for them.
    """
    package = pytest.importorskip("ram")
    if not ram.installed():
        pytest.skip("another package is called ram")
    pytest.importorskip("scipy")
    from transformers.pytorch_utils import apply_chunking_to_forward, prune_linear_layer

    lost = transformers.modeling_utils
    monkeypatch.setattr(lost, "apply_chunking_to_forward", apply_chunking_to_forward, raising=False)
    monkeypatch.setattr(lost, "prune_linear_layer", prune_linear_layer, raising=False)
    monkeypatch.setattr(lost, "find_pruneable_heads_and_indices", None, raising=False)
    folder, modules = Path(package.__file__).parent, []
    for name in ("swin_transformer", "bert"):
        spec = importlib.util.spec_from_file_location(f"own_{name}", folder / f"models/{name}.py")
        modules.append(importlib.util.module_from_spec(spec))
        spec.loader.exec_module(modules[-1])
    config = json.loads((folder / "configs/q2l_config.json").read_text(encoding="utf-8"))
    config.update(encoder_width=512, chunk_size_feed_forward=0)
    encoder = modules[0].SwinTransformer(img_size=SIDE, window_size=4, **SIZES)
    return shaken(encoder), shaken(modules[1].BertEncoder(SimpleNamespace(**config)))


@torch.no_grad()
def test_probabilities_are_those_of_the_packages_own_modules(own, parts, labels, images):
    from ram import get_transform

    encoder, head = own
    heads = {name.removeprefix("layer."): weight for name, weight in head.state_dict().items()}
    found = ram.RAM(
        swin(), checkpoint(parts, labels, encoder.state_dict(), heads), NAMES, torch.zeros(TAGS)
    )
    pixels = torch.stack([get_transform(SIDE)(Image.fromarray(image)) for image in images])
    want = probabilities(
        parts,
        labels,
        encoder(pixels),
        lambda tags, seen: head(
            tags, encoder_hidden_states=seen, return_dict=False, mode="tagging"
        )[0],
    )
    torch.testing.assert_close(found.probabilities(images), want, atol=1e-5, rtol=0)
    larger = make_clip(4, "train", frames=2, height=160, width=224).frames
    pixels = torch.stack([get_transform(SIDE)(Image.fromarray(image)) for image in larger])
    seen = []
    found.swin.patch_embed.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    found.probabilities(larger)
    assert (seen[0] - pixels).abs().max() < 1.5 / 255 / 0.224  # of its own rounding to whole greys


def test_the_packages_lists_are_of_one_length(own):
    names, thresholds = (
        assets.packaged("ram", f"data/{file}").read_text(encoding="utf-8").splitlines()
        for file in ("ram_tag_list.txt", "ram_tag_list_threshold.txt")
    )
    assert len(names) == len(thresholds) > 0
