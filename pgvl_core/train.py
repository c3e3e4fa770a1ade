"""Instruction tuning: questions and answers about videos, the loss on the answers alone.

Video tokens are computed once, before the training (the encoder is frozen), into safetensors. A
checkpoint holds what is trained, and its optimizer's state; which examples a step sees depends on
the seed and the step alone, so a run that was killed continues to the weights it would have had.
"""

from __future__ import annotations

import json
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from peft import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss, normalize, one_hot
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup

from . import projector as projectors
from .files import whole
from .model import PGVideoLLaVA, add_lora
from .video import Video, VideoError

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")

log = logging.getLogger(__name__)


class TrainingError(ValueError):
    """Training cannot start or go on; says why and what is kept."""


@dataclass(frozen=True)
class Recipe:
    """How to train. `PAPER` is the paper's (section 4.1), `POCKET` that of the shipped weights."""

    steps: int | None  # None: as many as `epochs` take
    batch: int  # videos (or plain texts) to a step, over all processes
    rate: float  # of the projector and the video marks
    lora_rate: float = 0.0  # 0: the language model stays as it is
    epochs: int = 1
    warmup: float = 0.03  # part of the steps
    precision: str = "no"  # accelerate's mixed precision: no, fp16, bf16 (see `native_bfloat16`)
    checkpointing: bool = False  # compute activations twice, keep them once
    questions: int = 1  # at most, to a video and step
    talk: int = 2  # one step in so many is of conversations, the others of fans; see `collate`
    every: int = 25  # steps between checkpoints
    tokens: int = 2048  # of an example at most; what is longer loses its end
    standardise: bool = False  # train the projector on standardised features; see `Learner`


PAPER = Recipe(None, 32, 2e-5, epochs=3, precision="bf16", checkpointing=True)
POCKET = Recipe(
    680, 8, 5e-4, 8e-4, warmup=0.04, precision="bf16", questions=7, talk=4, standardise=True
)


@dataclass(frozen=True)
class Example:
    """A video's tokens ``[n, D]`` (None: plain text), what is asked of it, and what it says."""

    tokens: torch.Tensor | None
    pairs: tuple[tuple[str, str], ...]
    transcript: str = ""


def native_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 itself.

    A processor that does not takes twenty times as long over it as over float32 (measured on AMD's
    third EPYC), so training a float32 model there keeps to float32.
    """
    return device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()


# ---------------------------------------------------------------------------------------- the data
def read_instructions(path: str | Path) -> list[dict[str, str]]:
    """Items ``{"q", "a", "video_id"}`` of a VideoInstruct-100K file, plain or as converted.

    Raises
    ------
    TrainingError
        When it is neither; says which item is wrong.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path}: not a readable JSON file ({error})") from error
    items = []
    for i, item in enumerate(content if isinstance(content, list) else []):
        try:
            if "conversations" in item:
                said = [turn["value"] for turn in item["conversations"]]
                name = item["video"].removesuffix(".pkl")
                for q, a in zip(said[::2], said[1::2], strict=True):
                    items.append({"q": q.replace("<video>", "").strip(), "a": a, "video_id": name})
            else:
                items.append({key: item[key] for key in ("q", "a", "video_id")})
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise TrainingError(
                f"{path}: item {i} has neither q, a and video_id nor video and conversations in "
                f"pairs ({error!r})"
            ) from error
    if not items:
        raise TrainingError(f"{path}: no list of VideoInstruct items")
    return items


def precompute(
    model: PGVideoLLaVA, names: Sequence[str], videos: Path, folder: Path
) -> dict[str, str]:
    """Video tokens of each video, once, as ``folder/NAME.safetensors`` in half precision.

    Parameters
    ----------
    names : video ids, the videos' file names without suffix
    videos, folder : where the videos are, and where their tokens go

    Returns
    -------
    dict
        The videos that are missing or unreadable, and why. They are skipped, and counted in the
        log; what is there already is not computed again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    skipped = {}
    for name in tqdm(sorted(set(names)), desc="video tokens"):
        target = folder / f"{name}.safetensors"
        if target.exists():
            continue
        found = [file for suffix in VIDEO_SUFFIXES if (file := videos / f"{name}{suffix}").exists()]
        try:
            if not found:
                raise VideoError(f"no {name} with a suffix of {', '.join(VIDEO_SUFFIXES)}")
            write_tensors(target, {"tokens": model.encode(Video(found[0])).half()})
        except VideoError as error:
            skipped[name] = str(error)
    if skipped:
        log.warning("%d of %d videos are skipped: %s", len(skipped), len(set(names)), skipped)
    return skipped


def examples(items: Sequence[dict[str, str]], folder: Path) -> list[Example]:
    """One example a video of `items` that has its tokens in `folder`."""
    asked: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for item in items:
        asked[item["video_id"]].append((item["q"], item["a"]))
    found = []
    for name, pairs in asked.items():
        file = folder / f"{name}.safetensors"
        if file.exists():
            found.append(Example(load_file(file)["tokens"], tuple(pairs)))
    return found


def write_tensors(
    path: Path, tensors: dict[str, torch.Tensor], about: dict[str, str] | None = None
) -> None:
    """Write a safetensors file, whole or not at all."""
    with whole(path) as part:
        save_file({name: value.contiguous() for name, value in tensors.items()}, part, about)


# ----------------------------------------------------------------------------------------- a batch
@dataclass
class Batch:
    """Examples side by side; shorter ones are filled up at the end."""

    ids: torch.Tensor  # int64 [B, L]
    labels: torch.Tensor  # int64 [B, L]: the token if it belongs to an answer, else -100
    positions: torch.Tensor  # int64 [B, L]
    branch: torch.Tensor  # int64 [B, L]: which question; 0 is read by all, -1 by none
    answer: torch.Tensor  # int64 [B, L]: number of the answer within the batch
    tokens: torch.Tensor | None  # float32 [V, n, D]

    @property
    def mask(self) -> torch.Tensor:
        """What is added to attention scores: float32 ``[B, 1, L, L]``, 0, or -inf if not read."""
        length = self.ids.shape[1]
        before = torch.ones(length, length, dtype=torch.bool).tril()
        ours, theirs = self.branch.unsqueeze(2), self.branch.unsqueeze(1)
        allowed = before & ((theirs == 0) | (theirs == ours))
        return torch.zeros(allowed.shape).masked_fill(~allowed, -torch.inf).unsqueeze(1)


class Row(NamedTuple):
    """An example as the language model reads it, a value a token."""

    ids: list[int]
    answers: list[bool]  # whether the token belongs to an answer, its end included
    positions: list[int]
    branch: list[int]  # as in `Batch`


def tokenise(model: PGVideoLLaVA, text: str) -> tuple[list[int], list[bool]]:
    """Token ids of a rendered conversation, and which of them are its answers' (with their end)."""
    eos = str(model.tokenizer.eos_token)
    encoded: Any = model.tokenizer(text, return_offsets_mapping=True)
    spans, at = [], 0
    while (begin := text.find(" ASSISTANT:", at)) >= 0:
        begin += len(" ASSISTANT:")
        at = text.index(eos, begin) + len(eos)
        spans.append((begin, at))
    answers = [
        any(b <= s and e <= f and e > s for b, f in spans) for s, e in encoded.offset_mapping
    ]
    return encoded.input_ids, answers


def dialogue(
    model: PGVideoLLaVA,
    turns: Sequence[tuple[str, str]],
    video: bool = True,
    transcript: str = "",
) -> Row:
    """A conversation, the video beside its first question: as the model is used."""
    words, own = tokenise(model, model.render(turns, transcript, video))
    return Row(words, own, list(range(len(words))), [0] * len(words))


def fan(model: PGVideoLLaVA, pairs: Sequence[tuple[str, str]], transcript: str = "") -> Row:
    """Several questions about one video, none of which sees another.

    It is the same as so many examples with the video first, but the video is read once.
    """
    ids: list[int] = []
    answers: list[bool] = []
    positions: list[int] = []
    branch: list[int] = []
    last: int = model.word_ids[2 if model.marks is not None else 0]
    for number, pair in enumerate(pairs, 1):
        words, own = tokenise(model, model.render([pair], transcript, video_first=True))
        shared = len(words) - words[::-1].index(last)  # up to the video's end
        skip = shared if ids else 0
        ids += words[skip:]
        answers += own[skip:]
        positions += range(skip, len(words))
        branch += [0] * (shared - skip) + [number] * (len(words) - shared)
    return Row(ids, answers, positions, branch)


def collate(
    model: PGVideoLLaVA,
    chosen: Sequence[Example],
    rngs: Sequence[np.random.Generator],
    recipe: Recipe,
    fans: bool,
) -> Batch:
    """A batch of examples; each draws its questions from its generator.

    They are asked in a `fan`, or in a conversation of up to three turns, as when the model is used;
    a transcript stands with the first question, so what is said is asked for in conversations.
    """
    rows = []
    for example, rng in zip(chosen, rngs, strict=True):
        order = rng.permutation(len(example.pairs))
        pairs = [example.pairs[i] for i in order[: recipe.questions]]
        if fans and example.tokens is not None and not example.transcript:
            row = fan(model, pairs)
        else:
            turns = pairs[: 1 + int(rng.integers(3))]
            row = dialogue(model, turns, example.tokens is not None, example.transcript)
        row = Row(*(part[: recipe.tokens] for part in row))  # type: ignore[arg-type]
        if example.tokens is not None and row.ids.count(model.word_ids[0]) < model.video_tokens:
            raise TrainingError(
                f"the question {pairs[0][0][:40]!r}... leaves no room for its video in "
                f"{recipe.tokens} tokens: leave it out, or allow more"
            )
        rows.append(row)
    videos = [example.tokens for example in chosen if example.tokens is not None]
    return assemble(rows, torch.stack(videos).float() if videos else None)


def assemble(rows: Sequence[Row], tokens: torch.Tensor | None) -> Batch:
    """Rows side by side, with the tokens ``[V, n, D]`` of their videos."""
    shape = len(rows), max(len(row[0]) for row in rows)
    ids, positions, answer = (torch.zeros(shape, dtype=torch.long) for _ in range(3))
    labels, branch = torch.full(shape, -100), torch.full(shape, -1)
    count = 0
    for i, (words, own, places, branches) in enumerate(rows):
        end = len(words)
        ids[i, :end] = torch.tensor(words)
        positions[i, :end] = torch.tensor(places)
        branch[i, :end] = torch.tensor(branches)
        chosen = torch.tensor(own)
        labels[i, :end][chosen] = ids[i, :end][chosen]
        before = torch.cat([torch.tensor([False]), chosen[:-1]])
        begins = chosen & ~before
        answer[i, :end] = count + begins.cumsum(0) - 1
        count += int(begins.sum())
    return Batch(ids, labels, positions, branch, answer, tokens)


# --------------------------------------------------------------------------------------- the model
def answers(
    model: PGVideoLLaVA, batch: Batch, projected: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of each token of a batch's answers ``[n]``, and which answers are right ``[A]``.

    An answer is right when each of its tokens is the likeliest after those before it: then, and
    only then, greedy decoding gives it word for word. So one pass tells what generating would.
    """
    device = model.llm.device
    hidden = model.llm.model(
        inputs_embeds=model.embed(batch.ids, projected),
        attention_mask=batch.mask.to(device, model.llm.dtype),
        position_ids=batch.positions.to(device),
        use_cache=False,
    ).last_hidden_state
    rows, columns = torch.nonzero(batch.labels != -100, as_tuple=True)
    logits = model.llm.lm_head(hidden[rows, columns - 1]).float()
    wanted = batch.labels[rows, columns].to(device)
    hits = (logits.argmax(-1) == wanted).float()
    number = batch.answer[rows, columns].to(device)
    right = torch.ones(int(batch.answer.max()) + 1, device=device)
    right = right.scatter_reduce(0, number, hits, "amin")
    return cross_entropy(logits, wanted, reduction="none"), right


@torch.no_grad()
def evaluate(model: PGVideoLLaVA, data: Sequence[Example], batch: int = 8) -> list[list[bool]]:
    """For each pair of each example: does greedy decoding answer word for word as the truth?

    Each question is asked alone, as `chat.Conversation` asks it: where the video comes first, in a
    `fan`, which is the same and reads the video once.
    """
    found: list[list[bool]] = []
    for example in tqdm(data, desc="examples"):
        projected = None if example.tokens is None else model.project(example.tokens.float())
        if model.video_first and projected is not None:
            rows = [fan(model, example.pairs, example.transcript)]
        else:
            rows = [
                dialogue(model, [pair], projected is not None, example.transcript)
                for pair in example.pairs
            ]
        verdicts: list[bool] = []
        for start in range(0, len(rows), batch):
            some = assemble(rows[start : start + batch], None)
            together = None if projected is None else projected.expand(len(some.ids), -1, -1)
            verdicts += (answers(model, some, together)[1] > 0.5).tolist()
        found.append(verdicts)
    return found


class Learner(nn.Module):
    """What is trained, as one module that accelerate can wrap: projector, marks and LoRA.

    A projector that is trained standardised reads features of mean 0 and spread 1, and what it
    writes is scaled to the spread of word embeddings: raw features, far from zero and far too
    large, train many times slower. Its matrices are scaled to make up for that, so that it starts
    as the same function; `fold` scales them back, and nothing of it is left in the model.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: PGVideoLLaVA, recipe: Recipe, sample: torch.Tensor | None) -> None:
        super().__init__()
        self.model = model
        embeddings = model.llm.get_input_embeddings().weight
        mean, std, scale = torch.zeros(model.encoder.dim), torch.ones(model.encoder.dim), 1.0
        if sample is not None:
            mean, std = sample.mean(0), sample.std(0) + 1e-3
            scale = float(embeddings.float().std())
        self.register_buffer("mean", mean.to(embeddings.device))
        self.register_buffer("std", std.to(embeddings.device))
        self.scale = scale
        model.projector.float()
        layers: Any = projectors.layers(model.projector)
        with torch.no_grad():
            layers[0].bias += layers[0].weight @ self.mean
            layers[0].weight *= self.std
            layers[1].weight /= scale
            layers[1].bias /= scale
        if model.marks is None:
            model.marks = nn.Parameter(embeddings.float().mean(0).repeat(2, 1))
        model.projector.requires_grad_(True)
        model.marks.data = model.marks.data.float()
        model.marks.requires_grad_(True)
        if recipe.lora_rate:
            if model.lora is None:
                model.lora = add_lora(model.llm)
            elif model.lora.get_model_status().merged_adapters:
                model.lora.unmerge_adapter()
            for name, value in model.llm.named_parameters():
                value.requires_grad_("lora_" in name)
        if recipe.checkpointing:
            model.llm.gradient_checkpointing_enable()
            model.llm.train()  # otherwise it is not done

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """`answers` of a batch, in training."""
        projected = None
        if batch.tokens is not None:
            standard = (batch.tokens.to(self.mean.device) - self.mean) / self.std
            projected = self.model.projector(standard) * self.scale
        return answers(self.model, batch, projected)

    def trained(self) -> dict[str, nn.Parameter]:
        """The trained parameters, by name."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    @torch.no_grad()
    def fold(self) -> dict[str, torch.Tensor]:
        """Fold the scalings in; what was trained, half precision, as `projector.read` reads it."""
        layers: Any = projectors.layers(self.model.projector)
        first, last = layers
        first.weight /= self.std
        first.bias -= first.weight @ self.mean
        last.weight *= self.scale
        last.bias *= self.scale
        self.mean.zero_(), self.std.fill_(1)
        self.scale = 1.0
        assert self.model.marks is not None
        weights = projectors.tensors(self.model.projector, self.model.marks)
        if self.model.lora is not None:
            weights |= get_peft_model_state_dict(self.model.lora)
        weights = {name: value.detach().half().cpu() for name, value in weights.items()}
        self.requires_grad_(False)
        self.model.projector.to(self.model.llm.dtype)
        self.model.marks.data = self.model.marks.data.to(self.model.llm.dtype)
        self.model.llm.eval()
        return weights


# ----------------------------------------------------------------------------------------- the run
def align(
    model: PGVideoLLaVA,
    names: Sequence[str],
    draw: Callable[[], tuple[torch.Tensor, torch.Tensor]],
    sample: torch.Tensor,
    steps: int,
    seed: int = 0,
) -> list[dict[str, float]]:
    """Train the projector to write a token near the word embedding of what it shows.

    The language model takes no part beyond its table of words, so a step takes milliseconds. What
    follows, `train`, then starts from vectors that the language model nearly reads. This is ours;
    the paper starts from the projector of LLaVA 1.5, which captions had aligned.

    Parameters
    ----------
    names : what can be shown; several words have the mean of their embeddings
    draw : gives a batch of tokens ``[b, D]``, and which name each has: its number, int64 ``[b]``,
        or each name's share in it, float32 ``[b, names]``
    sample : tokens ``[n, D]`` that the features' mean and spread are taken of

    Returns
    -------
    list of dict
        A row a step: loss, and the share of tokens whose own name is the nearest.
    """
    torch.manual_seed(seed)
    embeddings = model.llm.get_input_embeddings().weight.detach().float()
    ids = [model.tokenizer(f" {name}", add_special_tokens=False).input_ids for name in names]
    vectors = torch.stack([embeddings[own].mean(0) for own in ids])
    centre = vectors.mean(0)
    units = normalize(vectors - centre, dim=-1)
    learner = Learner(model, replace(POCKET, lora_rate=0), sample)
    optimizer = torch.optim.AdamW(model.projector.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    history = []
    for _ in tqdm(range(steps), desc="align"):
        tokens, shown = draw()
        shares = shown if shown.is_floating_point() else one_hot(shown, len(names)).float()
        written = model.projector((tokens - learner.mean) / learner.std) * learner.scale
        cosines = normalize(written - centre, dim=-1) @ units.T
        distance = mse_loss(written, shares @ vectors) / learner.scale**2
        loss = cross_entropy(20 * cosines, shares) + 0.3 * distance
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        right = (cosines.argmax(-1) == shares.argmax(-1)).float().mean().item()
        history.append({"loss": loss.item(), "right": right})
    learner.fold()
    return history


@dataclass
class Run:
    """What a training run gives."""

    history: list[dict[str, float]]  # step, loss (nats a token), right (share of answers), rate
    weights: dict[str, torch.Tensor]  # as `projector.read` reads them


def train(
    model: PGVideoLLaVA,
    data: Sequence[Example],
    folder: str | Path,
    recipe: Recipe,
    seed: int = 0,
    report: Callable[[list[dict[str, float]]], None] | None = None,
    fresh: bool = True,
) -> Run:
    """Train the projector of a model, and a LoRA if the recipe has one, in place.

    Parameters
    ----------
    data : examples
    folder : where the checkpoint is kept; a run that is found there is continued
    report : called with the history at every fifth step, for a live curve
    fresh : whether the projector starts from scratch; one that is read from a file does not

    Raises
    ------
    TrainingError
        When there is nothing to train on, the folder holds another run, or the loss is no longer a
        number; the last good checkpoint is kept.
    """
    videos = [example.tokens for example in data if example.tokens is not None]
    if not videos:
        raise TrainingError("no example has a video: there is nothing to train a projector on")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    precision = recipe.precision
    # A model that is itself kept in bfloat16 cannot do without: its layers take nothing else.
    single = model.llm.dtype == torch.float32
    if precision == "bf16" and single and not native_bfloat16(model.llm.device):
        log.info("this processor does not multiply bfloat16: training in float32")
        precision = "no"
    accelerator = Accelerator(
        cpu=model.llm.device.type == "cpu",
        mixed_precision=precision,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    sample = torch.cat([tokens.float() for tokens in videos[:500]]) if recipe.standardise else None
    learner = Learner(model, recipe, sample)
    if fresh:
        for layer in dict.fromkeys(projectors.layers(model.projector)):
            layer.reset_parameters()
    steps = recipe.steps or recipe.epochs * math.ceil(len(data) / recipe.batch)
    groups: dict[float, list[nn.Parameter]] = defaultdict(list)
    for name, value in learner.trained().items():
        groups[recipe.lora_rate if "lora_" in name else recipe.rate].append(value)
    optimizer = torch.optim.AdamW(
        [{"params": values, "lr": rate} for rate, values in groups.items()], weight_decay=0
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, round(recipe.warmup * steps), steps)
    about = json.dumps([repr(recipe), seed, len(data), fresh])
    history = _resume(folder, about, learner, optimizer, schedule)
    wrapped, optimizer = accelerator.prepare(learner, optimizer)
    for value in learner.trained().values():  # a batch of plain text leaves out the projector;
        value.grad = torch.zeros_like(value)  # its moments are kept all the same
    quiet: dict[str, Any] = {} if accelerator.is_main_process else {"disable": True}
    bar = tqdm(
        range(len(history), steps),
        desc="steps",
        initial=len(history),
        total=steps,
        **quiet,
    )
    for step in bar:
        chosen, rngs = _draw(len(data), recipe.batch, seed, step)
        mine = range(accelerator.process_index, recipe.batch, accelerator.num_processes)
        fans = (step + 1) % recipe.talk > 0
        batch = collate(
            model, [data[chosen[i]] for i in mine], [rngs[i] for i in mine], recipe, fans
        )
        losses, right = wrapped(batch)
        own = [losses.sum().detach(), len(losses), right.sum(), len(right)]
        loss, count, good, asked = accelerator.reduce(torch.tensor(own, device=losses.device))
        # Processes average their gradients; so each answers for its tokens' share of the batch.
        accelerator.backward(losses.sum() * (accelerator.num_processes / count))
        norm = accelerator.clip_grad_norm_(learner.parameters(), 1.0)
        if not (loss.isfinite() and norm.isfinite()):
            raise TrainingError(
                f"step {step} has a loss of {loss.item()} and gradients of norm {norm.item()}; a "
                f"checkpoint in {folder.name} is of an earlier step and good: lower the rate, or "
                "start again in another folder"
            )
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=False)
        history.append(
            {
                "step": step,
                "loss": (loss / count).item(),
                "right": (good / asked).item(),
                "rate": schedule.get_last_lr()[0],
            }
        )
        bar.set_postfix(loss=f"{history[-1]['loss']:.2f}", right=f"{history[-1]['right']:.0%}")
        if accelerator.is_main_process and ((step + 1) % recipe.every == 0 or step + 1 == steps):
            _save(folder, about, learner, optimizer, schedule, history)
        if report and ((step + 1) % 5 == 0 or step + 1 == steps):
            report(history)
    return Run(history, learner.fold())


def _draw(
    size: int, batch: int, seed: int, step: int
) -> tuple[list[int], list[np.random.Generator]]:
    """Which examples a step sees, each with a generator: every epoch in a new order."""
    places = range(step * batch, (step + 1) * batch)
    epochs = {
        e: np.random.default_rng([seed, e]).permutation(size) for e in {p // size for p in places}
    }
    rngs = [np.random.default_rng([seed, 1, place]) for place in places]
    return [int(epochs[p // size][p % size]) for p in places], rngs


CHECKPOINT = "checkpoint.safetensors"


def _save(
    folder: Path,
    about: str,
    learner: Learner,
    optimizer: Any,
    schedule: Any,
    history: list[dict[str, float]],
) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for name, value in learner.trained().items():
        moments = optimizer.state[value]
        tensors |= {
            f"weight/{name}": value.detach(),
            f"mean/{name}": moments["exp_avg"],
            f"square/{name}": moments["exp_avg_sq"],
        }
    state = {key: schedule.state_dict()[key] for key in ("last_epoch", "_last_lr", "_step_count")}
    said = {"run": about, "history": json.dumps(history), "schedule": json.dumps(state)}
    write_tensors(folder / CHECKPOINT, tensors, said)


def _resume(
    folder: Path, about: str, learner: Learner, optimizer: Any, schedule: Any
) -> list[dict[str, float]]:
    """Put a checkpoint's state back, if there is one; the history up to it."""
    file = folder / CHECKPOINT
    if not file.exists():
        return []
    with safe_open(file, "pt") as found:
        said = found.metadata()
        if said["run"] != about:
            raise TrainingError(
                f"{folder}: its checkpoint is of another run (recipe, seed or data differ); remove "
                "it, or train in another folder"
            )
        history = json.loads(said["history"])
        for name, value in learner.trained().items():
            value.data.copy_(found.get_tensor(f"weight/{name}"))
            optimizer.state[value] = {
                "step": torch.tensor(float(len(history))),
                "exp_avg": found.get_tensor(f"mean/{name}").to(value.device),
                "exp_avg_sq": found.get_tensor(f"square/{name}").to(value.device),
            }
    unchanged = {"lr_lambdas": [None] * len(optimizer.param_groups)}
    schedule.load_state_dict(json.loads(said["schedule"]) | unchanged)
    for group, rate in zip(optimizer.param_groups, schedule.get_last_lr(), strict=True):
        group["lr"] = rate
    return history
