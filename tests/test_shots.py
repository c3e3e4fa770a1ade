import numpy as np

from pgvl_core import assets
from pgvl_core.grounding.shots import find_shots
from pgvl_core.video import Frames, Video

FPS = 25.0


def still(seed: int, count: int) -> np.ndarray:
    """A coarse random picture, repeated with a little camera noise."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (6, 8, 3)).repeat(12, axis=0).repeat(12, axis=1)
    noise = rng.normal(0, 2, (count, *picture.shape))
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def frames_of(*parts: np.ndarray) -> Frames:
    images = np.concatenate(parts)
    indices = np.arange(len(images))
    return Frames(images=images, times=indices / FPS, indices=indices)


def test_shots_begin_where_pictures_change():
    shots = find_shots(frames_of(still(0, 30), still(1, 25), still(2, 40)), FPS)
    assert [(shot.start, shot.end) for shot in shots] == [(0, 30), (30, 55), (55, 95)]
    assert shots[1].start_time == 30 / FPS
    assert shots[-1].end_time == 95 / FPS


def test_no_cut_is_one_shot():
    (shot,) = find_shots(frames_of(still(0, 50)), FPS)
    assert (shot.start, shot.end) == (0, 50)


def test_one_frame_is_one_shot():
    (shot,) = find_shots(frames_of(still(0, 1)), FPS)
    assert (shot.start, shot.end) == (0, 1)


def test_fast_pan_is_no_cut():
    wide = np.random.default_rng(3).integers(0, 256, (6, 60, 3)).repeat(12, axis=0)
    wide = wide.repeat(12, axis=1).astype(np.uint8)
    pan = np.stack([wide[:, 9 * i : 9 * i + 96] for i in range(60)])
    assert len(find_shots(frames_of(pan), FPS)) == 1


def test_a_cut_between_scenes_that_look_alike_is_found():
    """The same scene, an eighth of the picture farther: no pan gets there in one frame."""
    scene = still(4, 1)[0]
    moved = np.roll(scene, (12, 24), axis=(0, 1))
    shots = find_shots(frames_of(np.stack([scene] * 30), np.stack([moved] * 30)), FPS)
    assert [shot.start for shot in shots] == [0, 30]


def test_a_flash_is_no_cut():
    images = still(5, 60)
    images[30] = 255
    assert len(find_shots(frames_of(images), FPS)) == 1


def test_blocks_of_frames_give_the_shots_of_all():
    whole = frames_of(still(0, 30), still(1, 25))
    parts = (
        Frames(whole.images[k : k + 7], whole.times[k : k + 7], whole.indices[k : k + 7])
        for k in range(0, 55, 7)
    )
    assert find_shots(parts, FPS) == find_shots(whole, FPS)


def test_real_video_is_cut_where_the_pictures_jump():
    """The largest frame-to-frame jumps of bikes.mp4, found by plain differences, are the cuts."""
    video = Video(assets.sample_video("bikes"))
    frames = video.frames(range(video.frame_count), short_side=128)
    shots = find_shots(frames, video.fps)
    jumps = np.abs(np.diff(frames.images.astype(int), axis=0)).mean(axis=(1, 2, 3))
    cuts = [shot.start for shot in shots[1:]]
    assert shots[0].start == 0
    assert shots[-1].end == video.frame_count
    assert set(np.argsort(jumps)[-5:] + 1) == set(cuts)
