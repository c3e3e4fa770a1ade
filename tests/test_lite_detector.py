from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from pgvl_core import assets
from pgvl_core.evaluation.boxes import box_iou
from pgvl_core.lite import clip, detector, people


@pytest.fixture(scope="module")
def trunk():
    return clip.load_trunk()


class Knows(nn.Module):
    """A head that says the same boxes of a plain view whatever it sees, and others of a mirrored.

    By what the two views are told apart is the side of their square.
    """

    def __init__(self, scores, boxes, mirrored=((), ())):
        super().__init__()
        self.said = {detector.SIDE: (scores, boxes), detector.SMALLER: mirrored}
        self.device = nn.Parameter(torch.zeros(1))

    def forward(self, levels):
        scores, boxes = self.said[8 * levels[0].shape[-1]]
        scores = torch.tensor(scores, dtype=torch.float32)
        return scores.logit()[None], torch.tensor(boxes, dtype=torch.float32).reshape(1, -1, 4)


def finder(trunk, *said):
    found = detector.LiteDetector(trunk)
    found.head = Knows(*said)
    return found


def test_cells_are_counted_row_by_row_from_the_middle_of_the_first():
    centres = detector.cell_centres(2, 3, 8)
    assert centres.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]


def test_each_cell_lies_in_the_box_that_it_speaks_of():
    torch.manual_seed(0)
    head = detector.BoxHead().eval()
    levels = [torch.randn(2, clip.LEVELS[s], 128 // s, 128 // s) for s in detector.STRIDES]
    with torch.no_grad():
        logits, boxes = head(levels)
    centres = torch.cat([detector.cell_centres(128 // s, 128 // s, s) for s in detector.STRIDES])
    assert logits.shape == (2, 16 * 16 + 8 * 8 + 4 * 4)
    assert boxes.shape == (*logits.shape, 4)
    assert (boxes[..., :2] < centres).all()
    assert (boxes[..., 2:] > centres).all()


def test_an_image_is_fitted_into_the_square_as_the_predictor_of_sam_does(trunk):
    from segment_anything import SamPredictor

    from pgvl_core.lite import sam

    image = np.random.default_rng(0).integers(0, 256, (90, 200, 3), dtype=np.uint8)
    model = sam.build(trunk).eval()
    seen = []
    hook = model.image_encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    SamPredictor(model).set_image(image)
    hook.remove()
    torch.testing.assert_close(detector.fit(image), seen[0])


def test_boxes_come_back_in_pixels_of_the_image(trunk):
    """640 x 272 is shown at four fifths, so a box of the square is a quarter larger there."""
    image = np.zeros((272, 640, 3), np.uint8)
    boxes, scores = finder(trunk, [0.9], [[80, 40, 160, 120]]).find(image)
    np.testing.assert_allclose(boxes, [[100, 50, 200, 150]], rtol=0.003)
    assert scores == pytest.approx([0.9])


def test_boxes_end_with_the_image_and_none_is_empty(trunk):
    image = np.zeros((256, 512, 3), np.uint8)
    beyond = [[-30, 200, 100, 400], [10, 300, 60, 400], [5, 5, 5.5, 90]]
    boxes, _ = finder(trunk, [0.9, 0.8, 0.7], beyond).find(image)
    np.testing.assert_allclose(boxes, [[0, 200, 100, 256]])


def test_each_thing_is_found_once_the_surest_first(trunk):
    image = np.zeros((512, 512, 3), np.uint8)
    spoken = [[0, 0, 100, 100], [300, 300, 400, 400], [0, 0, 100, 100], [0, 0, 100, 40]]
    found = finder(trunk, [0.6, 0.9, 0.8, 0.1], spoken)
    boxes, scores = found.find(image)
    np.testing.assert_allclose(boxes, [spoken[1], spoken[2], spoken[3]], atol=0.01)
    np.testing.assert_allclose(scores, [0.9, 0.8, 0.1], rtol=1e-5)
    np.testing.assert_allclose(found.find(image, count=1)[0], [spoken[1]])


def test_what_a_mirrored_view_says_is_turned_back(trunk):
    """640 x 320 is 416 pixels wide in the mirrored view: 10 to 74 there is 526 to 625 of 640."""
    image = np.zeros((320, 640, 3), np.uint8)
    said = ([0.9], [[100, 40, 160, 120]]), ([0.6], [[10, 13, 74, 65]])
    boxes, scores = finder(trunk, *said[0], said[1]).find(image)
    expected = [[125, 50, 200, 150], [640 - 74 / 0.65, 20, 640 - 10 / 0.65, 100]]
    np.testing.assert_allclose(boxes, expected, rtol=0.003)
    np.testing.assert_allclose(scores, [0.9, 0.6], rtol=1e-5)


def test_boxes_that_speak_of_one_thing_become_their_mean():
    """Of two boxes with an IoU of 0.9 the other's say is its score times e^-0.5."""
    boxes = torch.tensor([[0.0, 0, 100, 100], [0, 0, 90, 100], [200, 200, 240, 240]])
    found, scores = detector.agree(boxes, torch.tensor([0.8, 0.4, 0.6]), 10)
    say = 0.4 * np.exp(-0.5)
    right = (0.8 * 100 + say * 90) / (0.8 + say)
    np.testing.assert_allclose(found, [[0, 0, right, 100], boxes[2]], atol=0.01)
    np.testing.assert_allclose(scores, [0.8, 0.6])


CORNER, LENGTH = st.floats(0, 80), st.floats(2, 40)


@given(
    st.lists(st.tuples(CORNER, CORNER, LENGTH, LENGTH, st.floats(0.1, 1)), min_size=1, max_size=12),
    st.integers(1, 5),
)
def test_what_is_agreed_on_is_apart_in_order_and_within_what_was_said(things, count):
    x, y, w, h, scores = torch.tensor(things).unbind(1)
    boxes = torch.stack([x, y, x + w, y + h], dim=1)
    found, kept = detector.agree(boxes, scores, count)
    assert 1 <= len(found) <= count
    assert kept[0] == scores.max()
    assert (kept.diff() <= 0).all()
    assert (found >= boxes.amin(dim=0) - 1e-3).all()
    assert (found <= boxes.amax(dim=0) + 1e-3).all()
    apart = [box_iou(a, b[None])[0] for a, b in combinations(found.numpy(), 2)]
    assert all(iou <= 0.5 + 1e-4 for iou in apart)


def test_weights_are_kept_and_read(trunk, tmp_path):
    torch.manual_seed(0)
    mine = detector.LiteDetector(trunk).eval()
    file = tmp_path / "detector.safetensors"
    save_file({name: value.half() for name, value in mine.head.state_dict().items()}, file)
    image = np.random.default_rng(0).integers(0, 256, (128, 256, 3), dtype=np.uint8)
    read = detector.load(trunk, file)
    pixels = detector.fit(image)
    with torch.no_grad():
        levels = clip.trunk_levels(trunk, pixels)[1:]
        for ours, theirs in zip(mine.head(levels), read.head(levels), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02 * ours.std().item())
    with pytest.raises(assets.AssetError, match="make weights"):
        detector.load(trunk, tmp_path / "none.safetensors")
    save_file({"anchors": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(assets.AssetError, match=r"other\.safetensors is not the detector's"):
        detector.load(trunk, tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("phrase", "people_"),
    [
        ("man", True),
        ("two young women", True),
        ("Policemen", True),
        ("a cyclist", True),
        ("children", True),
        ("runners", True),
        ("dog", False),
        ("snowman hat", False),
        ("omen", False),
        ("", False),
    ],
)
def test_words_for_people(phrase, people_):
    assert people.means_person(phrase) == people_


@given(x=st.integers(-20, 90), y=st.integers(-20, 50), w=st.integers(2, 60), h=st.integers(2, 60))
def test_a_box_is_shown_in_the_middle_of_its_square(x, y, w, h):
    """A white box on grey keeps its middle and its shape; what lies beyond the image is black."""
    image = np.full((60, 100, 3), 90, np.uint8)
    box = np.array([max(x, 0), max(y, 0), min(x + w, 100), min(y + h, 60)], float)
    if (box[2:] - box[:2] < 2).any():
        return
    left, top, right, bottom = box.astype(int)
    image[top:bottom, left:right] = 255
    shown = people.square(image, box)
    assert shown.shape == (224, 224, 3)
    assert (shown[108:116, 108:116] > 200).any()
    rows, columns = np.nonzero(shown[..., 0] > 170)
    scale = 224 / (1.2 * max(box[2:] - box[:2]) + 2)  # the square's ends are whole pixels
    for found, side in ((columns, right - left), (rows, bottom - top)):
        length = found.max() - found.min() + 1
        assert side * scale - 8 <= length <= side * 224 / (1.2 * max(box[2:] - box[:2])) + 8
        assert abs((found.max() + found.min()) / 2 - 111.5) <= 1.1 * scale + 2


def test_blazepose_knows_a_cyclist_from_a_van():
    """One frame of bikes.mp4, boxes drawn by hand."""
    from pgvl_core.video import Video

    image = Video(assets.sample_video("bikes")).frames([126]).images[0]
    boxes = np.array([[356.0, 8, 490, 264], [0, 20, 300, 272], [530, 150, 640, 272]])
    cyclist, van, motorcycle = people.PersonTest()(image, boxes)
    assert cyclist > people.SURE > max(van, motorcycle)
