"""Read the frames, true timestamps and sound of a video; write an annotated one.

decord reads the frames, PyAV all that is around them. Both are on one clock: 0 s is where the file
starts to play (its earliest frame or sample), so ``Frames.times`` compares with sample ``k`` of
``Video.audio()``, which sounds at ``k / SAMPLE_RATE`` s. Sound that starts late is preceded by
silence; a picture that starts late has ``timestamps[0] > 0``.
"""

import base64
import heapq
import html
import io
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import av
import av.filter
import decord
import numpy as np
import torch
import torch.nn.functional as F
from av.sidedata.sidedata import Type
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image
from tqdm.auto import tqdm

from .files import whole

SAMPLE_RATE = 16_000  # Hz, what Whisper hears
AAC_RATE = 48_000  # Hz, which every browser plays
THUMBNAILS, THUMBNAIL_HEIGHT = 8, 96  # pictures in a notebook's strip, and their height in pixels

_DECORD_ERRORS = (decord.DECORDError, RuntimeError)


class VideoError(ValueError):
    """A file that cannot be read as a video, or frames that cannot be written as one."""


@dataclass(frozen=True, eq=False)
class Frames:
    """Some frames of a video.

    Attributes
    ----------
    images : uint8 [T, H, W, 3], RGB
    times : float64 [T], seconds on the video's clock
    indices : int64 [T], frame numbers in the video, from 0
    """

    images: np.ndarray
    times: np.ndarray
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        height, width = self.images.shape[1:3]
        span = f", {self.times.min():.2f} to {self.times.max():.2f} s" if len(self) else ""
        return f"Frames({len(self)} of {width}x{height}{span})"

    def _repr_html_(self) -> str:
        height, width = self.images.shape[1:3]
        size = THUMBNAIL_HEIGHT, max(1, round(width * THUMBNAIL_HEIGHT / height))
        figures = []
        for k in sample_indices(len(self), THUMBNAILS) if len(self) else []:
            jpeg = io.BytesIO()
            Image.fromarray(resize(self.images[k : k + 1], *size)[0]).save(jpeg, "JPEG")
            data = base64.b64encode(jpeg.getvalue()).decode()
            when = f"{self.times[k]:.2f} s"
            figures.append(
                '<figure style="display:inline-block;margin:2px;text-align:center">'
                f'<img src="data:image/jpeg;base64,{data}" alt="frame {self.indices[k]} at {when}">'
                f"<figcaption>{when}</figcaption></figure>"
            )
        return f"<div>{html.escape(repr(self))}<br>{''.join(figures)}</div>"


class Video:
    """A video file, opened and indexed; frames are decoded when they are asked for.

    Attributes
    ----------
    path : Path
    frame_count : int
    fps : float, frames per second (their average, where the rate varies)
    width, height : int, pixels, after rotation
    rotation : int, degrees clockwise (0, 90, 180, 270) by which the stored picture is turned for
        showing, as a phone held upright records it
    timestamps : float64 [frame_count], seconds, when each frame is shown
    duration : float, seconds from 0 to the end of the last frame
    has_audio : bool

    Raises
    ------
    VideoError
        If the file is missing, empty, a folder, not a video, or cut short.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with _opened(self.path) as container:
            first = next(_decoded(container, _video_stream(container, self.path)), None)
        if first is None or first.pts is None:
            raise VideoError(
                f"{self.path}: no frame of it can be decoded and timed; is it complete, and no raw "
                "stream?"
            )
        self._matrix = _display_matrix(first)
        self._stored_size = first.width, first.height
        self.rotation = -90 * round(first.rotation / 90) % 360
        upright = _turned(_rgb(first, *self._stored_size), self._matrix)
        self.height, self.width = upright.shape[:2]

        with _opened(self.path) as container:  # anew: not every container can be wound back
            stream = _video_stream(container, self.path)
            audio = container.streams.best("audio")
            self.has_audio = audio is not None
            end_pts = self._index(container, stream, first.pts)
            starts = [
                Fraction(s.start_time * s.time_base)
                for s in (stream, audio)
                if s is not None and s.start_time is not None and s.time_base is not None
            ]
            self._start = min(starts, default=Fraction(0))
            self.frame_count = len(self._pts)
            tick = stream.time_base
            self.timestamps = (self._pts - float(self._start / tick)) * float(tick)
            self.duration = float(end_pts * tick - self._start)
            # The header's rate is exact (30000/1001), but not true of frames at varying intervals.
            shown = self.duration - float(self.timestamps[0])
            self.fps = float(stream.average_rate or 1)
            if shown > 0 and abs(self.fps * shown / self.frame_count - 1) > 0.01:
                self.fps = self.frame_count / shown

    def _index(self, container: Any, stream: Any, first_pts: int) -> int:
        """List frames and key frames from the packets, without decoding; give the last's end."""
        form = container.format.name
        mp4, matroska = "mp4" in form, "matroska" in form
        self._timed = form != "avi"  # which tells when to decode a frame, not when to show it
        self._seekable = form not in ("avi", "mpeg")  # MPEG-PS: its times are guessed after a seek
        seconds = {s.index: float(s.time_base) for s in container.streams if s.time_base}
        shown, keys, packets, end, torn = [], [], 0, 0.0, False
        for packet in container.demux():
            if packet.pts is None:  # what ends a stream, and the second of two fields
                continue
            end = max(end, (packet.pts + (packet.duration or 0)) * seconds[packet.stream_index])
            torn = packet.is_corrupt
            if packet.stream_index != stream.index:
                continue
            dts = packet.pts if packet.dts is None else packet.dts
            pts = packet.pts if self._timed else dts
            if packet.is_keyframe:
                keys.append((pts, dts, packets))
            packets += 1
            # An edit list hides frames; those before the first decodable one are never shown.
            if not packet.is_discard and (pts >= first_pts or not self._timed):
                shown.append((pts, packet.duration or 0))
        promised = (container.duration or 0) / av.time_base
        if (
            torn  # the last packet
            or (mp4 and packets < len(stream.index_entries))
            or (matroska and end < min(0.95 * promised, promised - 1))
        ):
            raise VideoError(
                f"{self.path}: the file is cut short, its data end at {end:.2f} s; "
                "copy or download it again"
            )
        shown.sort()
        keys.sort()
        self._pts = np.array([pts for pts, _ in shown], dtype=np.int64)
        self._key_dts = [dts for _, dts, _ in keys]
        self._key_ranks = np.searchsorted(self._pts, [pts for pts, _, _ in keys]).tolist()
        stored_ranks = [rank for _, _, rank in keys]
        self._plain = (mp4 or matroska) and self._key_ranks == stored_ranks
        return sum(shown[-1])

    def __repr__(self) -> str:
        return (
            f"Video({self.path.name!r}: {self.frame_count} frames, {self.fps:.5g} fps, "
            f"{self.width}x{self.height}, {self.duration:.2f} s, "
            f"{'with' if self.has_audio else 'no'} audio)"
        )

    def _repr_html_(self) -> str:
        strip = self.sample(THUMBNAILS, min(THUMBNAIL_HEIGHT, self.width, self.height))
        return f"<div>{html.escape(repr(self))}{strip._repr_html_()}</div>"

    def sample(self, n: int, short_side: int | None = None) -> Frames:
        """Read `n` frames spread evenly, or all of a shorter video: `frames(sample_indices())`."""
        return self.frames(sample_indices(self.frame_count, n), short_side)

    def frames(self, indices: Sequence[int] | np.ndarray, short_side: int | None = None) -> Frames:
        """Read frames by number, in any order.

        Each is resized as soon as it is read. decord may decode the frames behind it meanwhile:
        for a long stretch of a video, `blocks` keeps memory as it is.

        Parameters
        ----------
        indices : ints in [0, frame_count)
        short_side : pixels of the shorter side after resizing at the same aspect ratio; None
            leaves the frames as large as they are

        Raises
        ------
        VideoError
            If there is no such frame, or it cannot be decoded.
        """
        indices = np.asarray(indices, dtype=np.int64).reshape(-1)
        wanted = np.unique(indices)
        self._check(wanted)
        height, width = self._size(short_side)
        images = np.empty((len(indices), height, width, 3), np.uint8)
        bar = _progress(wanted, f"reading {self.path.name}", "frame")
        for index, image in zip(bar, self._read(wanted.tolist()), strict=True):
            images[indices == index] = resize(image[None], height, width)
        return Frames(images, self.timestamps[indices], indices)

    def blocks(
        self, indices: np.ndarray, short_side: int | None = None, count: int = 16
    ) -> Iterator[Frames]:
        """Read many frames, `count` at a time, so that memory does not grow with their number.

        Parameters
        ----------
        indices : int64, ascending, each once, in [0, frame_count)
        short_side : as for `frames`

        Raises
        ------
        VideoError
            As `frames` does.
        """
        self._check(indices)
        height, width = self._size(short_side)
        decoded = self._read_av(indices.tolist())
        for start in range(0, len(indices), count):
            block = indices[start : start + count]
            images = [resize(next(decoded)[None], height, width) for _ in block]
            yield Frames(np.concatenate(images), self.timestamps[block], block)

    def _check(self, wanted: np.ndarray) -> None:
        if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < self.frame_count:
            raise VideoError(
                f"{self.path}: frames {wanted[0]} to {wanted[-1]} asked for, "
                f"it has 0 to {self.frame_count - 1}"
            )

    def _size(self, short_side: int | None) -> tuple[int, int]:
        scale = short_side / min(self.height, self.width) if short_side else 1
        return round(scale * self.height), round(scale * self.width)

    def audio(self) -> np.ndarray:
        """Decode the sound, mixed to mono as openai-whisper's ``load_audio`` does.

        Returns
        -------
        float32 [S] at `SAMPLE_RATE` Hz, in [-1, 1], from 0 s to the end of the sound, which may
        come after the last frame's; S is 0 without an audio stream
        """
        return read_audio(self.path, self._start)

    def audio_blocks(self) -> Iterator[np.ndarray]:
        """What `audio` returns, a block at a time: for sound that is too long to be held."""
        return audio_blocks(self.path, self._start)

    @cached_property
    def _decord(self) -> Any:
        """decord's reader, or None for a file on which decord is not exact.

        decord finds a frame by counting from a key frame. Compared with ffmpeg's own decode its
        count is right in MP4, MOV and Matroska files of closed groups of pictures, and wrong where
        frames stored after a key frame are shown before it (open groups; MPEG-2 and MPEG-4 part 2
        with B-frames), where an edit list hides frames (a video trimmed on a phone) and in
        containers with no index of times (MPEG-TS, AVI, WMV). What else it lacks (mirroring,
        rotation in Matroska, AV1, more than 8 bits) shows in the first frame.
        """
        if not self._plain:
            return None
        try:
            reader = decord.VideoReader(str(self.path.absolute()))
            mine = reader[0].asnumpy()
        except _DECORD_ERRORS:
            return None
        true = next(self._read_av([0])).astype(np.int16)
        exact = mine.shape == true.shape and np.abs(mine - true).mean() < 1
        return reader if exact and len(reader) == self.frame_count else None

    def _read(self, wanted: list[int]) -> Iterator[np.ndarray]:
        """Decode frames `wanted`, ascending."""
        for k, index in enumerate(wanted):
            try:
                image = self._decord[index].asnumpy() if self._decord else None
            except _DECORD_ERRORS:  # damaged data: PyAV reads on behind it, as ffmpeg does
                image = self._decord = None
            if image is None:
                yield from self._read_av(wanted[k:])
                return
            yield image
        if wanted and self._decord:  # or it decodes on to the end of the video (dmlc/decord#157)
            self._decord.seek(0)

    def _read_av(self, wanted: list[int], seek: bool = True) -> Iterator[np.ndarray]:
        """Decode frames `wanted`, ascending, with PyAV, known by their timestamps."""
        seek = seek and self._seekable
        with _opened(self.path) as container:
            stream = _video_stream(container, self.path)
            decoded, position = self._stamped(container, stream), 0
            for k, index in enumerate(wanted):
                key = max(0, bisect_right(self._key_ranks, index) - 1)
                if seek and self._key_ranks and self._key_ranks[key] > position:
                    container.seek(self._key_dts[key], stream=stream)
                    decoded = self._stamped(container, stream)
                position, due = index, self._pts[index]
                pts, frame = next((f for f in decoded if f[0] >= due), (None, None))
                if pts == due:
                    yield _turned(_rgb(frame, *self._stored_size), self._matrix)
                elif seek:  # it led astray, or that key frame was none: decode from the start
                    yield from self._read_av(wanted[k:], seek=False)
                    return
                else:
                    raise VideoError(
                        f"{self.path}: frame {index} (at {self.timestamps[index]:.2f} s) cannot be "
                        "decoded: the file is damaged there"
                    )

    def _stamped(self, container: Any, stream: Any) -> Iterator[tuple[int, Any]]:
        """Decode on, each frame with the time by which it is indexed."""
        for k, frame in enumerate(_decoded(container, stream)):
            if not self._timed and k < self.frame_count:
                yield int(self._pts[k]), frame
            elif self._timed and frame.pts is not None:
                yield frame.pts, frame


def audio_blocks(path: str | Path, start: Fraction = Fraction(0)) -> Iterator[np.ndarray]:
    """Decode the sound of a video or sound file, mixed to mono, a block at a time.

    Parameters
    ----------
    start : seconds in the container at which the sound begins

    Returns
    -------
    iterator of float32 [S] at `SAMPLE_RATE` Hz, in [-1, 1]; of none without an audio stream

    Raises
    ------
    VideoError
        If the file is missing, or damaged.
    """
    for block in _resampled(Path(path), start, SAMPLE_RATE, "s16", "mono"):
        yield block.to_ndarray()[0].astype(np.float32) / 32768


def read_audio(path: str | Path, start: Fraction = Fraction(0)) -> np.ndarray:
    """All that `audio_blocks` gives, float32 [S]; S is 0 without an audio stream."""
    blocks = _progress(audio_blocks(path, start), f"reading sound of {Path(path).name}", "block")
    return np.concatenate([np.zeros(0, np.float32), *blocks])


def sample_indices(frame_count: int, n: int) -> np.ndarray:
    """Choose `n` frames spread evenly: the middles of n equal segments of the video.

    As the official code (Video-ChatGPT's ``get_seq_frames``), except that a clip of no more than
    `n` frames gives each of them once, where the official code repeats some and skips others.

    Parameters
    ----------
    frame_count : frames in the video, at least 1
    n : frames wanted, at least 1

    Returns
    -------
    int64 [min(n, frame_count)], ascending
    """
    if frame_count < 1 or n < 1:
        raise VideoError(f"cannot choose {n} frames of {frame_count}: both must be 1 or more")
    if frame_count <= n:
        return np.arange(frame_count)
    edges = np.round(np.arange(n + 1) * ((frame_count - 1) / n)).astype(np.int64)
    return (edges[:-1] + edges[1:]) // 2


def resize(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize frames with antialiasing (bicubic, within two grey levels of Pillow's).

    Parameters
    ----------
    images : uint8 [T, H, W, 3]
    height, width : pixels

    Returns
    -------
    uint8 [T, height, width, 3]
    """
    if images.shape[1:3] == (height, width):
        return images
    planes = torch.from_numpy(np.require(images, requirements=["C", "W"])).permute(0, 3, 1, 2)
    resized = F.interpolate(planes, size=(height, width), mode="bicubic", antialias=True)
    return resized.permute(0, 2, 3, 1).contiguous().numpy()


def write_video(
    path: str | os.PathLike[str],
    images: Iterable[np.ndarray],
    fps: float,
    audio_from: str | os.PathLike[str] | None = None,
) -> None:
    """Write frames as an H.264 MP4 that browsers play.

    An odd width or height is padded by repeating the last column or row, as 4:2:0 colour needs
    even ones. The file appears under its name when it is complete, or not at all.

    Parameters
    ----------
    path : file to write, ``.mp4``
    images : uint8 [H, W, 3] each, RGB, all of one size; taken one at a time
    fps : frames per second, may be fractional
    audio_from : file whose sound to keep, all of it, as AAC; its first frame's moment, if it is a
        video, becomes that of the first frame written; a file without sound gives a silent video

    Raises
    ------
    VideoError
        If there are no frames, they differ in size, or the file cannot be written.
    """
    path = Path(path)
    if not fps > 0:
        raise VideoError(f"{path}: fps must be more than 0, not {fps}")
    if not path.parent.is_dir():
        raise VideoError(f"{path}: there is no folder {path.parent} to write it in")
    rate = Fraction(fps).limit_denominator(100_000)
    try:
        with (
            whole(path) as part,
            av.open(str(part), "w", "mp4", options={"movflags": "+faststart"}) as out,
        ):
            _encode(out, path, iter(images), rate, audio_from)
    except av.FFmpegError as error:
        raise VideoError(f"{path}: cannot be written: {error.strerror}") from error


def _encode(
    out: Any,
    path: Path,
    images: Iterator[np.ndarray],
    rate: Fraction,
    audio_from: str | os.PathLike[str] | None,
) -> None:
    first = next(images, None)
    if first is None:
        raise VideoError(f"{path}: there are no frames to write")
    height, width = first.shape[:2]
    # The same frames give the same bytes on any machine: x264's depend on its number of threads,
    # and its macroblock tree reads memory that it has not set.
    options = {"crf": "18", "preset": "veryfast", "mbtree": "0", "threads": "2"}
    video = out.add_stream("libx264", rate=rate, options=options)
    video.width, video.height, video.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
    # Said in the file, or players guess from the picture's size how to turn it into RGB again.
    context = video.codec_context
    context.colorspace = context.color_primaries = context.color_trc = Colorspace.ITU709.value
    context.color_range = ColorRange.MPEG.value

    def pictures() -> Iterator[av.VideoFrame]:
        every = _progress(chain([first], images), f"writing {path.name}", "frame")
        for number, image in enumerate(every):
            if image.dtype != np.uint8 or image.shape != (height, width, 3):
                raise VideoError(
                    f"{path}: frame {number} is {image.dtype} {list(image.shape)}, "
                    f"not uint8 [{height}, {width}, 3] as the first"
                )
            even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
            frame = av.VideoFrame.from_ndarray(even).reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            frame.pts, frame.time_base = number, 1 / rate
            yield frame

    streams: dict[type, Any] = {av.VideoFrame: video}
    sound: Iterator[Any] = iter(())
    if audio_from is not None:
        with _opened(Path(audio_from)) as source:
            heard: Any = source.streams.best("audio")
            seen: Any = source.streams.best("video")
            start = Fraction((seen.start_time or 0) * seen.time_base if seen else 0)
            if heard is not None:
                layout = "mono" if heard.channels == 1 else "stereo"
                streams[av.AudioFrame] = out.add_stream("aac", rate=AAC_RATE, layout=layout)
                sound = _resampled(Path(audio_from), start, AAC_RATE, "fltp", layout)
    for frame in heapq.merge(pictures(), sound, key=lambda frame: frame.time):
        out.mux(streams[type(frame)].encode(frame))
    for stream in streams.values():
        out.mux(stream.encode())


def _resampled(
    path: Path, start: Fraction, rate: int, sample_format: str, layout: str
) -> Iterator[Any]:
    """Decode the sound from `start` (seconds in the container): gaps silent, what is before cut."""
    with _opened(path) as container:
        stream: Any = container.streams.best("audio")
        if stream is None:
            return
        graph = None
        for frame in chain(_decoded(container, stream), [None]):  # None: no more to come
            if frame is not None and graph is None:  # only now is it known what the decoder gives
                graph = _graph(
                    abuffer=f"sample_rate={frame.sample_rate}:sample_fmt={frame.format.name}:"
                    f"channel_layout={frame.layout.name}:time_base={stream.time_base}",
                    aresample=f"{rate}:async=1:first_pts=0",
                    aformat=f"sample_fmts={sample_format}:channel_layouts={layout}",
                    asetnsamples="n=1024:p=0",  # what an AAC frame holds
                    abuffersink="",
                )
            if frame is not None and frame.pts is not None:
                frame.pts -= round(start / stream.time_base)
            if graph is not None:
                graph.push(frame)
                yield from _pulled(graph)


def _rgb(frame: Any, width: int, height: int) -> np.ndarray:
    """Convert by the filters that ffmpeg and decord use, for the same colours to the last bit."""
    graph = _graph(
        buffer=f"width={frame.width}:height={frame.height}:pix_fmt={frame.format.name}:"
        f"time_base={frame.time_base}",
        scale=f"{width}:{height}",
        format="rgb24",
        buffersink="",
    )
    graph.push(frame)
    return graph.pull().to_ndarray()


def _display_matrix(frame: Any) -> list[list[int]]:
    """How the file wants its pictures turned and mirrored: (x, y) becomes (x, y) @ matrix."""
    for side in frame.side_data:
        if side.type == Type.DISPLAYMATRIX:  # 16.16 fixed-point numbers
            fixed = np.frombuffer(side, np.int32).reshape(3, 3)[:2, :2]
            return np.round(fixed / 65536).astype(int).tolist()
    return [[1, 0], [0, 1]]


def _turned(image: np.ndarray, matrix: list[list[int]]) -> np.ndarray:
    (across, down), (down_across, down_down) = matrix
    if across == 0:
        return image.swapaxes(0, 1)[:: down or 1, :: down_across or 1]
    return image[:: down_down or 1, ::across]


def _graph(**steps: str) -> av.filter.Graph:
    graph = av.filter.Graph()
    graph.link_nodes(*(graph.add(name, options) for name, options in steps.items())).configure()
    return graph


def _pulled(graph: av.filter.Graph) -> Iterator[Any]:
    while True:
        try:
            yield graph.pull()
        except (av.BlockingIOError, av.EOFError):  # more has to be pushed first, or all is out
            return


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.InvalidDataError:  # one damaged packet; ffmpeg, too, goes on to the next
            continue
        yield from frames


def _video_stream(container: Any, path: Path) -> Any:
    stream = container.streams.best("video")
    if stream is None or stream.disposition & Disposition.attached_pic:  # a song's cover
        raise VideoError(f"{path}: there is no video in it, only sound or data")
    stream.thread_type = "AUTO"
    return stream


def check_file(path: Path) -> None:
    """Raise a VideoError, which says what to do, unless there is a file with something in it."""
    if not path.exists():
        raise VideoError(f"{path}: there is no such file")
    if path.is_dir():
        raise VideoError(f"{path}: is a folder; give the path of a video file")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: is empty (0 bytes); copy or download it again")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a media file; whatever FFmpeg finds wrong with it becomes a VideoError."""
    check_file(path)
    try:  # absolute, lest "a:b.mp4" be taken for a protocol; tags need not be UTF-8
        with av.open(str(path.absolute()), metadata_errors="ignore") as container:
            yield container
    except av.FFmpegError as error:
        raise VideoError(
            f"{path}: cannot be read as a video or sound ({error.strerror}); it is of another "
            "kind, or cut short, as by a broken download"
        ) from error


def _progress(items: Iterable[Any], what: str, unit: str) -> Any:
    return tqdm(items, desc=what, unit=unit, delay=2, leave=False)
