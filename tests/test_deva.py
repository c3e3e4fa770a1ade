"""DEVA behind the tracker's face, against DEVA's own online mode; its weights here are random."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pgvl_core.grounding import deva
from pgvl_core.grounding.sam2 import load_carrier
from pgvl_core.toyworld import make_clip

network = pytest.importorskip("deva.model.network")
inference = pytest.importorskip("deva.inference.inference_core")
CELLS = 36  # of 16 pixels, in a frame
NOTHING = torch.empty(0)


@pytest.fixture(scope="module")
def made():
    return make_clip(3, "train", frames=12, fps=8, objects=2, shots=1, height=96, width=96)


@pytest.fixture(scope="module")
def begin(tmp_path_factory):
    """It is read from a file of the official form; DEVA has one size only."""
    assert deva.installed()
    folder = tmp_path_factory.mktemp("store")
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGVL_HOME", str(folder))
        resnet = network.resnet
        patch.setattr(resnet, "model_zoo", SimpleNamespace(load_url=lambda url: {}))
        patch.setattr(resnet, "load_weights_add_extra_dim", lambda *_: None)
        weights = network.DEVA(deva.NETWORK).state_dict()
        torch.save(weights, folder / deva.WEIGHTS)
        patch.undo()
        patch.setenv("PGVL_HOME", str(folder))
        begin = load_carrier("deva")
    loaded = begin().core.network.state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in weights.items())
    return begin


def truth(made, frame):
    """The smaller first: DEVA's own order is the larger first."""
    masks = np.stack([track.visible[frame] for track in made.tracks])
    return masks[np.argsort([track.visible[0].sum() for track in made.tracks])]


def remembered(carrier):
    """The masks that DEVA has of its last remembered frame, in our order."""
    from deva.utils.tensor_utils import unpad

    places = {thing.id: place for thing, place in carrier.core.object_manager.obj_to_tmp_id.items()}
    masks = carrier.core.last_mask[0][[places[thing] - 1 for thing in sorted(places)]]
    return unpad(masks, carrier.core.pad).numpy()


@torch.inference_mode()
def online(core, image, found, ids):
    """A frame in DEVA's own online mode; `found` is None where its detector does not look."""
    from deva.dataset.utils import im_normalization
    from deva.inference.object_info import ObjectInfo

    pixels = im_normalization(torch.from_numpy(image).permute(2, 0, 1).float() / 255)
    if found is None:
        shares = core.step(pixels)
    else:
        shares = core.incorporate_detection(pixels, found, [ObjectInfo(id=i) for i in ids])
    return core.object_manager.tmp_to_obj_cls(shares.argmax(dim=0)).numpy()


def test_carried_masks_are_those_of_devas_online_mode(made, begin):
    """Told of two things once and of nothing more; its detector finds nothing new after."""
    carrier = begin()
    core = inference.DEVAInferenceCore(carrier.core.network, {**deva.CONFIG, "mem_every": 5})
    moved = False
    for number, image in enumerate(made.frames):
        carried = carrier.carry(image, NOTHING)
        if number == 0:
            assert carried.shape == (0, 96, 96)
            masks = truth(made, 0)
            found = torch.from_numpy(masks[0] + 2 * masks[1]).long()
            online(core, image, found, [1, 2])
        else:
            looked = torch.zeros(96, 96, dtype=torch.int64) if number % 5 == 0 else None
            owner = online(core, image, looked, [])
            assert np.array_equal(carried, owner == np.array([1, 2])[:, None, None]), number
            moved |= bool((carried != masks).any() and carried.any())
            masks = carried
        carrier.keep(NOTHING, masks)
    assert moved
    assert carrier.core.memory.work_mem.size(0) == core.memory.work_mem.size(0) == 3 * CELLS


def test_a_correction_is_what_is_remembered(made, begin):
    carrier = begin()
    for number in range(3):
        carrier.carry(made.frames[number], NOTHING)
        carrier.keep(NOTHING, truth(made, number))
        assert np.array_equal(remembered(carrier), truth(made, number))
    assert carrier.core.memory.work_mem.size(0) == 3 * CELLS


def test_a_thing_may_join_later_in_a_frame_of_any_size(made, begin):
    carrier = begin()
    for number in range(5):
        image, masks = made.frames[number][:90, :85], truth(made, number)[:, :90, :85]
        carried = carrier.carry(np.ascontiguousarray(image), NOTHING)
        assert carried.shape == (0 if not number else 1 if number < 3 else 2, 90, 85)
        told = masks[: 1 if number < 2 else 2]
        carrier.keep(NOTHING, told)
        assert np.array_equal(remembered(carrier), told)


def test_memory_is_flat(made, begin, monkeypatch):
    """As each frame is remembered here, 40 are more than the long-term memory takes."""
    most = 300
    monkeypatch.setitem(deva.CONFIG, "max_long_term_elements", most)
    carrier = begin()
    memory = carrier.core.memory
    sizes = []
    for number in range(40):
        carrier.carry(made.frames[number % 12], NOTHING)
        carrier.keep(NOTHING, truth(made, number % 12))
        sizes.append((memory.work_mem.size(0), memory.long_mem.size(0)))
        assert not len(carrier.core.image_feature_store)
    work, long = np.array(sizes).T
    assert work.max() <= 10 * CELLS
    assert 0 < long.max() <= most
    assert work[-20:].max() <= work[:20].max()
