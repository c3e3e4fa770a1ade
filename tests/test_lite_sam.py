import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from segment_anything import SamPredictor

from pgvl_core import assets
from pgvl_core.lite import clip, sam

BOXES = torch.tensor([[20.0, 30, 200, 180], [250, 60, 420, 230]])


@pytest.fixture(scope="module")
def untrained():
    torch.manual_seed(0)
    return sam.build(clip.load_trunk()).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (120, 200, 3), dtype=np.uint8)


def levels(batch=1):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, channels, sam.SIDE // stride, sam.SIDE // stride, generator=generator)
        for stride, channels in clip.LEVELS.items()
    ]


def test_levels_of_the_trunk_end_in_its_last_map():
    """They are the trunk's own: its head on the coarsest gives the map that LiteCLIP names."""
    trunk = clip.load_trunk()
    pixels = torch.randint(0, 256, (1, 3, 96, 64), dtype=torch.uint8)
    found = clip.trunk_levels(trunk, (pixels.float() - clip.MEAN) / clip.SPREAD)
    assert [level.shape[1:] for level in found] == [
        (channels, 96 // stride, 64 // stride) for stride, channels in clip.LEVELS.items()
    ]
    with torch.no_grad():
        last = trunk.bn2(trunk.conv_head(found[-1]))
    torch.testing.assert_close(last, clip.trunk_map(trunk, pixels))


def test_fold_puts_what_is_in_a_cell_into_its_channels():
    coarse = torch.randn(2, sam.DIM, 3, 5)
    eight, four = torch.randn(2, sam.FINE[8], 6, 10), torch.zeros(2, sam.FINE[4], 12, 20)
    four[1, 7, 9, 14] = 1  # in the cell of row 9 // 4 = 2 and column 14 // 4 = 3
    folded = sam.fold(coarse, eight, four)
    assert folded.shape[2:] == (3, 5)
    assert (folded[:, -16 * sam.FINE[4] :] != 0).nonzero()[:, [0, 2, 3]].tolist() == [[1, 2, 3]]
    for before, after in zip((coarse, eight, four), sam.unfold(folded), strict=True):
        assert torch.equal(before, after)


def test_the_predictor_and_sam_itself_draw_the_same_masks(untrained, image):
    """`Sam.forward` takes all at once; `SamPredictor` keeps the image and is asked afterwards."""
    predictor = SamPredictor(untrained)
    predictor.set_image(image)
    assert predictor.input_size == (307, 512)
    fitted = torch.as_tensor(predictor.transform.apply_image(image)).permute(2, 0, 1)
    points, labels = torch.tensor([[[90.0, 50]], [[300, 99]]]), torch.ones(2, 1)
    for prompts, multiple in (
        ({"boxes": BOXES}, False),
        ({"point_coords": points, "point_labels": labels}, True),
    ):
        asked = {"image": fitted, "original_size": image.shape[:2], **prompts}
        (whole,) = untrained([asked], multimask_output=multiple)
        masks, iou, logits = predictor.predict_torch(
            prompts.get("point_coords"),
            prompts.get("point_labels"),
            prompts.get("boxes"),
            multimask_output=multiple,
        )
        assert masks.shape == (2, 3 if multiple else 1, 120, 200)
        assert torch.equal(masks, whole["masks"])
        torch.testing.assert_close(iou, whole["iou_predictions"])
        torch.testing.assert_close(logits, whole["low_res_logits"])
        assert logits.shape[-2:] == (128, 128)


def test_an_image_is_encoded_once_for_many_prompts(untrained, image):
    calls = []
    hook = untrained.image_encoder.register_forward_hook(lambda *_: calls.append(1))
    predictor = SamPredictor(untrained)
    predictor.set_image(image)
    masks = [predictor.predict(box=np.array(box))[0] for box in ([5, 5, 50, 50], [60, 9, 99, 80])]
    low = np.zeros((1, 128, 128), np.float32)
    predictor.predict(box=np.array([5, 5, 50, 50]), mask_input=low)
    hook.remove()
    assert len(calls) == 1
    assert (masks[0] != masks[1]).any()


def test_fine_detail_changes_the_mask_where_it_is_and_nowhere_else(untrained):
    """A change of one cell at stride 4 reaches its neighbours through one 3 x 3 convolution."""
    embedding = untrained.image_encoder.neck(levels())
    coarse, eight, four = sam.unfold(embedding)
    changed = four.clone()
    changed[0, :, 40, 70] += 3
    sparse, dense = untrained.prompt_encoder(None, BOXES[:1], None)
    before, after = (
        untrained.mask_decoder.predict_masks(
            sam.fold(coarse, eight, fine),
            image_pe=untrained.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
        )[0]
        for fine in (four, changed)
    )
    rows, columns = (before - after).abs().amax(dim=(0, 1)).gt(1e-4).nonzero().unbind(1)
    assert 40 in rows.tolist()
    assert (rows - 40).abs().max() <= 1
    assert (columns - 70).abs().max() <= 1


def test_training_leaves_the_trunk_alone():
    torch.manual_seed(0)
    model = sam.build(clip.load_trunk()).train()
    before = {
        name: tensor.clone() for name, tensor in model.image_encoder.trunk.state_dict().items()
    }
    embedding = model.image_encoder(torch.randn(1, 3, sam.SIDE, sam.SIDE))
    points = torch.tensor([[[90.0, 50], [10, 9]]]), torch.tensor([[1, 0]])
    sparse, dense = model.prompt_encoder(points, BOXES[:1], torch.zeros(1, 1, 128, 128))
    masks, iou = model.mask_decoder.predict_masks(
        embedding,
        image_pe=model.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
    )
    (masks.square().mean() + iou.square().mean()).backward()
    for name, tensor in model.image_encoder.trunk.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    without = {name for name, p in model.named_parameters() if p.grad is None and p.requires_grad}
    assert without == {"prompt_encoder.no_mask_embed.weight"}  # a mask was given


def test_a_thing_is_drawn_in_two_views_and_their_mean_is_taken(untrained, image):
    """By hand, with the package's predictors: one of the image, one of its mirror image, larger."""
    predictor = sam.TwoViews(untrained)
    predictor.set_image(image)
    plain = SamPredictor(untrained)
    plain.set_image(image)
    larger = sam.build(untrained.image_encoder.trunk, 608)
    larger.load_state_dict(untrained.state_dict())
    mirrored = SamPredictor(larger.eval())
    mirrored.set_image(np.ascontiguousarray(image[:, ::-1]))
    point, there = np.array([[40.0, 70], [120, 20]]), np.array([[160.0, 70], [80, 20]])
    labels = np.array([1, 0])
    for mine, mirror in (
        ({"box": np.array([10.0, 20, 90, 110])}, {"box": np.array([110.0, 20, 190, 110])}),
        (
            {"point_coords": point, "point_labels": labels},
            {"point_coords": there, "point_labels": labels},
        ),
    ):
        logits, iou, _ = predictor.predict(**mine, return_logits=True)
        one, guess, _ = plain.predict(**mine, return_logits=True)
        other, guess_there, _ = mirrored.predict(**mirror, return_logits=True)
        np.testing.assert_allclose(logits, (one + other[..., ::-1]) / 2, atol=1e-4)
        np.testing.assert_allclose(iou, (guess + guess_there) / 2, atol=1e-5)
        masks, _, _ = predictor.predict(**mine)
        assert (masks == (logits > 0)).all()
    with pytest.raises(ValueError, match="no mask"):
        predictor.predict(mask_input=np.zeros((1, 128, 128), np.float32), **mine)


def test_weights_are_kept_without_the_trunk_and_in_half_precision(untrained, image, tmp_path):
    file = tmp_path / "sam.safetensors"
    save_file({name: value.half() for name, value in sam.trained(untrained).items()}, file)
    assert file.stat().st_size < 6_000_000
    ours, theirs = (SamPredictor(model) for model in (untrained, sam.load(file)))
    for predictor in (ours, theirs):
        predictor.set_image(image)
    box = np.array([10, 10, 90, 90])
    mine, kept = (p.predict(box=box, return_logits=True) for p in (ours, theirs))
    np.testing.assert_allclose(mine[0], kept[0], atol=0.05 * np.abs(mine[0]).max())
    assert not any(p.requires_grad for p in theirs.model.parameters())


def test_weights_that_are_missing_or_of_something_else_are_named(tmp_path):
    with pytest.raises(assets.AssetError, match=r"none\.safetensors is not there; `make weights`"):
        sam.load(tmp_path / "none.safetensors")
    save_file({"anchors": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(assets.AssetError, match=r"other\.safetensors is not LiteSAM's"):
        sam.load(tmp_path / "other.safetensors")
