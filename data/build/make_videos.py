"""Make the toyworld clips of data/videos: `make videos`.

Beside each NAME.mp4 lies NAME.json: the arguments that make the clip again, its captions, the first
frames of its later shots, and its truth as processed VidSTG (boxes [x, y, width, height], ends
exclusive) and as VideoInstruct items.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from tqdm.auto import tqdm

from pgvl_core.assets import DATA
from pgvl_core.toyworld import make_clip
from pgvl_core.toyworld_formats import video_instruct, vidstg
from pgvl_core.video import write_video

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


def main() -> None:
    folder = DATA / "videos"
    folder.mkdir(exist_ok=True)
    for name, arguments in tqdm(CLIPS.items(), desc="clips"):
        arguments = {**arguments, **SIZE}
        clip = replace(make_clip(**arguments), name=name)
        videos, trajectories = vidstg(clip)
        record = {
            "make_clip": arguments,
            "captions": clip.captions,
            "cuts": clip.cuts,
            "vidstg": {"videos": videos, "trajectories": {name: trajectories}},
            "video_instruct": video_instruct(clip),
        }
        write_video(folder / f"{name}.mp4", clip.frames, clip.fps)
        (folder / f"{name}.json").write_text(json.dumps(record) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
