import math

import numpy as np
import pytest
import torch
from PIL import Image

from pgvl_core import toyworld
from pgvl_core.encoder import FrameEncoder, load_encoder
from pgvl_core.grounding.tags import tag, tag_list


class TwoWords(FrameEncoder):
    """An encoder whose patches are points on the unit circle, and "up" and "right" its axes."""

    dim, temperature = 2, math.log(3)

    def grid(self, height, width):
        return 1, 2

    def _features(self, images):
        raise NotImplementedError

    def _text(self, names):
        return torch.tensor([{"right": [1.0, 0.0], "up": [0.0, 1.0]}[name] for name in names])

    def project(self, features):
        return features


def test_shares_by_hand():
    """A patch at "right" votes 3 : 1, as e to the log 3 is to e to the 0; one between, 1 : 1."""
    half = math.sqrt(0.5)
    features = torch.tensor([[[1.0, 0.0], [half, half]], [[1.0, 0.0], [1.0, 0.0]]])
    (first, second) = tag(TwoWords(), features, ["up", "right"])
    assert (first[0], second[0]) == ("right", "up")
    assert first[1] == pytest.approx((0.75 + 0.5 + 0.75 + 0.75) / 4)
    assert first[1] + second[1] == pytest.approx(1)
    assert tag(TwoWords(), features, ["up", "right"], top=1) == [first]


@pytest.mark.parametrize("name", ["zebra", "tiger", "violin"])
def test_pocket_tags_pictures_it_was_not_fitted_on(name):
    sprite = next(s for s in toyworld.atlas() if s.name == name and s.split == "unseen")
    canvas = Image.new("RGB", (224, 224), (120, 130, 110))
    cut_out = Image.fromarray(sprite.image).resize((200, 200))
    canvas.paste(cut_out, (12, 12), cut_out)
    encoder = load_encoder("liteclip")
    features = encoder.encode(np.asarray(canvas)[None])
    assert name in [word for word, _ in tag(encoder, features, tag_list(), top=3)]


def test_the_list_holds_each_word_once():
    words = tag_list()
    assert len(words) == len(set(words)) > 150
    assert all(word == word.strip().lower() for word in words)
