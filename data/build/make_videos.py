"""Make the toyworld clips of data/videos: `make videos` (needs espeak-ng).

Beside each NAME.mp4 lies NAME.json: the arguments that make the clip again, what is said in it,
its captions, the first frames of its later shots, and its truth as processed VidSTG (boxes [x, y,
width, height], ends exclusive) and as VideoInstruct items.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from pgvl_core.assets import DATA
from pgvl_core.toyworld import make_clip
from pgvl_core.toyworld_formats import video_instruct, vidstg
from pgvl_core.video import write_video

sys.path.insert(0, str(Path(__file__).parent))
from sounds import LEVEL, RATE, band, bed, loud, noise, say, write_opus

SIZE = {"height": 240, "width": 320, "frames": 96, "fps": 16}
CLIPS: dict[str, dict[str, Any]] = {
    "crossing": {"seed": 8, "objects": ["elephant"], "motions": ["right"]},
    "look-alikes": {"seed": 24, "objects": ["duck", "duck"], "motions": ["right", "still"],
                    "shots": 1, "occlusion": False},
    "occlusion": {"seed": 20, "objects": ["car", "elephant"], "motions": ["right", "still"],
                  "occlusion": True},
    "in-order": {"seed": 1, "objects": ["dog", "airplane", "teddy bear", "strawberry"],
                 "motions": ["approach", "left", "right", "bounce"], "shots": 4},
    "five": {"seed": 15, "split": "compositions", "objects": 5, "shots": 1},
    "drawings": {"seed": 18, "split": "style", "objects": 3, "shots": 1},
}  # fmt: skip


@dataclass(frozen=True)
class Sound:
    """A narrator's voice and words, and what is heard below: so many decibels weaker."""

    text: str
    voice: str = "en-us"
    music: float | None = None
    noise: float | None = None


SOUNDS = {
    "crossing": Sound("The elephant is called Coco. It belongs to Anna."),
    "look-alikes": Sound("", music=0),  # and nobody speaks
    "occlusion": Sound("The car costs thirty dollars. The elephant is lost.", "en-gb+f2", music=12),
    "in-order": Sound(
        "The dog is called Rocky. The airplane belongs to Peter. The teddy bear costs a dollar.",
        "en-us+f3",
    ),
    "five": Sound("Hello and welcome. And there you can see the whale.", "en-gb-x-rp", noise=10),
    "drawings": Sound("Look at this. I could watch this all day.", "en-gb-scotland+m3"),
}


def sound_track(sound: Sound, seconds: float) -> np.ndarray:
    """Samples of a clip's sound, as long as the clip."""
    rng = np.random.default_rng(0)
    samples = round(seconds * RATE)
    track = np.zeros(samples)
    if sound.text:
        speech = loud(say(sound.text, sound.voice, speed=170))
        begin = RATE // 4
        if len(speech) + begin > samples:
            raise SystemExit(f"{sound.text!r} takes longer than the clip")
        track[begin : begin + len(speech)] += speech
    for decibels, make in ((sound.music, band), (sound.noise, noise)):
        if decibels is not None:
            track += bed(make, samples, rng) * 10 ** (-decibels / 20)
    return np.clip(LEVEL * track, -1, 1).astype(np.float32)


def main() -> None:
    folder = DATA / "videos"
    folder.mkdir(exist_ok=True)
    for name, arguments in tqdm(CLIPS.items(), desc="clips"):
        arguments = {**arguments, **SIZE}
        clip = replace(make_clip(**arguments), name=name)
        videos, trajectories = vidstg(clip)
        record = {
            "make_clip": arguments,
            "said": SOUNDS[name].text,
            "captions": clip.captions,
            "cuts": clip.cuts,
            "vidstg": {"videos": videos, "trajectories": {name: trajectories}},
            "video_instruct": video_instruct(clip),
        }
        with tempfile.TemporaryDirectory() as other:
            sound = Path(other) / "sound.ogg"
            write_opus(sound, sound_track(SOUNDS[name], len(clip.frames) / clip.fps))
            write_video(folder / f"{name}.mp4", clip.frames, clip.fps, audio_from=sound)
        (folder / f"{name}.json").write_text(json.dumps(record) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
