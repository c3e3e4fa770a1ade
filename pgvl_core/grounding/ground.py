"""Grounding: from an answer about a video to the things in it that the answer names.

The steps of the paper's section 3.4, each in a file of its own: shots, tags, detection,
segmentation, tracking, and at last the match of the answer's phrases with the tracks. What is in a
video does not depend on what is said of it, so it is looked for once (`Grounder.scene`) and asked
about again and again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from segment_anything import SamPredictor
from tqdm.auto import tqdm

from ..encoder import FrameEncoder, LiteCLIPEncoder
from ..evaluation.samples import RATE, schedule
from ..lite import clip
from ..video import Frames, Video
from .answer import GroundedAnswer
from .detect import Detector
from .match import gist, match
from .memory import Carrier, Memory
from .phrases import Phrase, noun_phrases
from .shots import Shot, find_shots
from .tags import Tagger, tag, tag_list
from .track import Track, follow, join

SHORT_SIDE = 480  # pixels: larger videos are looked at so
TAGS = 8  # of a shot; the detector is asked for these, for people, and for whatever else there is
ALWAYS = ("object", "person")


@dataclass(frozen=True, eq=False)
class Scene:
    """What there is in a video, before anything is said of it; as `GroundedAnswer` has it."""

    video: Path
    width: int
    height: int
    size: tuple[int, int]
    frames: np.ndarray
    times: np.ndarray
    shots: list[Shot]
    tags: list[list[str]]
    tracks: list[Track]
    seconds: dict[str, float]


class Grounder:
    """The grounding module.

    Parameters
    ----------
    encoder : FrameEncoder
        With words; it names tracks.
    detector : Detector
    predictor : SamPredictor
        From `segment.load_segmenter`.
    carrier : callable
        Gives what carries masks through a shot, a fresh one for each; see `sam2.load_carrier`.
    phrases : callable
        Gives the noun phrases of an answer; see `phrases.llm_phrases`.
    tagger : callable
        Gives the tags of a shot; see `ram.load`. If None, the encoder does, over `tags.tag_list`.
    """

    def __init__(
        self,
        encoder: FrameEncoder,
        detector: Detector,
        predictor: SamPredictor,
        carrier: Callable[[], Carrier] = Memory,
        phrases: Callable[[str], Sequence[Phrase]] = noun_phrases,
        tagger: Tagger | None = None,
    ) -> None:
        self.encoder, self.detector, self.predictor = encoder, detector, predictor
        self.carrier, self.phrases = carrier, phrases
        self.tagger = tagger or (
            lambda images, top: tag(encoder, encoder.encode(images), tag_list(), top)
        )
        # What masks are carried by, in every profile: CLIP's patches are too large for it.
        self.trunk = encoder.trunk if isinstance(encoder, LiteCLIPEncoder) else clip.load_trunk()
        self._scene: tuple[object, Scene] | None = None

    def ground(
        self,
        video: str | Path | Video,
        text: str,
        question: str = "",
        transcript: str = "",
        moment: tuple[int, int] | None = None,
    ) -> GroundedAnswer:
        """The things in a video that an answer names.

        Parameters
        ----------
        video : path or Video
        text : str
            An answer, or any English that names things.
        question : str
            What it answers.
        transcript : str
            What is said in the video; it is kept with the answer.
        moment : (begin, end)
            Frames of the video, half-open, that the text speaks of; all if None. What is not seen
            then cannot be meant (spatial grounding: section 4 of the paper gives the moment).

        Raises
        ------
        VideoError
            When the video cannot be read.
        ValueError
            When there is no text.
        """
        if not text.strip():
            raise ValueError("there is no answer to ground")
        scene = self.scene(video)
        begin = time.perf_counter()
        tracks = scene.tracks
        if moment is not None:
            tracks = [part for track in tracks if (part := track.within(*moment)).frames]
        phrases = self.phrases(text)
        spans, target = match(self.encoder, text, tracks, scene.size, question, phrases)
        return GroundedAnswer(
            text=text,
            question=question,
            transcript=transcript,
            spans=spans,
            target=target,
            video=scene.video,
            width=scene.width,
            height=scene.height,
            size=scene.size,
            frames=scene.frames,
            times=scene.times,
            shots=scene.shots,
            tags=scene.tags,
            tracks=tracks,
            seconds={**scene.seconds, "match": time.perf_counter() - begin},
        )

    def scene(self, video: str | Path | Video) -> Scene:
        """What there is in a video; the last one is remembered.

        Five frames a second are looked at, as the paper's evaluation does; for a minute of video
        that is 300, read and followed one after the other, so memory stays as it is.
        """
        video = video if isinstance(video, Video) else Video(video)
        key = video.path.resolve(), video.path.stat().st_mtime_ns
        if self._scene is None or self._scene[0] != key:
            self._scene = key, self._look(video)
        return self._scene[1]

    def _look(self, video: Video) -> Scene:
        seconds: dict[str, float] = {}
        clock = _Clock(seconds)
        short = min(SHORT_SIDE, video.height, video.width)
        count = video.frame_count
        with tqdm(total=count, desc="shots", unit="frame", delay=2, leave=False) as bar:
            blocks = _told(video.blocks(np.arange(count), short_side=128), bar)
            shots = find_shots(blocks, video.fps)
        clock("shots")
        frames = schedule(0, count, video.fps, RATE, most=count)
        tags: list[list[str]] = []
        tracks: list[Track] = []
        bar = tqdm(total=len(frames), desc="following", unit="frame", delay=2, leave=False)
        for shot in shots:
            own = frames[(frames >= shot.start) & (frames < shot.end)]
            if not len(own):  # a shot shorter than a fifth of a second
                own = np.array([shot.start])
                frames = np.sort(np.append(frames, shot.start))
            middle = own[np.unique(np.linspace(0, len(own) - 1, 5).astype(int)[1:4])]
            tagged = self.tagger(video.frames(middle, short).images, TAGS)
            tags.append([name for name, _ in tagged])
            clock("tags")
            queries = list(dict.fromkeys([*ALWAYS, *tags[-1]]))
            images = _numbered(video, own, short, bar)
            join(
                tracks,
                follow(images, self.detector, self.predictor, self.trunk, queries, self.carrier),
            )
            clock("tracks")
        bar.close()
        for track in tracks:  # here and not in `match`, which every answer goes through
            track.gist = gist(self.encoder, track.views)
        clock("tracks")
        first = video.frames(frames[:1], short).images
        size = (first.shape[2], first.shape[1])
        return Scene(
            video=video.path,
            width=video.width,
            height=video.height,
            size=size,
            frames=frames,
            times=video.timestamps[frames],
            shots=shots,
            tags=tags,
            tracks=tracks,
            seconds=seconds,
        )


def _told(blocks: Iterator[Frames], bar: tqdm) -> Iterator[Frames]:
    """Blocks of frames, one after the other, each told to a progress bar."""
    for block in blocks:
        yield block
        bar.update(len(block.indices))


def _numbered(
    video: Video, frames: np.ndarray, short_side: int, bar: tqdm
) -> Iterator[tuple[int, np.ndarray]]:
    """Frames of a video with their numbers, one after the other, each told to a progress bar."""
    for block in video.blocks(frames, short_side):
        for number, image in zip(block.indices.tolist(), block.images, strict=True):
            yield number, image
            bar.update()


class _Clock:
    """Adds up the seconds of stages: each call ends one."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds, self.last = seconds, time.perf_counter()

    def __call__(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.last
        self.last = now
