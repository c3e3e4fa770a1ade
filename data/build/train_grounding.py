"""Train LiteSAM and LiteDetector (`make weights`): sam and detector of data/weights.

In two stages: on composites (`composites`) before toyworld's few backgrounds, and from there on
others, most of them before `scenery`; LiteDetector has a third, on others again. Both models read
the frozen trunk, so its features are computed once, for 13,000 composites, and kept in
build/grounding in half precision: 22 GB, deleted by hand. A run that was stopped goes on from its
last checkpoint; a step's choices depend on the step alone, so it goes on as it would have.

On two cores the parts are done side by side with OMP_NUM_THREADS=1: `--part 0/2` and `--part 1/2`
(30 minutes), then `--model sam` (200 minutes) and `--model detector` (215).

At the end both are measured on frames of toyworld's held-out splits: "compositions" (categories
that were trained on, other backgrounds) and "unseen" (categories that were not).

Seed 0.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import scenery
import torch
from composites import picture
from safetensors import safe_open
from safetensors.torch import load_file
from segment_anything.modeling import Sam
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.functional import interpolate, max_pool2d, mse_loss
from torchvision.ops import box_iou, generalized_box_iou_loss
from tqdm.auto import tqdm

from pgvl_core import assets, files, toyworld, train
from pgvl_core.encoder import LiteCLIPEncoder
from pgvl_core.evaluation.intervals import wilson
from pgvl_core.grounding import parts
from pgvl_core.grounding.detect import LiteGrounder
from pgvl_core.grounding.segment import load_segmenter
from pgvl_core.lite import clip, detector, sam

SEED = 0
SIDE, FINEST = sam.SIDE, sam.SIDE // 2  # truth is kept at half the square's side: 256
FOLDER = assets.DATA.parent / "build" / "grounding"
IMAGES, PROMPTS = 6, 6  # a step of LiteSAM: 6 pictures, 6 things of each
BOX_IMAGES = 16  # a step of LiteDetector


@dataclass(frozen=True)
class Stage:
    seeds: range  # of composites
    scenery: bool  # are most of them before `scenery`?
    steps: dict[str, int]
    rate: dict[str, float]


STAGES = {
    "first": Stage(
        range(5000), False, {"sam": 2600, "detector": 1500}, {"sam": 6e-4, "detector": 1.5e-3}
    ),
    "second": Stage(
        range(100_000, 104_000),
        True,
        {"sam": 1000, "detector": 1200},
        {"sam": 4e-4, "detector": 8e-4},
    ),
    "third": Stage(range(200_000, 204_000), True, {"detector": 1300}, {"detector": 5e-4}),
}


# ------------------------------------------------------------------------------------ the features
def keep(file: Path, trunk: nn.Module, seed: int, pictures: Sequence[np.ndarray]) -> None:
    """Write a composite's features and truth, in the square that the models see."""
    made = picture(np.random.default_rng([SEED, seed]), pictures)
    levels = clip.trunk_levels(trunk, detector.fit(made.image))  # type: ignore[arg-type]
    height, width = made.image.shape[:2]
    scale = SIDE / max(height, width)
    masks = np.zeros((len(made.masks), FINEST, FINEST), bool)
    rows, columns = (min(FINEST, round(n * scale / 2)) for n in (height, width))
    for mask, small in zip(made.masks, masks, strict=True):
        size = cv2.INTER_AREA if scale < 2 else cv2.INTER_LINEAR
        part = cv2.resize(mask.astype(np.float32), (columns, rows), interpolation=size)
        small[:rows, :columns] = part >= 0.5
    tensors = {
        f"level{stride}": level[0].half() for stride, level in zip(clip.LEVELS, levels, strict=True)
    }
    tensors["masks"] = torch.from_numpy(np.packbits(masks, axis=-1))
    tensors["boxes"] = torch.from_numpy((made.boxes * scale).astype(np.float32))
    train.write_tensors(file, tensors)


class Kept:
    """Composites whose features were written."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.files = [FOLDER / "pictures" / f"{seed}.safetensors" for seed in seeds]

    def read(self, index: int, *names: str) -> list[torch.Tensor]:
        with safe_open(self.files[index], "pt") as found:
            tensors = [found.get_tensor(name) for name in names]
        return [each.float() if each.is_floating_point() else each for each in tensors]

    def levels(self, indices: np.ndarray, strides: tuple[int, ...]) -> list[torch.Tensor]:
        """Levels ``[B, C, h, w]`` of several composites, at each stride."""
        names = [f"level{stride}" for stride in strides]
        read = [self.read(i, *names) for i in indices]
        return [torch.stack(level) for level in zip(*read, strict=True)]


# ------------------------------------------------------------------------------------------ LiteSAM
def jitter(rng: np.random.Generator, boxes: torch.Tensor) -> torch.Tensor:
    """Boxes as a detector gives them: half of them true to the pixel, half off by up to a tenth."""
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    off = torch.from_numpy(rng.normal(0, 0.05, boxes.shape)).float().clamp(-0.1, 0.1)
    rough = torch.from_numpy(rng.random((len(boxes), 1)) < 0.5)
    moved = boxes + torch.where(rough, off * sides, off.sign())
    return moved.clamp(0, SIDE)


def click(rng: np.random.Generator, mask: torch.Tensor, count: int) -> torch.Tensor:
    """`count` random points (x, y) on a mask of `FINEST` pixels, in pixels of the square."""
    where = mask.nonzero()
    drawn = where[torch.from_numpy(rng.integers(len(where), size=count))]
    return 2 * drawn.flip(1).float() + 1


def smeared(rng: np.random.Generator, masks: torch.Tensor) -> torch.Tensor:
    """Masks ``[N, 256, 256]`` as a tracker has them: astray, blocky logits ``[N, 1, 128, 128]``."""
    cells = int(rng.integers(24, 80))
    rough = interpolate(masks[:, None].float(), size=(cells, cells), mode="area")
    rough = interpolate(rough, size=(SIDE // 4, SIDE // 4), mode="bilinear")
    astray = [int(n) for n in rng.integers(-3, 4, 2)]
    return rng.uniform(4, 16) * (torch.roll(rough, astray, dims=(2, 3)) - rng.uniform(0.3, 0.6))


def grown(masks: torch.Tensor) -> torch.Tensor:
    """Masks ``[N, H, W]``, of 0 and 1, and what is within 12 pixels of them."""
    return max_pool2d(max_pool2d(masks, (25, 1), 1, (12, 0)), (1, 25), 1, (0, 12))


def mask_losses(logits: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How wrong masks are, and their IoU with the truth, each ``[N, M]``.

    Cross-entropy is averaged over the thing's own surroundings, so that a small thing counts as
    much as a large one; dice, which is close to what is measured, minds the rest of the picture.

    Parameters
    ----------
    logits : Tensor ``[N, M, h, w]``
        M masks for each thing. They are drawn at the truth's size, as they are when they are used.
    masks : bool Tensor ``[N, H, W]``
    """
    logits = interpolate(logits, size=masks.shape[-2:], mode="bilinear")
    truth = masks[:, None].float().expand_as(logits)
    near = grown(masks.float())[:, None].clamp(min=0.05).expand_as(logits)
    entropy = (near * bce(logits, truth, reduction="none")).sum((2, 3)) / near.sum((2, 3))
    chance = logits.sigmoid()
    both, either = (chance * truth).sum((2, 3)), (chance + truth).sum((2, 3))
    dice = 1 - (2 * both + 1) / (either + 1)
    drawn = logits > 0
    union = (drawn | masks[:, None]).sum((2, 3)).clamp(min=1)
    return entropy + dice, (drawn & masks[:, None]).sum((2, 3)) / union


def sam_loss(model: Sam, kept: Kept, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """The loss of one step: `IMAGES` composites, `PROMPTS` things of each, boxes or points.

    The first mask answers all prompts; of the other three, which `SamPredictor` gives by default,
    the best learns (SAM's paper, section 3).
    """
    indices = rng.choice(len(kept.files), IMAGES, replace=False)
    levels = kept.levels(indices, tuple(clip.LEVELS))
    with half():
        embeddings = model.image_encoder.neck(levels)  # type: ignore[operator, union-attr]
    places = model.prompt_encoder.get_dense_pe()
    losses, guesses, reached = [], [], []
    for index, embedding in zip(indices, embeddings, strict=True):
        packed, boxes = kept.read(index, "masks", "boxes")
        masks = torch.from_numpy(np.unpackbits(packed.numpy(), axis=-1)).bool()
        things = torch.from_numpy(rng.integers(len(masks), size=PROMPTS))
        things = things[masks[things].any(dim=2).any(dim=1)]
        if not len(things):  # too thin to be seen at this size
            continue
        masks, boxes = masks[things], boxes[things]
        points = rough = None
        kind = rng.choice(["box", "points", "mask"], p=[0.65, 0.2, 0.15])
        if kind == "points":
            count = int(rng.integers(1, 4))
            clicks = torch.stack([click(rng, mask, count) for mask in masks])
            labels = torch.ones(clicks.shape[:2], dtype=torch.int)
            beside = grown(masks.float()).bool() & ~masks
            if rng.random() < 0.4 and beside.flatten(1).any(dim=1).all():  # and one beside it
                clicks = torch.cat([clicks, torch.stack([click(rng, m, 1) for m in beside])], 1)
                labels = torch.cat([labels, torch.zeros(len(labels), 1, dtype=torch.int)], 1)
            points = clicks, labels
        elif kind == "mask":
            rough = smeared(rng, masks)
        # In full precision: half precision would lose where in the picture a prompt is.
        sparse, dense = model.prompt_encoder(
            points, None if kind == "points" else jitter(rng, boxes), rough
        )
        with half():
            logits, guess = model.mask_decoder.predict_masks(
                embedding[None].float(),
                image_pe=places,
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
            )
        loss, iou = mask_losses(logits.float(), masks)
        losses.append(loss[:, 0] + loss[:, 1:].amin(dim=1))
        guesses.append(mse_loss(guess.float(), iou))
        reached.append(iou[:, 0])
    return {
        "loss": torch.cat(losses).mean() + torch.stack(guesses).mean(),
        "iou": torch.cat(reached).mean(),
    }


# ------------------------------------------------------------------------------------- LiteDetector
RANGES = {8: (0, 80), 16: (48, 200), 32: (128, 10_000)}  # longest side that a stride answers for


def assign(boxes: torch.Tensor) -> torch.Tensor:
    """Which thing each cell of the square answers for, or -1: int64 ``[cells]``.

    Cells within a stride and a half of a thing's middle and in its box, at the strides that answer
    for its size; the smaller thing where two claim a cell (FCOS, section 3; centre sampling).
    """
    owners = []
    sides = boxes[:, 2:] - boxes[:, :2]
    middles, areas = (boxes[:, :2] + boxes[:, 2:]) / 2, sides.prod(dim=1)
    for stride, (least, most) in RANGES.items():
        cells = detector.cell_centres(SIDE // stride, SIDE // stride, stride)[:, None]
        near = ((cells - middles).abs() <= 1.5 * stride).all(dim=2)
        inside = ((cells > boxes[:, :2]) & (cells < boxes[:, 2:])).all(dim=2)
        longest = sides.amax(dim=1)
        claims = near & inside & (longest >= least) & (longest < most)
        cost = torch.where(claims, areas.expand_as(claims), torch.inf)
        smallest, owner = cost.min(dim=1)
        owners.append(torch.where(smallest < torch.inf, owner, -1))
    return torch.cat(owners)


def box_loss(
    head: detector.BoxHead, kept: Kept, rng: np.random.Generator
) -> dict[str, torch.Tensor]:
    """The loss of one step: quality focal loss on all cells, GIoU on those that own a thing."""
    indices = rng.choice(len(kept.files), BOX_IMAGES, replace=False)
    levels = kept.levels(indices, detector.STRIDES)
    with half():  # laid out by pixels, as `LayerNorm2d` wants them: half of the time
        logits, found = head([x.contiguous(memory_format=torch.channels_last) for x in levels])
    logits, found = logits.float(), found.float()
    wanted, ious, sides = torch.zeros_like(logits), [], []
    for i, index in enumerate(indices):
        (boxes,) = kept.read(index, "boxes")
        owner = assign(boxes)
        own = owner >= 0
        truth = boxes[owner[own]]
        iou = box_iou(found[i, own], truth).diagonal()
        wanted[i, own] = iou.detach().clamp(min=0.05)  # a cell whose box is still wrong owns it too
        ious.append(iou)
        sides.append(generalized_box_iou_loss(found[i, own], truth))
    weight = (logits.sigmoid() - wanted).abs().pow(2)
    owned = max(1, sum(map(len, ious)))
    objectness = (weight.detach() * bce(logits, wanted, reduction="none")).sum() / owned
    return {
        "loss": objectness + 2 * torch.cat(sides).mean(),
        "objectness": objectness,
        "iou": torch.cat(ious).mean(),
    }


# ---------------------------------------------------------------------------------------- the runs
def half() -> torch.autocast:
    """bfloat16 where the processor multiplies it: a third less time."""
    native = train.native_bfloat16(torch.device("cpu"))
    return torch.autocast("cpu", torch.bfloat16, enabled=native)


def trained(model: nn.Module) -> dict[str, torch.Tensor]:
    """All of a model but the trunk, which is frozen."""
    return {key: value for key, value in model.state_dict().items() if "trunk." not in key}


def fit(
    name: str,
    model: nn.Module,
    loss_of: Callable[[np.random.Generator], dict[str, torch.Tensor]],
    steps: int,
    rate: float,
) -> None:
    """AdamW over one cycle, with a log, and a checkpoint that a stopped run goes on from."""
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.08)
    checkpoint, log, done = FOLDER / f"{name}.pt", FOLDER / f"{name}.jsonl", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        if saved["steps"] == steps:  # of another length: begun anew
            done = saved["done"]
            model.load_state_dict(saved["model"], strict=False)
            optimizer.load_state_dict(saved["optimizer"])
            schedule.load_state_dict(saved["schedule"])
    rows = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    rows = [row for row in rows if json.loads(row)["step"] <= done]  # what is done again goes
    files.write_text(log, "".join(f"{row}\n" for row in rows))
    model.train()
    sums: dict[str, float] = {}
    began, since = time.perf_counter(), done
    bar = tqdm(range(done, steps), desc=name, initial=done, total=steps)
    for step in bar:
        found = loss_of(np.random.default_rng([SEED, 1, step]))
        optimizer.zero_grad()
        found["loss"].backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        schedule.step()
        for key, value in found.items():
            sums[key] = sums.get(key, 0.0) + value.item()
        count = step + 1 - since
        if count == 20 or step + 1 == steps:
            means = {key: round(value / count, 4) for key, value in sums.items()}
            pace = round((time.perf_counter() - began) / count, 3)
            with log.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"step": step + 1, **means, "seconds": pace}) + "\n")
            bar.set_postfix(means)
            sums, began, since = {}, time.perf_counter(), step + 1
        if (step + 1) % 100 == 0 or step + 1 == steps:
            with files.whole(checkpoint) as part:
                torch.save(
                    {
                        "steps": steps,
                        "done": step + 1,
                        "model": trained(model),
                        "optimizer": optimizer.state_dict(),
                        "schedule": schedule.state_dict(),
                    },
                    part,
                )
    model.eval()


def curve(name: str) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text().splitlines()]
    return [{key: row[key] for key in ("step", "loss", "iou")} for row in rows]


# ----------------------------------------------------------------------------------------- measured
def spread(values: list[float]) -> str:
    """Mean of values and its 95% interval by the normal approximation."""
    half_width = 1.96 * np.std(values, ddof=1) / np.sqrt(len(values))
    mean = np.mean(values)
    return (
        f"{mean:.3f} of {len(values)}, 95% from {mean - half_width:.3f} to {mean + half_width:.3f}"
    )


def share(right: list[bool]) -> str:
    low, high = wilson(sum(right), len(right))
    return f"{np.mean(right):.3f} of {len(right)}, 95% from {low:.3f} to {high:.3f}"


def measure(split: str, clips: int = 200) -> dict[str, str]:
    """What the weights do on one frame of each of `clips` clips of a held-out split.

    Returns
    -------
    dict of str
        Mean mask IoU from the true box, and mean of the IoU that the model guessed; share of things
        that one of ten boxes meets at IoU 0.5; and share of things whose name's surest box is
        theirs, with one name asked at a time.
    """
    predictor, grounder = load_segmenter("litesam"), LiteGrounder(LiteCLIPEncoder())
    things: list[parts.Thing] = []
    for seed in tqdm(range(clips), desc=split):
        made = toyworld.make_clip(5000 + seed, split, frames=16, fps=8, shots=1, look_alikes=1)
        frame = int(np.random.default_rng(seed).integers(len(made.frames)))
        image, (names, masks) = made.frames[frame], parts.shown(made, frame)
        things += parts.measure(grounder, predictor, image, names, masks)
    return {
        "mask IoU from a true box": spread([thing.mask_iou for thing in things]),
        "IoU guessed by LiteSAM": spread([thing.guessed_iou for thing in things]),
        "recall at IoU 0.5 with 10 boxes": share([thing.found for thing in things]),
        "named box at IoU 0.5": share([thing.named for thing in things]),
    }


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", default="", help="only encode each n-th composite: 0/2, 1/2")
    parser.add_argument("--model", choices=("sam", "detector"), help="only train this one")
    chosen = parser.parse_args()
    part, of = map(int, (chosen.part or "0/1").split("/"))
    (FOLDER / "pictures").mkdir(parents=True, exist_ok=True)
    trunk = clip.load_trunk()
    torch.manual_seed(SEED)
    models = {"sam": sam.build(trunk), "detector": detector.BoxHead()}
    losses = {"sam": sam_loss, "detector": box_loss}
    named = [chosen.model] if chosen.model else list(models)
    history: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    for stage, given in STAGES.items():
        kept, learning = Kept(given.seeds), [name for name in named if name in given.steps]
        if not all((FOLDER / f"{name}-{stage}.safetensors").exists() for name in learning):
            pictures = scenery.load() if given.scenery else []
            for i in tqdm(range(part, len(given.seeds), of), desc=f"{stage}: composites"):
                if not kept.files[i].exists():
                    keep(kept.files[i], trunk, given.seeds[i], pictures)
        if chosen.part:
            continue
        for name in learning:
            file, model, loss = FOLDER / f"{name}-{stage}.safetensors", models[name], losses[name]
            if not file.exists():
                fit(
                    f"{name}-{stage}",
                    model,
                    lambda rng: loss(model, kept, rng),  # noqa: B023
                    given.steps[name],
                    given.rate[name],
                )
                history[name] += curve(f"{name}-{stage}")
                tensors = {key: value.half() for key, value in trained(model).items()}
                train.write_tensors(file, tensors, {"history": json.dumps(history[name])})
            model.load_state_dict(load_file(file), strict=False)
            with safe_open(file, "pt") as found:
                history[name] = json.loads(found.metadata()["history"])
    if chosen.part:
        return
    for name in named:
        target = {"sam": sam.WEIGHTS, "detector": detector.WEIGHTS}[name]
        last = [stage for stage, given in STAGES.items() if name in given.steps][-1]
        with files.whole(target) as whole:
            shutil.copyfile(FOLDER / f"{name}-{last}.safetensors", whole)
        logging.info("wrote %s, %.1f MB", target.name, os.path.getsize(target) / 2**20)
    for split in ("compositions", "unseen"):
        logging.info("%s: %s", split, json.dumps(measure(split), indent=2))


if __name__ == "__main__":
    main()
