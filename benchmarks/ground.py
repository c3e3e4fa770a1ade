"""Ground an answer in longer and longer videos: seconds for each second of video, and memory.

Nothing is compared: what is asked is whether both stay as they are. The video is the same ten
seconds of a street again and again, with a cut between. Each run is a process of its own, so that
peak memory is its own. Model loading is not timed.

    python benchmarks/ground.py             # 10 s to 10 min of bikes.mp4
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from encode import repeat_video
from tqdm.auto import tqdm

from pgvl_core import assets, profiles
from pgvl_core.workbook import peak_ram_mb, table

LENGTHS = {"10 s": 1, "1 min": 6, "3 min": 18, "10 min": 60}  # copies of bikes.mp4, 10 s each
ANSWER = "People are riding bicycles past parked cars."


def one_run(path: Path) -> None:
    """Ground the answer in one video, in a process of its own; print what it took as JSON."""
    grounder = profiles.grounder("pocket")
    start = time.perf_counter()
    answer = grounder.ground(path, ANSWER)
    taken = {"seconds": time.perf_counter() - start, "peak": peak_ram_mb()}
    print(json.dumps(taken | {"frames": len(answer.frames), "tracks": len(answer.tracks)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    path = parser.parse_args().run
    if path:
        one_run(path)
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for length, copies in tqdm(LENGTHS.items()):
            path = Path(folder) / f"{copies}.mp4"
            repeat_video(assets.sample_video("bikes"), copies, path)
            command = [sys.executable, __file__, "--run", str(path)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            taken = json.loads(done.stdout.splitlines()[-1])
            rows.append(
                {
                    "video": length,
                    "frames": taken["frames"],
                    "tracks": taken["tracks"],
                    "s": taken["seconds"],
                    "s for a second": taken["seconds"] / (10 * copies),
                    "MB peak": taken["peak"],
                }
            )
    print(table(rows))


if __name__ == "__main__":
    main()
