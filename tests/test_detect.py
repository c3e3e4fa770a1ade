import numpy as np
import pytest
import tiny
import torch

from pgvl_core import toyworld
from pgvl_core.encoder import LiteCLIPEncoder
from pgvl_core.grounding import detect


# ---------------------------------------------------------------------------------- GroundingDINO
@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny.grounding_dino(tmp_path_factory.mktemp("grounding-dino-tiny"))


@pytest.fixture(scope="module")
def dino(checkpoint):
    return detect.load_detector(checkpoint)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)


def test_the_prompt_is_the_phrases_with_dots():
    text, spans = detect.prompt(["Red car", " dog. "])
    assert text == "red car. dog."
    assert [text[first:last] for first, last in spans] == ["red car", "dog"]


def test_a_checkpoint_in_the_layout_of_transformers_is_read(dino, image):
    """Its boxes are the library's own, of a text in the library's own form."""
    found = dino(image, ["red car", "dog"], threshold=0)
    assert (found["scores"].diff() <= 0).all()
    assert [["red car", "dog"][label] for label in found["labels"]] == found["text_labels"]
    inputs = dino.processor(images=image, text=[["red car", "dog"]], return_tensors="pt")
    with torch.no_grad():
        outputs = dino.model(**inputs)
    (theirs,) = dino.processor.post_process_grounded_object_detection(
        outputs, threshold=0, target_sizes=[(60, 100)]
    )
    limits = torch.tensor([100.0, 60, 100, 60])
    expected = theirs["boxes"].clamp(min=0).minimum(limits)
    distances = torch.cdist(found["boxes"], expected)
    assert 0 < len(found["boxes"]) <= 20
    assert distances.min(dim=1).values.max() < 1e-3


def test_a_box_goes_to_the_phrase_whose_best_token_fits_it_best(dino, image, monkeypatch):
    """Tokens: [CLS] red car . dog . [SEP]; logits set by hand for four boxes."""
    logits = torch.full((1, 20, 32), -9.0)
    logits[0, 0, 2] = 2.0  # car
    logits[0, 1, [1, 4]] = torch.tensor([0.5, 1.0])  # more dog than red
    logits[0, 2, 2] = 1.5  # car, where box 0 is
    logits[0, 3, [3, 5]] = 5.0  # nothing but dots, which the processor would take for a thing
    boxes = torch.tensor(
        [[0.5, 0.5, 0.2, 0.4], [0.5, 0.5, 0.2, 0.4]] + [[0.5, 0.5, 0.2, 0.41]] * 18
    )
    outputs = type("Output", (), {"logits": logits, "pred_boxes": boxes[None], "input_ids": None})
    monkeypatch.setattr(dino, "model", Answers(outputs, dino.model.config))
    found = dino(image, ["red car", "dog"], threshold=0.3)
    assert found["text_labels"] == ["red car", "dog"]
    assert found["labels"].tolist() == [0, 1]
    torch.testing.assert_close(found["scores"], torch.tensor([2.0, 1.0]).sigmoid())
    torch.testing.assert_close(found["boxes"], torch.tensor([[40.0, 18, 60, 42]] * 2))
    assert len(dino(image, ["red car", "dog"], threshold=0.8)["scores"]) == 1


class Answers:
    """A model that gives one answer to all."""

    device = torch.device("cpu")

    def __init__(self, outputs, config):
        self.outputs, self.config = outputs, config

    def __call__(self, **inputs):
        return self.outputs


def test_more_phrases_than_the_model_reads_are_refused(dino, image):
    with pytest.raises(ValueError, match=r"12 phrases are 38 tokens.*reads 32.*several calls"):
        dino(image, ["red car"] * 12)


@pytest.mark.parametrize("queries", [[], ["dog", ""], ["."]])
def test_no_phrase_or_an_empty_one_is_refused(dino, image, queries):
    with pytest.raises(ValueError, match="noun phrase"):
        dino(image, queries)


def test_an_image_of_floats_is_refused(dino, image):
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\]; got float64"):
        dino(image / 255, ["dog"])


# ------------------------------------------------------------------------------------------ pocket
class Found:
    """Boxes that were drawn by hand, as a detector would give them."""

    boxes = np.array([[10.0, 20, 110, 120], [120, 30, 210, 130], [5, 140, 60, 200]], np.float32)

    def find(self, image, count=10):
        return self.boxes, np.array([0.9, 0.8, 0.05], np.float32)


@pytest.fixture(scope="module")
def scene():
    """A zebra and a violin on grey, in the first two boxes."""
    canvas = np.full((220, 220, 3), 120, np.uint8)
    for name, (x0, y0, x1, y1) in zip(("zebra", "violin"), Found.boxes.astype(int), strict=False):
        sprite = next(s for s in toyworld.atlas() if s.name == name and s.split == "unseen").image
        rows = np.linspace(0, len(sprite) - 1, y1 - y0).astype(int)
        columns = np.linspace(0, sprite.shape[1] - 1, x1 - x0).astype(int)
        cut = sprite[rows][:, columns].astype(float)
        alpha = cut[..., 3:] / 255
        part = canvas[y0:y1, x0:x1]
        part[:] = alpha * cut[..., :3] + (1 - alpha) * part
    return canvas


@pytest.fixture
def pocket(monkeypatch):
    monkeypatch.setattr(detect.detector, "load", lambda trunk: Found())
    return detect.load_detector("litedetector")


def test_pocket_names_boxes_by_words_that_it_was_not_trained_on(pocket, scene):
    found = pocket(scene, ["violin", "zebra", "airplane"])
    assert found["text_labels"][:2] in (["zebra", "violin"], ["violin", "zebra"])
    assert "airplane" not in found["text_labels"]
    for label, box in zip(found["text_labels"], found["boxes"], strict=True):
        np.testing.assert_allclose(box, Found.boxes[["zebra", "violin"].index(label)])
    assert (found["scores"] > pocket.threshold).all()


def test_a_name_beside_other_words_does_not_gain_by_being_asked_alone(pocket, scene):
    """Scores are against the tag list, so they do not depend on what else is asked for."""
    look = pocket.look(scene)
    alone, together = (pocket.name(look, words) for words in (["zebra"], ["dog", "zebra", "cat"]))
    torch.testing.assert_close(alone[:, 0], together[:, 1])
    assert alone[0, 0] > 0.5 > alone[1, 0]


def test_where_a_person_is_words_for_people_fit_and_others_do_not(pocket, scene, monkeypatch):
    queries = ["man", "zebra", "woman"]
    before = pocket.name(pocket.look(scene), queries)
    sure = np.array([0.9, 0.59, 0.0], np.float32)
    monkeypatch.setattr(pocket, "is_person", lambda image, boxes: sure)
    again = scene.copy()
    again[-1, -1] = 0  # far from all boxes, but another image
    after = pocket.name(pocket.look(again), queries)
    assert after[0, [0, 2]].max() == pytest.approx(0.9)  # the likelier of the two words
    assert after[0, 1] == pytest.approx(0.1 * before[0, 1].item(), rel=1e-4)
    torch.testing.assert_close(after[1:], before[1:])  # below the threshold nothing changes


def test_an_image_is_looked_at_once_for_all_words_and_anew_when_it_changes(
    pocket, scene, monkeypatch
):
    fresh = pocket(scene, ["violin"])
    looked = []
    find = pocket.boxes.find
    monkeypatch.setattr(pocket.boxes, "find", lambda *asked: looked.append(1) or find(*asked))
    frame = scene.copy()
    zebra, violin = pocket(frame, ["zebra"]), pocket(frame, ["violin"])
    assert len(looked) == 0  # it is the image that was looked at before
    torch.testing.assert_close(violin["scores"], fresh["scores"])
    assert zebra["boxes"].tolist() != violin["boxes"].tolist()
    frame[:] = 120  # in place, as a reader of frames may do
    assert len(pocket(frame, ["zebra"])["boxes"]) == 0
    assert len(looked) == 1
    pocket(scene, ["zebra"])
    assert len(looked) == 1  # it is remembered beside the other
    monkeypatch.setattr(detect, "LOOKS", 2)
    pocket(frame[:, :-1], ["zebra"])
    pocket(frame, ["zebra"])
    assert len(looked) == 2
    pocket(scene, ["zebra"])  # the oldest of the three, which is forgotten
    assert len(looked) == 3


def test_the_name_chooses_among_more_boxes_than_are_given(pocket, scene, monkeypatch):
    """The zebra's box is the least sure of fifteen: the ten that are given are not the surest."""
    rows, columns = np.divmod(np.arange(14), 7)
    grey = np.stack([5 + 30 * columns, 150 + 30 * rows], axis=1)
    boxes = np.concatenate([np.hstack([grey, grey + 25]), Found.boxes[:1]]).astype(np.float32)
    monkeypatch.setattr(
        pocket.boxes,
        "find",
        lambda image, count: (boxes[:count], np.linspace(0.5, 0.4, 15, dtype=np.float32)[:count]),
    )
    found = pocket(scene, ["zebra"], threshold=0)
    np.testing.assert_allclose(found["boxes"][0], Found.boxes[0])
    assert len(found["boxes"]) == 10


def test_without_boxes_nothing_is_found(pocket, scene, monkeypatch):
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    monkeypatch.setattr(pocket.boxes, "find", lambda image, count: nothing)
    found = pocket(scene, ["dog"])
    assert found["boxes"].shape == (0, 4)
    assert found["text_labels"] == []


def test_a_shared_encoder_is_not_loaded_twice(monkeypatch):
    encoder = LiteCLIPEncoder()
    trunks = []
    monkeypatch.setattr(detect.detector, "load", trunks.append)
    assert detect.load_detector("litedetector", encoder=encoder).encoder is encoder
    assert trunks == [encoder.trunk]


def test_crops_hold_the_box_and_a_little_around_it():
    image = np.zeros((100, 200, 3), np.uint8)
    image[20:60, 50:150] = 200
    inner, edge = detect.crops(image, np.array([[50.0, 20, 150, 60], [50, 0, 200, 60]]), grow=0.1)
    # Of 120 x 48 pixels, 100 x 40 are white.
    assert (inner[..., 0] > 100).mean() == pytest.approx(100 * 40 / (120 * 48), abs=0.02)
    # The second box ends at the image's upper and right edge: 165 x 66 are left.
    assert (edge[..., 0] > 100).mean() == pytest.approx(100 * 40 / (165 * 66), abs=0.02)
