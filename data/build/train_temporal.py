"""Train what tells pocket how things move (`make weights`): data/weights/conv3d.safetensors.

A `temporal.Conv3d` over the frozen trunk's features writes eight tokens that stand behind the
pooled ones and go through pocket's own projector, which stays as it is. It is trained twice:

- alone, in two minutes: what the projector makes of a token is drawn to the word embedding of the
  motion that the token's stretch of time shows, among the eight motions' words. Clips are also
  shown backwards and mirrored, by which left, right, up and down change places;
- through the language model, with a small LoRA on top of pocket's own (which is merged, and stays):
  questions about directions, and one of another kind to each clip, so that nothing else is lost.

What is kept of a clip is its features' first principal directions. They are folded into the model's
first matrix, so what is shipped reads the trunk's features as they are.

Seed 0.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy, mse_loss, normalize
from tqdm.auto import tqdm

from pgvl_core import assets, profiles, temporal, train
from pgvl_core.encoder import LiteCLIPEncoder
from pgvl_core.evaluation.intervals import wilson
from pgvl_core.model import PGVideoLLaVA, add_lora
from pgvl_core.pooling import pool
from pgvl_core.toyworld import Clip, make_clip
from pgvl_core.toyworld_motion import TRAVEL
from pgvl_core.video import sample_indices

sys.path.insert(0, str(Path(__file__).parent))
from train_pocket import examine

SEED = 0
TRAIN = (*range(1711), *range(1712, 1772, 2))  # as far as two processes came in half an hour
HELD = 600
FRAMES, TEMPORAL, SIDE, KEPT, WIDTH = 16, 8, 7, 128, 48
ALIGNMENT, STEPS, BATCH, RANK = 500, 100, 8, 8
SCHEDULE = 220  # steps that the rates would fall over; the run was ended at STEPS of them
FOLDER = assets.DATA.parent / "build" / "temporal"
WEIGHTS = assets.DATA / "weights" / "conv3d.safetensors"
HELD_FROM = 9000  # seeds of the held-out clips, of split "compositions"

ALONE = {  # how often a thing that is alone moves how: what is counted or mixed up, more often
    "left": 0.13,
    "right": 0.13,
    "up": 0.13,
    "down": 0.13,
    "still": 0.09,
    "approach": 0.11,
    "circle": 0.12,
    "bounce": 0.16,
}


def compose(seed: int, split: str) -> tuple[Clip, int, int]:
    """A clip, and the stretch of it that is shown.

    Half have one thing; of those that travel, half are shown slowed down, so that a speed is to be
    seen. Three in ten have two or three things in turn, the others two at once.
    """
    rng = np.random.default_rng([seed, 10])
    draw = rng.random()
    if draw >= 0.5:
        count = 2 if draw < 0.72 or draw >= 0.8 else 3
        shots = count if draw < 0.8 else 1
        return make_clip(seed, split, frames=32, fps=8, objects=count, shots=shots), 0, 32
    motion = str(rng.choice(list(ALONE), p=list(ALONE.values())))
    shown = int(rng.choice([64, 64, 32, 16])) if motion in TRAVEL else 32
    frames = max(shown, 64) if motion in TRAVEL else 32
    clip = make_clip(seed, split, frames=frames, motions=[motion], shots=1)
    begin = int(rng.integers(frames - shown + 1))
    return clip, begin, begin + shown


def describe(clip: Clip, indices: np.ndarray) -> dict[str, Any]:
    """The truth of what is shown, to be kept beside its features."""
    return {
        "qa": [(q.kind, q.question, q.answer) for q in clip.qa],
        "motions": [t.motion for t in clip.tracks],
        "shot_of": [t.shot for t in clip.tracks],
        "shots": [int(s) for s in np.searchsorted(clip.cuts, indices, "right")],
    }


def fit_reduction(encoder: LiteCLIPEncoder) -> dict[str, torch.Tensor]:
    """The first principal directions ``[KEPT, D]`` of features, and their mean."""
    file = FOLDER / "pca.safetensors"
    if not file.exists():
        cells = []
        for seed in tqdm(range(100_000, 100_150), desc="reduction"):
            clip = make_clip(seed, frames=4, objects=1 + seed % 3, shots=1, height=224, width=224)
            cells.append(encoder.encode(clip.frames[1:3]).flatten(0, 1))
        features = torch.cat(cells)
        mean = features.mean(0)
        values, vectors = torch.linalg.eigh((features - mean).T @ (features - mean))
        share = values[-KEPT:].sum() / values.sum()
        print(f"{KEPT} of {len(mean)} directions hold {share:.1%} of the spread", flush=True)
        train.write_tensors(file, {"rows": vectors[:, -KEPT:].T.flip(0), "mean": mean})
    return load_file(file)


def compute(encoder: LiteCLIPEncoder, seeds: Sequence[int], split: str) -> None:
    """Features of clips, once: reduced in full, and the pooled tokens as they are."""
    reduction = fit_reduction(encoder)
    folder = FOLDER / split
    folder.mkdir(parents=True, exist_ok=True)
    for seed in tqdm(seeds, desc=split, mininterval=30):
        file = folder / f"{seed}.safetensors"
        if file.exists():
            continue
        clip, begin, end = compose(seed, split)
        indices = begin + sample_indices(end - begin, FRAMES)
        features = encoder.encode(clip.frames[indices])
        kept = {
            "reduced": ((features - reduction["mean"]) @ reduction["rows"].T).half(),
            "pooled": pool(features, TEMPORAL).half(),
        }
        train.write_tensors(file, kept, {"truth": json.dumps(describe(clip, indices))})


# ------------------------------------------------------------------------------------ the training
WORDS = {  # what a token is drawn to
    "left": " left",
    "right": " right",
    "up": " up",
    "down": " down",
    "still": " still",
    "approach": " closer",
    "circle": " circle",
    "bounce": " bounces",
}
NAMES = list(WORDS)
REVERSED = torch.tensor([1, 0, 3, 2, 4, 5, 6, 7, -1])  # number of a motion shown backwards
MIRRORED = torch.tensor([1, 0, 2, 3, 4, 5, 6, 7, -1])


@dataclass
class Known:
    """A clip as it was kept."""

    reduced: torch.Tensor  # [FRAMES, N, KEPT]
    pooled: torch.Tensor  # [TEMPORAL + N, D]
    truth: dict[str, Any]

    @property
    def form(self) -> str:
        """How many things, and whether they come in turn."""
        if len(self.truth["motions"]) == 1:
            return "one"
        return "in turn" if max(self.truth["shot_of"]) else "together"

    def labels(self) -> list[int]:
        """Number of the motion in each stretch of time; -1 where none is plain."""
        found = []
        for first, last in zip(self.truth["shots"][::2], self.truth["shots"][1::2], strict=True):
            shown = [
                m
                for m, s in zip(self.truth["motions"], self.truth["shot_of"], strict=True)
                if s == first == last
            ]
            found.append(NAMES.index(shown[0]) if len(shown) == 1 else -1)
        return found

    def asked(self, *kinds: str) -> list[tuple[str, str]]:
        return [(question, answer) for kind, question, answer in self.truth["qa"] if kind in kinds]


def kept(split: str, seeds: Sequence[int]) -> list[Known]:
    clips = []
    for seed in sorted(seeds, key=str):
        with safe_open(FOLDER / split / f"{seed}.safetensors", "pt") as file:
            truth = json.loads(file.metadata()["truth"])
            reduced, pooled = (file.get_tensor(name).float() for name in ("reduced", "pooled"))
            clips.append(Known(reduced, pooled, truth))
    return clips


class Writer(torch.nn.Module):
    """The temporal model while it is trained: from reduced features to pooled ones."""

    def __init__(self, clips: Sequence[Known], dim: int) -> None:
        super().__init__()
        self.model = temporal.Conv3d(KEPT, WIDTH, dim)
        pooled = torch.cat([clip.pooled for clip in clips[:100]])
        self.mean, self.std = pooled.mean(0), pooled.std(0) + 1e-3
        self.spread = torch.stack([clip.reduced for clip in clips[:50]]).std()

    def forward(self, reduced: torch.Tensor) -> torch.Tensor:
        """Tokens ``[B, SLOTS, D]`` of ``[B, FRAMES, N, KEPT]``."""
        return self.mean + self.std * self.model(reduced / self.spread)

    @torch.no_grad()
    def folded(self, reduction: dict[str, torch.Tensor]) -> temporal.Conv3d:
        """The same as one model of the trunk's features."""
        dim = reduction["rows"].shape[1]
        whole = temporal.Conv3d(dim, WIDTH, dim)
        own = self.model.state_dict()
        first = own["reduce.weight"] @ reduction["rows"] / self.spread
        own["reduce.weight"] = first
        own["reduce.bias"] = own["reduce.bias"] - first @ reduction["mean"]
        own["out.weight"] = own["out.weight"] * self.std[:, None]
        own["out.bias"] = self.mean + self.std * own["out.bias"]
        whole.load_state_dict(own)
        return whole


def align(writer: Writer, model: PGVideoLLaVA, clips: Sequence[Known]) -> list[dict[str, float]]:
    """Draw the tokens to the words of what moves how; gives the training curve."""
    embeddings = model.llm.get_input_embeddings().weight.detach().float()
    ids = [model.tokenizer(w, add_special_tokens=False).input_ids for w in WORDS.values()]
    vectors = torch.stack([embeddings[own].mean(0) for own in ids])
    centre, scale = vectors.mean(0), embeddings.std()
    units = normalize(vectors - centre, dim=-1)
    features = torch.stack([clip.reduced for clip in clips])
    labels = torch.tensor([clip.labels() for clip in clips])
    optimizer = torch.optim.AdamW(writer.parameters(), 3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=ALIGNMENT)
    history = []
    for step in tqdm(range(ALIGNMENT), desc="align", mininterval=10):
        drawn = torch.randint(len(features), (32,))
        x, y = features[drawn].clone(), labels[drawn].clone()
        if step % 2:  # what comes closer has no name when it is shown backwards
            named = ~(y == NAMES.index("approach")).any(1)
            x[named], y[named] = x[named].flip(1), REVERSED[y[named].flip(1)]
        if step // 2 % 2:
            x, y = x.unflatten(2, (SIDE, SIDE)).flip(3).flatten(2, 3), MIRRORED[y]
        written = model.projector(writer(x))
        cosines = normalize(written - centre, dim=-1) @ units.T
        plain = y >= 0
        distance = mse_loss(written[plain], vectors[y[plain]]) / scale**2
        loss = cross_entropy(15 * cosines[plain], y[plain]) + 0.3 * distance
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        right = (cosines[plain].argmax(-1) == y[plain]).float().mean().item()
        history.append({"loss": loss.item(), "right": right})
    return history


def teach(writer: Writer, model: PGVideoLLaVA, clips: Sequence[Known]) -> list[dict[str, float]]:
    """Let the language model read the tokens; it has a fresh LoRA. Gives the training curve."""
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    lora = [value for name, value in model.llm.named_parameters() if "lora_" in name]
    groups = [{"params": list(writer.parameters()), "lr": 3e-4}, {"params": lora, "lr": 1.5e-3}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [3e-4, 1.5e-3], total_steps=SCHEDULE, pct_start=0.1
    )
    native = train.native_bfloat16(model.llm.device)
    history = []
    for _ in tqdm(range(STEPS), desc="teach", mininterval=30):
        chosen, rows = [clips[i] for i in rng.integers(len(clips), size=BATCH)], []
        for clip in chosen:
            moves, others = clip.asked("direction"), clip.asked("object", "order", "count")
            pairs = [moves[i] for i in rng.permutation(len(moves))[:2]]
            pairs += [others[i] for i in rng.permutation(len(others))[:1]]
            rows.append(train.fan(model, pairs))
        with torch.autocast("cpu", torch.bfloat16, enabled=native):
            losses, right = train.answers(
                model, train.assemble(rows, None), projected(writer, model, chosen)
            )
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_([*writer.parameters(), *lora], 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        history.append({"loss": losses.mean().item(), "right": right.mean().item()})
    return history


def projected(writer: Writer, model: PGVideoLLaVA, clips: Sequence[Known]) -> torch.Tensor:
    """Pooled tokens and the writer's behind them, in the language model's space."""
    pooled = torch.stack([clip.pooled for clip in clips])
    written = writer(torch.stack([clip.reduced for clip in clips]))
    return model.projector(torch.cat([pooled, written], 1))


@torch.no_grad()
def examine_motion(model: PGVideoLLaVA, clips: Sequence[Known]) -> dict[str, str]:
    """Right answers about directions on held-out clips, by how many things they have.

    `model` is as it is shipped, but the features are those that were kept, in `KEPT` directions.
    """
    reduction, found = load_file(FOLDER / "pca.safetensors"), defaultdict(list)
    for clip in tqdm(clips, desc="motion", mininterval=10):
        pairs, tokens = clip.asked("direction"), clip.pooled
        if not pairs:
            continue
        if model.temporal is not None:
            features = clip.reduced @ reduction["rows"] + reduction["mean"]
            tokens = torch.cat([tokens, model.temporal(features)])
        verdicts = train.evaluate(model, [train.Example(tokens, tuple(pairs))])[0]
        for (question, _), right in zip(pairs, verdicts, strict=True):
            found[clip.form, question.split()[0]].append(right)
    return {
        " ".join(name): f"{np.mean(right):.1%} of {len(right)}, "
        + "95% from {:.1%} to {:.1%}".format(*wilson(sum(right), len(right)))
        for name, right in sorted(found.items())
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", default="0/1", help="encode only each n-th clip: 0/2, 1/2")
    part, parts = map(int, parser.parse_args().part.split("/"))
    FOLDER.mkdir(parents=True, exist_ok=True)
    held = range(HELD_FROM, HELD_FROM + HELD)
    model = profiles.load("pocket")
    assert isinstance(model.encoder, LiteCLIPEncoder)
    compute(model.encoder, held[part::parts], "compositions")
    compute(model.encoder, TRAIN[part::parts], "train")
    if parts > 1:
        return
    clips = kept("train", TRAIN)
    torch.manual_seed(SEED)
    writer = Writer(clips, model.encoder.dim)
    curve = align(writer, model, clips)
    model.llm = model.lora.unload().requires_grad_(False)
    model.lora = add_lora(model.llm, RANK)
    model.video_tokens += temporal.SLOTS
    curve += teach(writer, model, clips)
    weights = temporal.tensors(writer.folded(load_file(FOLDER / "pca.safetensors")))
    weights |= get_peft_model_state_dict(model.lora)
    rounded = [{key: round(value, 4) for key, value in row.items()} for row in curve]
    train.write_tensors(
        WEIGHTS,
        {name: value.detach().half() for name, value in weights.items()},
        {"variant": "conv3d", "history": json.dumps(rounded)},
    )
    print(f"wrote {WEIGHTS.name}, {WEIGHTS.stat().st_size / 2**20:.1f} MB")
    for pooling in ("average", "conv3d"):
        shipped = profiles.load("pocket", pooling=pooling)
        print(pooling, json.dumps(examine_motion(shipped, kept("compositions", held)), indent=2))
        print(json.dumps(examine(shipped, "compositions", 60), indent=2))


if __name__ == "__main__":
    main()
