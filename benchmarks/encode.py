"""Sample, encode and pool a video: the workbook's way against the plain way, in one run.

The plain way is what the official code does, with the same weights: decord reads the sampled frames
at once, every frame becomes a PIL image, a processor resizes and normalises each, the model takes
all in one batch, and NumPy pools. Each run is a process of its own, so that peak memory is its own;
runs of the two ways alternate, and medians are reported. Model loading is not timed.

    python benchmarks/encode.py             # 10 s, 1 min, 10 min and 1 h of bikes.mp4
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import decord
import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from pgvl_core import assets
from pgvl_core.encoder import LiteCLIPEncoder
from pgvl_core.lite import clip
from pgvl_core.pooling import pool
from pgvl_core.video import Video, sample_indices
from pgvl_core.workbook import peak_ram_mb, table

FRAMES = 100
REPEATS = 3
LENGTHS = {"10 s": 1, "1 min": 6, "10 min": 60, "1 h": 360}  # copies of bikes.mp4, 10 s each


def ours(encoder: LiteCLIPEncoder, path: Path) -> torch.Tensor:
    """Frames as they are needed, chunks as the processor's cache likes them."""
    frames = Video(path).sample(FRAMES)
    return pool(encoder.encode(frames.images), temporal_tokens=FRAMES)


def plain(encoder: LiteCLIPEncoder, path: Path) -> torch.Tensor:
    """decord -> list of PIL images -> processor -> one batch -> the official pooling formula."""
    reader = decord.VideoReader(str(path), ctx=decord.cpu(0))
    images = reader.get_batch(sample_indices(len(reader), FRAMES)).asnumpy()
    pictures = [Image.fromarray(image) for image in images]
    rows, columns = encoder.grid(*images.shape[1:3])
    arrays = [
        np.asarray(p.resize((columns * 32, rows * 32), Image.Resampling.BICUBIC)) for p in pictures
    ]
    pixels = torch.stack(
        [torch.from_numpy((array.astype(np.float32) - 127) / 128) for array in arrays]
    )
    with torch.inference_mode():
        maps = encoder.trunk.forward_features(pixels.permute(0, 3, 1, 2).contiguous())
    features = maps.flatten(2).transpose(1, 2).numpy()
    temporal = np.mean(features, axis=1)
    temporal = np.concatenate([temporal, np.zeros((FRAMES - len(temporal), features.shape[2]))])
    return torch.from_numpy(np.concatenate([temporal, np.mean(features, axis=0)])).float()


WAYS: dict[str, Callable[[LiteCLIPEncoder, Path], torch.Tensor]] = {"ours": ours, "plain": plain}


def repeat_video(source: Path, copies: int, target: Path) -> None:
    """Write `copies` of a video one after the other, packets copied, nothing encoded again."""
    with av.open(str(target), "w") as out, av.open(str(source)) as first:
        stream = out.add_stream_from_template(first.streams.video[0])
        shift = 0
        for _ in range(copies):
            with av.open(str(source)) as container:
                video = container.streams.video[0]
                end = 0
                for packet in container.demux(video):
                    if packet.dts is None or packet.pts is None:
                        continue
                    end = max(end, packet.pts + (packet.duration or 0))
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = stream
                    out.mux(packet)
                shift += end


def child(way: str, path: Path) -> None:
    """One timed run; prints seconds, peak memory and how memory stood before it."""
    encoder = LiteCLIPEncoder()
    if way == "plain":  # timm's network as it comes: its layers, PyTorch's default layout
        encoder.trunk = clip.published_trunk()
    encoder.encode(np.zeros((4, 272, 640, 3), np.uint8))  # warm-up: imports, oneDNN's kernels
    start = time.perf_counter()
    tokens = WAYS[way](encoder, path)
    seconds = time.perf_counter() - start
    print(
        json.dumps({"seconds": seconds, "ram": peak_ram_mb(), "mean": tokens.abs().mean().item()})
    )


def run(way: str, path: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--way", way, "--video", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--video", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        child(arguments.way, arguments.video)
        return

    source = assets.sample_video("bikes")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for length, copies in LENGTHS.items():
            path = Path(folder) / f"{copies}.mp4"
            repeat_video(source, copies, path)
            runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
            for _ in tqdm(range(REPEATS), desc=length):
                for way in WAYS:
                    runs[way].append(run(way, path))
            middle = {
                (way, key): statistics.median(result[key] for result in runs[way])
                for way in WAYS
                for key in ("seconds", "ram", "mean")
            }
            same = abs(middle["ours", "mean"] / middle["plain", "mean"] - 1)
            rows.append(
                {
                    "video": length,
                    "ours (s)": middle["ours", "seconds"],
                    "plain (s)": middle["plain", "seconds"],
                    "plain / ours": middle["plain", "seconds"] / middle["ours", "seconds"],
                    "ours (MB peak)": middle["ours", "ram"],
                    "plain (MB peak)": middle["plain", "ram"],
                    "tokens differ by": f"{same:.2%}",
                }
            )
    print(table(rows))


if __name__ == "__main__":
    main()
