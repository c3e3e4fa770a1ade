import base64
import io
import os
import re
import struct
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import av
import decord
import imageio_ffmpeg
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pgvl_core.video import (
    SAMPLE_RATE,
    Frames,
    Video,
    VideoError,
    resize,
    sample_indices,
    write_video,
)

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
HEIGHT, WIDTH, COUNT = 96, 160, 60


def ffmpeg(*arguments, stdin=None):
    done = subprocess.run(
        [FFMPEG, "-y", "-hide_banner", *map(str, arguments)], input=stdin, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return done


def moving_pictures(count=COUNT, height=HEIGHT, width=WIDTH):
    """Colour ramps that drift and a square that counts: no two frames are alike."""
    y, x = np.mgrid[:height, :width]
    images = np.empty((count, height, width, 3), np.uint8)
    for k in range(count):
        images[k] = np.stack([x * 2 + k * 3, y * 3 + 0 * x, x + y + k * 5], 2) % 256
        images[k, 8:40, 8:40] = k * 255 // max(1, count - 1)
    return images


def encode(path, *options, images=None, rate="25"):
    images = moving_pictures() if images is None else images
    size = f"{images.shape[2]}x{images.shape[1]}"
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", rate, "-i", "-"]
    ffmpeg(*raw, *options, path, stdin=images.tobytes())
    return path


def decode(path):
    """What ffmpeg itself shows: every frame, and when."""
    as_they_are = ["-i", path, "-map", "0:v:0", "-fps_mode", "passthrough"]
    log = ffmpeg(*as_they_are, "-map", "0:a?", "-vf", "showinfo", "-f", "null", "-").stderr.decode()
    ticks = [int(pts) for pts in re.findall(r"n: *\d+ pts: *(-?\d+)", log)]
    tick = [int(part) for part in re.search(r"config in time_base: (\d+)/(\d+)", log).groups()]
    raw = ffmpeg(*as_they_are, "-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "-").stdout
    width, height = map(int, re.match(rb"P6\n(\d+) (\d+)\n255\n", raw).groups())
    header = raw.index(b"255\n") + 4
    images = np.frombuffer(raw, np.uint8).reshape(-1, header + height * width * 3)[:, header:]
    return images.reshape(-1, height, width, 3), np.array(ticks) * tick[0] / tick[1]


H264 = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-bf", "3", "-preset", "fast"]
MPEG4 = ["-c:v", "mpeg4", "-g", "12", "-bf", "2", "-q:v", "3"]
HEVC = ["-c:v", "libx265", "-pix_fmt", "yuv420p", "-tag:v", "hvc1", "-x265-params"]


def trimmed(path):
    """As a phone trims: the edit list hides what precedes the cut, up to the last key frame."""
    whole = encode(path.with_name("whole.mp4"), *H264, "-g", "20")
    ffmpeg("-ss", "1.1", "-i", whole, "-c", "copy", path)


def trimmed_where_nothing_moves(path):
    """One group of frames, still at first: nothing but their number tells of those hidden."""
    images = moving_pictures()
    images[:50] = images[0]
    one_group = [*H264, "-g", "250", "-sc_threshold", "0"]
    whole = encode(path.with_name("whole.mp4"), *one_group, images=images)
    ffmpeg("-ss", "1.1", "-i", whole, "-c", "copy", path)


def trimmed_at_both_ends(path):
    """Nothing is taken away, the edit list shows 1.2 s from 0.5 s on."""
    encode(path, *H264, "-g", "20")
    content = bytearray(path.read_bytes())
    entry = content.index(b"elst") + 12  # after kind, version and count
    _, start = struct.unpack_from(">Ii", content, entry)
    struct.pack_into(">Ii", content, entry, 1200, start + 12800 // 2)  # ms, ticks of 1/12800 s
    path.write_bytes(content)


def joined_late(path):
    """A broadcast as one tunes in: its first frames lack what they are predicted from."""
    whole = encode(path.with_name("whole.ts"), *H264, "-g", "20").read_bytes()
    path.write_bytes(whole[len(whole) // 4 // 188 * 188 :])


def turned(degrees, *mirrored):
    def make(path):
        upright = encode(path.with_name("upright.mp4"), *H264, "-g", "20")
        ffmpeg("-display_rotation", -degrees, *mirrored, "-i", upright, "-c", "copy", path)

    return make


def encoded(*options, **kwargs):
    return lambda path: encode(path, *options, **kwargs)


ODD = moving_pictures(20, 65, 131)
VARIABLE = ["-vf", "select='not(mod(n,3))+gt(n,40)'", "-fps_mode", "vfr"]
KINDS = {  # file name: how to make it
    "b_frames.mp4": encoded(*H264, "-g", "20"),
    "one_group.mp4": encoded(*H264, "-g", "250"),
    "fragments.mp4": encoded(*H264, "-g", "20", "-movflags", "frag_keyframe+empty_moov"),
    "late_start.mp4": encoded(*H264, "-g", "20", "-use_editlist", "0"),
    "ntsc.mov": encoded(*H264, "-g", "20", rate="30000/1001"),
    "matroska.mkv": encoded(*H264, "-g", "20"),
    "vp9.webm": encoded("-c:v", "libvpx-vp9", "-g", "20", "-b:v", "400k", "-cpu-used", "8"),
    "hevc.mp4": encoded(*HEVC, "log-level=error:keyint=20:open-gop=0"),
    "bt709.mp4": encoded(*H264, "-vf", "scale=out_color_matrix=bt709", "-colorspace", "bt709"),
    "odd_size.mp4": encoded("-c:v", "libx264", "-pix_fmt", "yuv444p", images=ODD),
    "variable_rate.mp4": encoded(*H264, "-g", "20", *VARIABLE),
    "variable_rate.mkv": encoded(*H264, "-g", "20", *VARIABLE),
    "one_frame.mp4": encoded(*H264, images=moving_pictures(1)),
    "turned_90.mp4": turned(90),
    "turned_180.mp4": turned(180),
    "turned_270.mp4": turned(270),
    # Files that decord gets wrong or cannot read:
    "turned_90.mkv": turned(90),
    "mirrored.mp4": turned(0, "-display_hflip"),
    "mirrored_90.mp4": turned(90, "-display_hflip"),
    "mirrored_270.mp4": turned(270, "-display_vflip"),
    "trimmed.mp4": trimmed,
    "trimmed_where_nothing_moves.mp4": trimmed_where_nothing_moves,
    "trimmed_at_both_ends.mp4": trimmed_at_both_ends,
    "joined_late.ts": joined_late,
    "open_groups.mp4": encoded(*H264, "-x264-params", "open-gop=1:keyint=12:scenecut=0"),
    "open_groups_hevc.mp4": encoded(*HEVC, "log-level=error:keyint=12:open-gop=1:bframes=4"),
    "intra_refresh.mp4": encoded(*H264, "-x264-params", "keyint=15:intra-refresh=1"),
    "mpeg4_b_frames.mp4": encoded(*MPEG4),
    "mpeg2.ts": encoded("-c:v", "mpeg2video", "-g", "12", "-bf", "2", "-q:v", "3"),
    "mpeg2.mpg": encoded("-c:v", "mpeg2video", "-g", "12", "-bf", "2", "-q:v", "3"),
    "stream.ts": encoded(*H264, "-g", "20", "-output_ts_offset", "1000"),
    "av1.mp4": encoded("-c:v", "libsvtav1", "-g", "20", "-preset", "12"),
    "ten_bits.mp4": encoded("-c:v", "libx264", "-pix_fmt", "yuv420p10le", "-g", "20"),
    "interlaced.mp4": encoded(*H264, "-flags", "+ildct+ilme", "-g", "20"),
    "windows.wmv": encoded("-c:v", "wmv2", "-g", "12", "-q:v", "3"),
    "mpeg4.avi": encoded(*MPEG4),
    "h264.avi": encoded(*H264, "-g", "20"),
}
DECORD_READS = list(KINDS)[: list(KINDS).index("turned_90.mkv")]


@pytest.mark.parametrize("name", KINDS)
def test_frames_and_times_are_those_of_ffmpeg(name, tmp_path):
    KINDS[name](tmp_path / name)
    true_images, true_times = decode(tmp_path / name)
    video = Video(tmp_path / name)
    assert video.frame_count == len(true_images)
    assert (video.height, video.width) == true_images.shape[1:3]
    if name.endswith(".avi"):  # has no times of its own: frames follow each other from 0
        np.testing.assert_allclose(video.timestamps, np.arange(video.frame_count) / 25)
    else:
        np.testing.assert_allclose(video.timestamps, true_times, atol=1e-6)

    shuffled = np.random.default_rng(0).permutation(video.frame_count)
    for wanted in (shuffled[:9], shuffled[-1:], [video.frame_count - 1], range(video.frame_count)):
        frames = video.frames(wanted)
        error = np.abs(frames.images.astype(int) - true_images[list(wanted)])
        assert error.max() <= 2
        assert frames.times.tolist() == video.timestamps[list(wanted)].tolist()
        assert frames.indices.tolist() == list(wanted)
    if name in DECORD_READS and decord.__version__ == "0.6.0":
        assert video._decord is not None, "decord is the reader wherever it is right"


def test_a_frame_that_decord_refuses_is_read_nevertheless(tmp_path, monkeypatch):
    path = encode(tmp_path / "v.mp4", *H264, "-g", "20")
    read = decord.VideoReader.__getitem__

    def refuse(reader, index):
        if index > 30:
            raise decord.DECORDError("Error sending packet.")
        return read(reader, index)

    monkeypatch.setattr(decord.VideoReader, "__getitem__", refuse)
    images = Video(path).frames([10, 29, 31, 50]).images
    assert np.abs(images.astype(int) - decode(path)[0][[10, 29, 31, 50]]).max() <= 2


def test_what_a_video_says_of_itself(tmp_path):
    path = encode(tmp_path / "v.mp4", *H264, rate="30000/1001")
    video = Video(path)
    assert video.path == path
    assert video.fps == 30000 / 1001
    assert video.duration == pytest.approx(COUNT * 1001 / 30000, abs=1e-6)
    assert not video.has_audio
    assert video.rotation == 0
    assert len(video.audio()) == 0
    assert repr(video) == f"Video({path.name!r}: 60 frames, 29.97 fps, 160x96, 2.00 s, no audio)"


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_rate_and_duration_of_variable_frame_rate(suffix, tmp_path):
    # Kept: frames 0, 3, ... 39 and 41 to 59, which makes 33 frames in 2.4 s.
    video = Video(encode(tmp_path / f"v.{suffix}", *H264, *VARIABLE))
    kept = [*range(0, 40, 3), *range(41, 60)]
    np.testing.assert_allclose(video.timestamps, np.array(kept) / 25, atol=1e-3)
    assert video.duration == pytest.approx(2.4, abs=2e-3)
    assert video.fps == pytest.approx(33 / 2.4, rel=2e-3)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_applied(degrees, tmp_path):
    turned(degrees)(tmp_path / "v.mp4")
    video = Video(tmp_path / "v.mp4")
    assert video.rotation == degrees
    assert (video.width, video.height) == ((160, 96) if degrees == 180 else (96, 160))
    upright = Video(tmp_path / "upright.mp4").frames([7]).images[0]
    assert np.array_equal(video.frames([7]).images[0], np.rot90(upright, -degrees // 90))


# --- sound ----------------------------------------------------------------------------------------


def flash_and_beep(path, video_late=0.0, audio_late=0.0, beep_ends=2.0, codec="aac"):
    """A white picture and a tone that both begin 1 s after 0 on the file's clock."""
    images = np.zeros((50, HEIGHT, WIDTH, 3), np.uint8)
    images[round((1 - video_late) * 25) :] = 255
    silent = encode(path.with_name("silent.mp4"), *H264, images=images)
    tone = f"aevalsrc='sin(2*PI*440*t)*gte(t,{1 - audio_late})':d={beep_ends - audio_late}:s=48000"
    sources = ["-itsoffset", video_late, "-i", silent, "-itsoffset", audio_late, "-f", "lavfi"]
    streams = ["-map", "0:v", "-map", "1:a", "-c:v", "copy", "-c:a", codec, "-ac", "2"]
    ffmpeg(*sources, "-i", tone, *streams, path)
    return path


def flash(video):
    frames = video.frames(range(video.frame_count))
    return frames.times[np.argmax(frames.images.mean(axis=(1, 2, 3)) > 127)]


def beep(video):
    return np.argmax(np.abs(video.audio()) > 0.1) / SAMPLE_RATE


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize(("video_late", "audio_late"), [(0, 0), (0, 0.6), (0.8, 0)])
def test_frames_and_sound_are_on_one_clock(suffix, video_late, audio_late, tmp_path):
    video = Video(flash_and_beep(tmp_path / f"v.{suffix}", video_late, audio_late))
    assert video.has_audio
    # AAC begins one block of 1024 samples early, and what it blurs is as long.
    assert video.timestamps[0] == pytest.approx(video_late, abs=0.03)
    assert flash(video) == pytest.approx(1, abs=0.03)
    assert beep(video) == pytest.approx(flash(video), abs=0.005)


def test_sound_that_outlasts_the_picture_is_kept(tmp_path):
    video = Video(flash_and_beep(tmp_path / "v.mp4", beep_ends=3.5))
    assert video.duration == pytest.approx(2)
    assert len(video.audio()) / SAMPLE_RATE == pytest.approx(3.5, abs=0.03)
    assert np.abs(video.audio()[3 * SAMPLE_RATE : int(3.4 * SAMPLE_RATE)]).max() > 0.5


@pytest.mark.parametrize("codec", ["pcm_s16le", "aac", "libopus", "libmp3lame"])
def test_sound_is_what_ffmpeg_gives_whisper(codec, tmp_path, monkeypatch):
    path = encode(tmp_path / "silent.mkv", *H264)
    left_and_right = "aevalsrc='0.8*sin(2*PI*300*t)|0.3*sin(2*PI*500*t*t)':d=2:s=44100"
    sound = ["-f", "lavfi", "-i", left_and_right, "-c:v", "copy", "-c:a", codec]
    ffmpeg("-i", path, *sound, tmp_path / "v.mkv")
    as_whisper = ["-f", "s16le", "-ac", "1", "-acodec", "pcm_s16le", "-ar", SAMPLE_RATE, "-"]
    raw = ffmpeg("-i", tmp_path / "v.mkv", *as_whisper).stdout
    true = np.frombuffer(raw, np.int16).astype(np.float32) / 32768

    monkeypatch.setenv("PATH", "")  # no ffmpeg to be found
    audio = Video(tmp_path / "v.mkv").audio()
    assert audio.dtype == np.float32
    assert audio.ndim == 1
    assert len(audio) == len(true)
    np.testing.assert_allclose(audio, true, atol=1e-3)


# --- what is no video -----------------------------------------------------------------------------


def cut(suffix, *options):
    def make(folder):
        whole = encode(folder / f"whole.{suffix}", *options)
        (folder / f"cut.{suffix}").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        return folder / f"cut.{suffix}"

    return make


def written(name, content):
    def make(folder):
        (folder / name).write_bytes(content)
        return folder / name

    return make


def cut_between_frames(folder):
    whole = encode(folder / "whole.mp4", *H264, "-movflags", "+faststart")
    with av.open(str(whole)) as container:
        start = [packet.pos for packet in container.demux(video=0) if packet.size][30]
    (folder / "cut.mp4").write_bytes(whole.read_bytes()[:start])
    return folder / "cut.mp4"


def sound_alone(folder):
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", folder / "song.m4a")
    return folder / "song.m4a"


def folder_itself(folder):
    (folder / "clip.mp4").mkdir()
    return folder / "clip.mp4"


BAD = {
    "missing": (lambda folder: folder / "nowhere.mp4", "no such file"),
    "folder": (folder_itself, "is a folder"),
    "empty": (written("empty.mp4", b""), "is empty"),
    "text": (written("text.mp4", b"This is no video.\n" * 99), "cannot be read as a video"),
    "noise": (written("noise.mp4", bytes(range(256)) * 9), "cannot be read as a video"),
    "sound": (sound_alone, "no video in it"),
    "index at its end": (cut("mp4", *H264), "cut short"),
    "index ahead": (cut("mp4", *H264, "-movflags", "+faststart"), "cut short"),
    "fragments": (cut("mp4", *H264, "-g", "5", "-movflags", "frag_keyframe"), "cut short"),
    "between frames": (cut_between_frames, "cut short"),
    "avi": (cut("avi", *MPEG4), "cut short"),
    "matroska": (cut("mkv", *H264), "cut short"),
    "webm": (cut("webm", "-c:v", "libvpx-vp9", "-cpu-used", "8"), "cut short"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_refused_with_its_name_and_the_reason(kind, tmp_path):
    make, reason = BAD[kind]
    path = make(tmp_path)
    with pytest.raises(VideoError, match=reason) as refusal:
        Video(path)
    assert str(path) in str(refusal.value)


def test_what_is_there_of_a_cut_broadcast_is_read(tmp_path):
    """A transport stream is made to be cut anywhere: there is nothing to miss."""
    path = cut("ts", *H264, "-g", "10")(tmp_path)
    true_images, _ = decode(path)
    video = Video(path)
    assert abs(video.frame_count - len(true_images)) <= 1
    assert (
        np.abs(video.sample(5).images.astype(int) - true_images[video.sample(5).indices]).max() <= 2
    )


def test_damage_inside_costs_the_frames_around_it_only(tmp_path):
    path = encode(tmp_path / "v.mp4", *H264, "-g", "20")
    whole, _ = decode(path)
    with av.open(str(path)) as container:
        hit = next(p for p in container.demux(video=0) if p.is_keyframe and p.pts > 0)
        position, size, time = hit.pos, hit.size, float(hit.pts * hit.time_base)
    damaged = bytearray(path.read_bytes())
    damaged[position : position + size] = bytes(size)
    path.write_bytes(damaged)

    video = Video(path)
    for k in (0, 17, 59, 41, 12):  # the second group, frames 20 to 39, has lost its key frame
        error = np.abs(video.frames([k]).images[0].astype(int) - whole[k])
        assert error.max() <= 2
    with pytest.raises(VideoError, match=rf"frame 20 \(at {time:.2f} s\) cannot be decoded"):
        video.frames([20])


@pytest.mark.parametrize("name", ["Vidéo 视频 ж.mp4", "a b  c.mp4", "tag:50%d #1?.mp4", "-y.mp4"])
def test_names_that_are_not_plain(name, tmp_path, monkeypatch):
    encode(tmp_path / "v.mp4", *H264).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    video = Video(name)
    assert len(video.sample(3)) == 3
    write_video(f"copy of {name}", video.sample(3).images, 5, audio_from=name)
    assert Video(f"copy of {name}").frame_count == 3


def test_tags_that_are_not_utf8(tmp_path):
    plain = encode(tmp_path / "plain.mkv", *H264)
    tagged = tmp_path / "tagged.mkv"
    title = [b"-metadata", b"title=caf\xe9"]
    subprocess.run([FFMPEG, "-i", plain, "-c", "copy", *title, tagged], check=True)
    assert Video(tagged).frame_count == COUNT


@pytest.mark.parametrize("indices", [[60], [-1], [0, 99]])
def test_frames_that_are_not_there(indices, tmp_path):
    video = Video(encode(tmp_path / "v.mp4", *H264))
    with pytest.raises(VideoError, match=r"v\.mp4: frames .* asked for, it has 0 to 59"):
        video.frames(indices)


# --- sampling and size ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame_count", "n", "expected"),
    [
        (10, 5, [1, 3, 4, 6, 8]),  # segments end at 1.8, 3.6, 5.4, 7.2, 9: rounded 2, 4, 5, 7, 9
        (7, 4, [1, 2, 3, 5]),  # at 1.5, 3, 4.5, 6: halves go to the even, 2, 3, 4, 6
        (250, 1, [124]),
        (5, 4, [0, 1, 2, 3]),
        (4, 4, [0, 1, 2, 3]),  # every frame once
        (3, 100, [0, 1, 2]),
        (1, 1, [0]),
    ],
)
def test_sample_indices_by_hand(frame_count, n, expected):
    assert sample_indices(frame_count, n).tolist() == expected
    assert sample_indices(frame_count, n).dtype == np.int64


@given(st.integers(1, 200_000), st.integers(1, 300))
def test_sample_indices_lie_amid_equal_segments(frame_count, n):
    indices = sample_indices(frame_count, n)
    assert len(indices) == min(n, frame_count)
    assert indices[0] >= 0
    assert indices[-1] < frame_count
    assert (np.diff(indices) > 0).all()
    if frame_count > n:
        middles = (np.arange(n) + 0.5) * (frame_count - 1) / n
        assert np.abs(indices - middles).max() <= 1


@pytest.mark.parametrize(("frame_count", "n"), [(0, 5), (5, 0), (5, -1)])
def test_nothing_to_sample(frame_count, n):
    with pytest.raises(VideoError, match="1 or more"):
        sample_indices(frame_count, n)


@pytest.mark.parametrize("size", [(24, 40), (33, 57), (48, 160), (200, 300)])
def test_resize_is_that_of_pillow(size):
    rng = np.random.default_rng(0)
    images = np.concatenate([moving_pictures(2), rng.integers(0, 256, (2, 96, 160, 3), np.uint8)])
    resized = resize(images, *size)
    assert resized.dtype == np.uint8
    for mine, image in zip(resized, images, strict=True):
        pillow = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC))
        assert np.abs(mine.astype(int) - pillow).max() <= 2


def test_frames_are_resized_at_the_same_aspect_ratio(tmp_path):
    video = Video(encode(tmp_path / "v.mp4", *H264))
    small = video.sample(4, short_side=48)
    assert small.images.shape == (4, 48, 80, 3)
    assert np.array_equal(small.images, resize(video.sample(4).images, 48, 80))


def test_blocks_are_the_frames_a_few_at_a_time(tmp_path):
    source = ["-f", "lavfi", "-i", "testsrc=s=160x96:r=10:d=4"]
    ffmpeg(*source, "-c:v", "libx264", "-g", "8", tmp_path / "v.mp4")
    video = Video(tmp_path / "v.mp4")
    wanted = np.arange(3, 40, 4)
    blocks = list(video.blocks(wanted, 48, count=4))
    assert [block.indices.tolist() for block in blocks] == [
        [3, 7, 11, 15],
        [19, 23, 27, 31],
        [35, 39],
    ]
    together = video.frames(wanted, 48)
    assert np.array_equal(np.concatenate([block.images for block in blocks]), together.images)
    assert np.allclose(np.concatenate([block.times for block in blocks]), wanted / 10)
    with pytest.raises(VideoError, match=r"v\.mp4: frames 0 to 40 asked for, it has 0 to 39"):
        next(video.blocks(np.arange(41)))


def kilobytes(tmp_path, code):
    """What `code` prints in a process of its own, of a `video` of 600 frames, 1.7 GB decoded."""
    source = ["-f", "lavfi", "-i", "color=teal:s=1280x720:r=25:d=24"]
    ffmpeg(*source, "-c:v", "libx264", "-preset", "ultrafast", "-g", "50", tmp_path / "v.mp4")
    opened = "import sys; from pgvl_core.video import Video; video = Video(sys.argv[1])\n"
    command = [sys.executable, "-c", opened + code, tmp_path / "v.mp4"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read as Linux counts it")
def test_what_is_not_asked_for_is_not_decoded_later(tmp_path):
    """Left to itself, decord decodes all of them while something else is done."""
    code = (
        "import time, pathlib\n"
        "now = lambda: int(pathlib.Path('/proc/self/statm').read_text().split()[1]) * 4\n"
        "video.frames([3, 8, 13], 32); before = now()\n"
        "time.sleep(3); print(now() - before)"
    )
    assert kilobytes(tmp_path, code) < 100_000


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read as Linux counts it")
def test_memory_grows_with_the_frames_asked_for_only(tmp_path):
    """Of decord, which decodes ahead, up to some hundred MB besides."""
    code = (
        "import resource\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "video.sample(1, 32); before = peak()\n"
        "assert len(video.sample(100, 224)) == 100; print(peak() - before)"
    )
    assert kilobytes(tmp_path, code) < 800_000


# --- writing --------------------------------------------------------------------------------------


def test_written_video_reads_back(tmp_path):
    images = moving_pictures(30, 65, 97) // 2 + 40
    source = flash_and_beep(tmp_path / "source.mkv", codec="libopus")
    write_video(tmp_path / "out.mp4", iter(images), 30000 / 1001, audio_from=source)

    video = Video(tmp_path / "out.mp4")
    assert video.frame_count == 30
    np.testing.assert_allclose(video.timestamps, np.arange(30) * 1001 / 30000, atol=1e-6)
    assert (video.height, video.width) == (66, 98)
    read = video.frames(range(30)).images.astype(int)
    assert np.abs(read[:, :65, :97] - images).mean() < 4
    assert np.abs(read[:, 65] - read[:, 64]).mean() < 4  # the last row again
    assert np.abs(read[:, :, 97] - read[:, :, 96]).mean() < 4
    assert beep(video) == pytest.approx(1, abs=0.03)
    assert len(video.audio()) / SAMPLE_RATE == pytest.approx(2, abs=0.05)

    with av.open(str(tmp_path / "out.mp4")) as container:
        picture, sound = container.streams.video[0], container.streams.audio[0]
        assert (picture.codec.name, picture.pix_fmt, sound.codec.name) == ("h264", "yuv420p", "aac")
    content = (tmp_path / "out.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat"), "so that it plays while it loads"


@pytest.mark.parametrize("height", [96, 720])  # players guess another matrix for large pictures
def test_written_colours_are_right(height, tmp_path):
    colours = [(220, 30, 40), (30, 200, 60), (40, 60, 210), (250, 250, 250), (0, 0, 0)]
    images = [np.full((height, 160, 3), colour, np.uint8) for colour in colours]
    write_video(tmp_path / "v.mp4", images, 5)
    read, _ = decode(tmp_path / "v.mp4")
    assert np.abs(read.mean(axis=(1, 2)) - colours).max() < 3


@pytest.mark.parametrize(("video_late", "audio_late"), [(0, 0.6), (0.8, 0)])
def test_sound_stays_in_step_with_the_written_frames(video_late, audio_late, tmp_path):
    source = flash_and_beep(tmp_path / "source.mp4", video_late, audio_late)
    frames = Video(source).frames(range(50))
    write_video(tmp_path / "out.mp4", frames.images, 25, audio_from=source)
    video = Video(tmp_path / "out.mp4")
    assert flash(video) == pytest.approx(1 - video_late, abs=0.03)
    assert beep(video) == pytest.approx(flash(video), abs=0.03)


def test_sound_of_a_silent_video_or_of_a_sound_file(tmp_path):
    silent = encode(tmp_path / "silent.mp4", *H264)
    write_video(tmp_path / "a.mp4", moving_pictures(3), 3, audio_from=silent)
    assert not Video(tmp_path / "a.mp4").has_audio
    write_video(tmp_path / "b.mp4", moving_pictures(3), 3, audio_from=sound_alone(tmp_path))
    assert len(Video(tmp_path / "b.mp4").audio()) == pytest.approx(SAMPLE_RATE, abs=1500)


def test_same_frames_same_bytes(tmp_path):
    images, written = moving_pictures(5, 224, 224), set()
    rng = np.random.default_rng(0)
    for _ in range(25):
        litter = [rng.integers(0, 256, size, np.uint8) for size in rng.integers(999, 400_000, 40)]
        del litter  # so that memory is never twice as it was
        write_video(tmp_path / "v.mp4", images, 10)
        written.add((tmp_path / "v.mp4").read_bytes())
    assert len(written) == 1
    # x264 notes its settings in the file. Left alone it would take a thread and a half a core.
    assert b" threads=2 " in written.pop()


def interrupted():
    yield from moving_pictures(99)  # of which the encoder has written some by then
    raise RuntimeError("the hundredth frame could not be drawn")


def mixed():
    yield from moving_pictures(2)
    yield from moving_pictures(2, 80, 80)


@pytest.mark.parametrize(
    ("images", "fps", "error"),
    [
        (lambda: [], 25, "no frames"),
        (mixed, 25, r"frame 2 is uint8 \[80, 80, 3\], not uint8 \[96, 160, 3\]"),
        (lambda: moving_pictures(2) / 255, 25, "frame 0 is float64"),
        (lambda: moving_pictures(2)[..., 0], 25, r"frame 0 is uint8 \[96, 160\]"),
        (moving_pictures, 0, "fps"),
        (moving_pictures, float("nan"), "fps"),
        (interrupted, 25, "hundredth frame"),
    ],
)
def test_a_failed_write_leaves_what_was_there(images, fps, error, tmp_path):
    (tmp_path / "v.mp4").write_bytes(b"what was there")
    with pytest.raises((VideoError, RuntimeError), match=error):
        write_video(tmp_path / "v.mp4", images(), fps)
    assert os.listdir(tmp_path) == ["v.mp4"]
    assert (tmp_path / "v.mp4").read_bytes() == b"what was there"


def test_errors_of_writing_name_the_file_and_the_reason(tmp_path):
    with pytest.raises(VideoError, match=r"missing/v\.mp4: there is no folder"):
        write_video(tmp_path / "missing" / "v.mp4", moving_pictures(2), 5)
    with pytest.raises(VideoError, match=r"nowhere\.wav: there is no such file"):
        write_video(tmp_path / "v.mp4", moving_pictures(2), 5, tmp_path / "nowhere.wav")
    assert list(tmp_path.iterdir()) == []


# --- in a notebook --------------------------------------------------------------------------------


class Pictures(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.images, self.text, self.open = [], "", []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.images.append(dict(attributes))
        elif tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_frames_as_a_strip(tmp_path):
    times = np.arange(20) / 4
    strip = Pictures(Frames(moving_pictures(20), times, np.arange(20) * 3)._repr_html_())
    shown = sample_indices(20, 8)
    assert [image["alt"] for image in strip.images] == [
        f"frame {k * 3} at {k / 4:.2f} s" for k in shown
    ]
    for image, k in zip(strip.images, shown, strict=True):
        jpeg = base64.b64decode(image["src"].removeprefix("data:image/jpeg;base64,"))
        picture = Image.open(io.BytesIO(jpeg))
        assert picture.size == (160, 96)
        assert np.abs(np.asarray(picture).astype(int) - moving_pictures(20)[k]).mean() < 12
        assert f"{times[k]:.2f} s" in strip.text


def test_no_frames_are_shown_as_none():
    nothing = Frames(np.zeros((0, 96, 160, 3), np.uint8), np.zeros(0), np.zeros(0, np.int64))
    assert repr(nothing) == "Frames(0 of 160x96)"
    assert Pictures(nothing._repr_html_()).images == []


def test_video_as_a_strip(tmp_path):
    path = encode(tmp_path / "a<b>&c.mp4", *H264)
    strip = Pictures(Video(path)._repr_html_())
    assert len(strip.images) == 8
    assert "a<b>&c.mp4" in strip.text
    assert "60 frames" in strip.text
    assert isinstance(path, Path)
