"""SAM 2's memory behind the tracker's face, against transformers' own session."""

import numpy as np
import pytest
import tiny
import torch

from pgvl_core.grounding.memory import Memory
from pgvl_core.grounding.sam2 import load_carrier
from pgvl_core.toyworld import make_clip


@pytest.fixture(scope="module")
def made():
    return make_clip(3, "train", frames=12, fps=8, objects=2, shots=1)


@pytest.fixture(scope="module")
def begin(tmp_path_factory):
    return load_carrier(str(tiny.sam2_video(tmp_path_factory.mktemp("sam2"))))


def truth(made, frame):
    return np.stack([track.visible[frame] for track in made.tracks])


def test_carried_masks_are_those_of_transformers_own_session(made, begin):
    """Told of two things once and of nothing more; its session forgets no frame."""
    carrier, cells = begin(), torch.empty(0)
    model, processor = carrier.model, carrier.processor
    session = processor.init_video_session()
    for number, image in enumerate(made.frames):
        inputs = processor(images=image, return_tensors="pt")
        carried = carrier.carry(image, cells)
        if number == 0:
            assert carried.shape == (0, *image.shape[:2])
            masks = truth(made, 0)
            processor.add_inputs_to_inference_session(session, 0, [0, 1], input_masks=list(masks))
        out = model(session, frame=inputs.pixel_values[0])
        if number:
            known = processor.post_process_masks([out.pred_masks], inputs.original_sizes)[0]
            known = known[:, 0].numpy()
            masks = carried
            assert np.array_equal(carried.any(axis=0), known.any(axis=0)), number
            assert not (carried & ~known).any()
        carrier.keep(cells, masks)
    held = carrier.session.output_dict_per_obj[0]["non_cond_frame_outputs"]
    assert len(held) <= 4 < len(session.output_dict_per_obj[0]["non_cond_frame_outputs"])


def test_a_correction_is_what_is_remembered(made, begin):
    carrier, cells = begin(), torch.empty(0)
    for number in range(4):
        carrier.carry(made.frames[number], cells)
        carrier.keep(cells, truth(made, number))
    last = carrier.session.output_dict_per_obj[0]["non_cond_frame_outputs"][3]["pred_masks"]
    height, width = made.frames.shape[1:3]
    shown = torch.nn.functional.interpolate(last, (height, width))[0, 0].numpy() > 0
    there = made.tracks[0].visible[3]
    assert (shown & there).sum() > 0.5 * (shown | there).sum()


def test_a_thing_may_join_later(made, begin):
    carrier, cells = begin(), torch.empty(0)
    for number, image in enumerate(made.frames[:5]):
        carried = carrier.carry(image, cells)
        assert len(carried) == (0 if not number else 1 if number < 3 else 2)
        carrier.keep(cells, truth(made, number)[: 1 if number < 2 else 2])


def test_pocket_propagates():
    assert isinstance(load_carrier("propagation")(), Memory)
