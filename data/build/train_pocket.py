"""Train pocket's projector and LoRA (`make weights`): data/weights/pocket.safetensors.

Three kinds of examples, made once in build/pocket and kept there, so that a run that was stopped
goes on:

- toyworld's training clips, 8 frames each, with a choice of their questions;
- videos that were never filmed: empty backgrounds to whose features the direction of an ImageNet
  class was added, for names beyond the sprites. A direction is the class's row of the trunk's own
  classifier, carried into feature space by the features' covariance (what linear discriminant
  analysis takes for the class's mean), half and half with the row itself;
- plain questions that the language model answered before it was trained, so that it does not
  forget how to talk.

A second stage goes on from there. It asks how many more often, above all of clips that do not show
two things, and it has a fourth kind: clips with a narrator, whose transcript, as a speech
recogniser might have it, answers what no picture shows, or does not.

A third stage goes on from that. What was wrong by then was mostly a thing too many: a few
photographs are all the backgrounds that toyworld has to train on, and on others a token was
misnamed. So there are other clips, and many more that are put together from shots on recoloured and
joined backgrounds (`scenes`); the projector is aligned anew, with noise on its features and with
what covers each cell; and the language model learns to read it. By then a token tells its name by
the nearest word embedding, and still the language model misread one clip in three: so a fourth
stage asks for little but names, of more clips still, and a fifth goes on with that for twice as
long, most shots before another one's background. What it then got wrong before photographs it had
not seen, it got right before those it had: a sixth stage has other shots, before well over a
thousand other pictures (`scenery`). What is shipped is the mean of the fifth's weights and its own.

The projector is aligned first, in a minute and without the language model: a token of a frame
that shows one thing is drawn to the word embedding of its name, among all names. So the language
model starts from vectors that it nearly reads; from a random projector it takes several times as
many steps to name anything.

Seed 0.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from timm.data import ImageNetInfo
from torch.nn.functional import adaptive_avg_pool2d, normalize
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from pgvl_core import assets, projector, train
from pgvl_core.encoder import LiteCLIPEncoder
from pgvl_core.evaluation.intervals import wilson
from pgvl_core.model import PGVideoLLaVA, load
from pgvl_core.toyworld import Question, categories, make_clip
from pgvl_core.toyworld_render import backgrounds
from pgvl_core.toyworld_text import NUMBERS, listing, plural, sentence, topic, with_article
from pgvl_core.video import sample_indices

sys.path.insert(0, str(Path(__file__).parent))
import scenery
import scenes
from fit_liteclip import GROUPS, WEARABLES
from narration import misheard, narrate, unsaid

SEED = 0
CLIPS, IMAGINED, NARRATED = 6000, 800, 2500
MORE, SCENES = 3200, 8000  # what the third stage and those after it go on with
FRAMES, SIDE = 8, 7
FOLDER = assets.DATA.parent / "build" / "pocket"
WEIGHTS = assets.DATA / "weights" / "pocket.safetensors"

LISTING = (
    "What is in the video?",
    "What can you see in the video?",
    "What do you see?",
    "What is shown in this video?",
    "Which objects are in the video?",
    "What things appear in this video?",
    "What is in this clip?",
)
DESCRIBE = (
    "Describe the video.",
    "Describe this video.",
    "What is this video about?",
    "What is happening in this video?",
    "Give a short description of the video.",
    "Summarise the video in one sentence.",
)
MOST = {"object": 5, "count": 3, "order": 6, "direction": 1, "relation": 3, "colour": 2}
TOTAL = (
    "How many objects are there in the video?",
    "How many things are there in the video?",
    "How many objects do you see?",
    "How many things appear in the video?",
)
SECOND = replace(train.POCKET, steps=760, rate=4e-4, lora_rate=6e-4)
THIRD = replace(train.POCKET, steps=400, rate=3e-4, lora_rate=8e-4)
FOURTH = replace(train.POCKET, steps=1000, batch=4, rate=1e-4, lora_rate=6e-4)
FIFTH = replace(train.POCKET, steps=2200, batch=4, rate=1e-4, lora_rate=7e-4, talk=6)
SIXTH = replace(train.POCKET, steps=1900, batch=4, rate=1e-4, lora_rate=6e-4, talk=6)
VAGUE = {
    "animal",
    "insect",
    "man",
    "woman",
    "ape",
    "ship",
}  # groups whose members have better words


def some(questions: list[Question], rng: np.random.Generator) -> list[tuple[str, str]]:
    """A choice of a clip's questions, so that no kind crowds out another."""
    left = dict(MOST)
    pairs = []
    for i in rng.permutation(len(questions)):
        each = questions[i]
        if left[each.kind]:
            left[each.kind] -= 1
            pairs.append((each.question, each.answer))
    return pairs


def asked(listing: str, rng: np.random.Generator) -> list[tuple[str, str]]:
    """The open questions, some in other words. A description tells no motion: pooling loses it."""
    what = f"A video of {listing[0].lower()}{listing[1:]}"
    pairs = [(LISTING[0], listing)]
    pairs += [(str(q), listing) for q in rng.choice(LISTING[1:], 2, replace=False)]
    pairs += [(str(q), what) for q in rng.choice(DESCRIBE[1:], 1)]
    return [*pairs, (DESCRIBE[0], what)]


@dataclass(frozen=True)
class Seen(train.Example):
    """An example that also tells which thing each of its tokens shows, and how much of it."""

    nouns: tuple[str, ...] = ()  # of the clip's n things
    frames: torch.Tensor | None = None  # [FRAMES, n]: part of a frame that a thing covers
    cells: torch.Tensor | None = None  # [SIDE * SIDE, n]: part of a cell, on average over time


def toyworld_example(seed: int, model: PGVideoLLaVA) -> Seen:
    """A training clip: one to five objects, half of the time one after the other."""
    rng = np.random.default_rng([seed, 77])
    count = int(rng.choice([1, 2, 3, 4, 5], p=[0.15, 0.45, 0.25, 0.1, 0.05]))
    shots = count if rng.random() < 0.5 else None
    clip = make_clip(seed, frames=32, fps=8, objects=count, shots=shots)
    listing = next(each.answer for each in clip.qa if each.question == LISTING[0])
    pairs = asked(listing, rng) + some(clip.qa, rng)
    indices = sample_indices(len(clip.frames), FRAMES)
    visible = torch.from_numpy(np.stack([track.visible[indices] for track in clip.tracks]))
    cover = adaptive_avg_pool2d(visible.float(), SIDE).flatten(2)  # [n, FRAMES, SIDE * SIDE]
    return Seen(
        model.encode(clip.frames[indices]).half(),
        tuple(dict.fromkeys(pairs)),
        nouns=tuple(track.category for track in clip.tracks),
        frames=cover.mean(2).T,
        cells=cover.mean(1).T,
    )


# How often a question that begins so is kept. Pooled tokens tell little of motions, places and
# colours: a few such questions teach the form of the answer. The first that fits counts.
KEPT = {
    LISTING[0]: 1.0,
    "What is the first": 1.0,
    "What is the last": 1.0,
    **dict.fromkeys(LISTING[1:] + DESCRIBE, 0.4),
    **dict.fromkeys(("What does", "Which way", "Is the ", "What colour"), 0.15),
    **dict.fromkeys(("What is ", "What moves", "What stays", "What comes", "What bounces"), 0.15),
}


def sharpen(example: train.Example, rng: np.random.Generator, known: list[str]) -> train.Example:
    """Thin out what the tokens do not tell, and ask after as many absent things as present ones."""
    pairs = [
        (question, answer)
        for question, answer in example.pairs
        if rng.random() < next((p for text, p in KEPT.items() if question.startswith(text)), 1)
    ]
    said = " ".join(answer for _, answer in pairs)
    present = sum(answer == "Yes." for _, answer in pairs)
    absent = [noun for noun in rng.choice(known, present) if noun not in said]
    pairs += [(f"Is there {with_article(noun)} in the video?", "No.") for noun in absent]
    return train.Example(example.tokens, tuple(dict.fromkeys(pairs)))


def shown(example: train.Example) -> list[tuple[int, str]]:
    """How many of what an example shows, by its list: (1, "dog"), (2, "cars")."""
    parts = re.split(", | and ", dict(example.pairs)[LISTING[0]].rstrip("."))
    found = [(part[0].lower() + part[1:]).split(" ", 1) for part in parts]
    return [(1 if n in ("a", "an") else NUMBERS.index(n), noun) for n, noun in found]


def counted(example: train.Example) -> train.Example:
    """The total is asked for in several words, and always."""
    answer = f"{NUMBERS[sum(n for n, _ in shown(example))].capitalize()}."
    pairs = (*example.pairs, *((question, answer) for question in TOTAL))
    return replace(example, pairs=tuple(dict.fromkeys(pairs)))


def often(example: train.Example) -> bool:
    """Whether a clip is seen twice as often: one thing, or three and more in turn."""
    total = sum(n for n, _ in shown(example))
    ordered = "Which objects appear, in order?" in dict(example.pairs)
    return total == 1 or (total > 2 and ordered)


def narrated(example: train.Example, rng: np.random.Generator, known: list[str]) -> train.Example:
    """An example's clip with a narrator, who in one of four tells of something absent."""
    nouns = [noun for n, noun in shown(example) if n == 1]
    absent = str(rng.choice(known)) if rng.random() < 0.25 else ""
    told = narrate(nouns, rng, absent)
    pictured = [example.pairs[i] for i in rng.permutation(len(example.pairs))[:4]]
    if absent and absent not in " ".join(answer for _, answer in example.pairs):
        pictured.append((f"Is there {with_article(absent)} in the video?", "No."))
    asked = [*told.pairs, *unsaid(nouns, told, rng), *pictured]
    return replace(example, pairs=tuple(asked), transcript=misheard(told.text, rng))


def keep(file: Path, example: Seen) -> None:
    assert example.tokens is not None
    assert example.frames is not None
    assert example.cells is not None
    tensors = {"tokens": example.tokens, "frames": example.frames, "cells": example.cells}
    said = {"pairs": json.dumps(example.pairs), "nouns": json.dumps(example.nouns)}
    train.write_tensors(file, tensors, said)


def kept(file: Path) -> Seen:
    with safe_open(file, "pt") as found:
        said = {name: json.loads(text) for name, text in found.metadata().items()}
        return Seen(
            found.get_tensor("tokens"),
            tuple((q, a) for q, a in said["pairs"]),
            nouns=tuple(said["nouns"]),
            frames=found.get_tensor("frames"),
            cells=found.get_tensor("cells"),
        )


def naming(example: train.Example, rng: np.random.Generator) -> train.Example:
    """Mostly the questions whose answers name things: of counts, yes and no, two are kept."""
    plain = {sentence(word) for word in ("yes", "no", *NUMBERS)}
    other = [pair for pair in example.pairs if pair[1] in plain]
    kept = [other[i] for i in rng.permutation(len(other))[:2]]
    named = [pair for pair in example.pairs if pair[1] not in plain]
    return replace(example, pairs=(*named, *kept))


def in_turn(nouns: Sequence[str]) -> list[tuple[str, str]]:
    """What is asked of things that appear one after the other."""
    things = [with_article(noun) for noun in nouns]
    return [
        ("Which objects appear, in order?", sentence(", then ".join(things))),
        ("What is the first object to appear?", sentence(things[0])),
        ("What is the last object to appear?", sentence(things[-1])),
    ]


def assembled(shots: scenes.Scenes, rng: np.random.Generator) -> train.Example:
    """A clip put together from kept shots, with the questions that its truth allows."""
    tokens, nouns, ordered = shots.clip(rng, FRAMES)
    counts = Counter(nouns)
    pairs = asked(sentence(listing(nouns)), rng)
    pairs += [(TOTAL[0], sentence(NUMBERS[len(nouns)]))]
    pairs += [(f"Is there {with_article(noun)} in the video?", "Yes.") for noun in counts]
    pairs += [
        (f"How many {plural(noun)} are there?", sentence(NUMBERS[n])) for noun, n in counts.items()
    ]
    if ordered:
        pairs += in_turn(nouns)
        pairs += [
            (f"What appears right after the {before}?", sentence(with_article(after)))
            for before, after in itertools.pairwise(nouns)
            if counts[before] == 1
        ]
    return train.Example(tokens.half(), tuple(pairs))


def names() -> list[str]:
    """What to call each ImageNet class: the everyday word above it, if there is one."""
    info = ImageNetInfo("imagenet-1k")
    called = [info.index_to_description(i).split(", ")[0].lower() for i in range(1000)]
    for word, members in sorted(GROUPS.items(), key=lambda item: -len(item[1])):
        for i in members if word not in VAGUE else []:
            called[i] = word
    for index in WEARABLES.split():
        called[int(index)] = "person"
    return called


def vocabulary(called: Sequence[str]) -> list[str]:
    """What can be shown: the sprites' categories, and what ImageNet's classes are called."""
    return sorted({*categories("train"), *called})


def imagined_example(
    rng: np.random.Generator,
    empty: list[torch.Tensor],
    directions: torch.Tensor,
    called: list[str],
) -> train.Example:
    """Empty scenes with one or two ImageNet classes in them, together or one after the other."""
    count = int(rng.choice([1, 2, 3], p=[0.45, 0.45, 0.1]))
    words: dict[str, int] = {}
    while len(words) < count:
        # Everyday words share a third of the draws: they are what a video shows.
        group = sorted(set(GROUPS) - VAGUE)[rng.integers(len(GROUPS) - len(VAGUE))]
        pool = GROUPS[group] if rng.random() < 0.4 else range(1000)
        index = int(pool[rng.integers(len(pool))])
        words.setdefault(called[index], index)
    ordered = count > 1 and rng.random() < 0.5
    scenes = rng.permutation(len(empty))[: count if ordered else 1]
    cut = [round(FRAMES * i / len(scenes)) for i in range(len(scenes) + 1)]
    cells = torch.stack(
        [empty[scenes[np.searchsorted(cut, t, "right") - 1]] for t in range(FRAMES)]
    )
    cells = cells.clone().view(FRAMES, SIDE, SIDE, -1)
    nouns = list(words) if ordered else sorted(words)
    for place, index in enumerate(words.values()):
        direction = directions[index] * float(rng.uniform(10, 32))
        height, width = rng.integers(2, 6, 2)
        top, left = rng.integers(0, SIDE - height + 1), rng.integers(0, SIDE - width + 1)
        begin, end = (cut[place], cut[place + 1]) if ordered else (0, FRAMES)
        strength = torch.from_numpy(rng.uniform(0.4, 1.2, (end - begin, height, width, 1))).float()
        cells[begin:end, top : top + height, left : left + width] += strength * direction
    cells = cells.clamp(min=0).flatten(1, 2)
    tokens = torch.cat([cells.mean(1), cells.mean(0)])

    pairs = asked(sentence(listing(nouns)), rng)
    absent = called[rng.integers(1000)]
    pairs += [(f"Is there {with_article(noun)} in the video?", "Yes.") for noun in nouns]
    if absent not in nouns:
        pairs += [(f"Is there {with_article(absent)} in the video?", "No.")]
    pairs += [(TOTAL[0], sentence(NUMBERS[count]))]
    if ordered:
        pairs += in_turn(nouns)
    return train.Example(tokens.half(), tuple(pairs))


def class_directions(trunk: torch.nn.Module, features: torch.Tensor) -> torch.Tensor:
    """Unit direction ``[1000, 1280]`` of each ImageNet class among features ``[n, 1280]``."""
    rows = trunk.get_classifier().weight.detach()  # type: ignore[operator]
    rows = rows - rows.mean(0)
    centred = features - features.mean(0)
    covariance = centred.T @ centred / len(centred)
    covariance += covariance.diagonal().mean() * torch.eye(len(covariance))
    return normalize(normalize(rows, dim=-1) + normalize(rows @ covariance, dim=-1), dim=-1)


# Frames of 8 that show one thing for certain, for clips of one to three things in turn.
CERTAIN = {1: [range(8)], 2: [range(3), range(5, 8)], 3: [range(2), range(3, 5), range(6, 8)]}


def named_frames(data: list[train.Example]) -> tuple[torch.Tensor, list[str]]:
    """Temporal tokens ``[n, 1280]`` of frames that show one thing, and its name."""
    tokens, found = [], []
    for example in data:
        said = dict(example.pairs)
        order = said.get("Which objects appear, in order?", "").rstrip(".").split(", then ")
        if said.get("How many objects are there in the video?") == "One.":
            order = [said[LISTING[0]].rstrip(".")]
        for noun, frames in zip(order, CERTAIN.get(len(order), []), strict=False):
            for frame in frames if noun else []:
                assert example.tokens is not None
                tokens.append(example.tokens[frame])
                found.append(noun.lower().split(" ", 1)[1])
    return torch.stack(tokens).float(), found


def align(
    model: PGVideoLLaVA,
    data: list[train.Example],
    empty: list[torch.Tensor],
    directions: torch.Tensor,
    called: list[str],
) -> None:
    """Align the projector with the names of sprites in frames and of imagined classes."""
    tokens, shown = named_frames(data)
    known = list(dict.fromkeys([*shown, *called]))
    number = {name: i for i, name in enumerate(known)}
    frame_names = torch.tensor([number[name] for name in shown])
    class_names = torch.tensor([number[name] for name in called])
    scenes = torch.cat([*empty, torch.stack([cells.mean(0) for cells in empty])])

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        of_frames, of_classes = torch.randint(len(tokens), (192,)), torch.randint(1000, (128,))
        strength = torch.empty(128, 1).uniform_(1.1, 3.5).exp()
        imagined = scenes[torch.randint(len(scenes), (128,))] + strength * directions[of_classes]
        wanted = torch.cat([frame_names[of_frames], class_names[of_classes]])
        return torch.cat([tokens[of_frames], imagined.clamp(min=0)]), wanted

    train.align(model, known, draw, tokens[::10], steps=1500, seed=SEED)


def realign(model: PGVideoLLaVA, clips: Sequence[Seen], shots: Sequence[scenes.Scene]) -> None:
    """Align the projector again, from what it is: frames, cells of things, and empty cells.

    A token is drawn to the names of what covers it, to each as far as it does, and one that nothing
    covers to "background".
    """
    known = [*sorted(categories("train")), "background"]
    number = {name: i for i, name in enumerate(known)}
    pools: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[], [], []]

    def put(tokens: torch.Tensor, nouns: Sequence[str], cover: torch.Tensor, cells: bool) -> None:
        shares = torch.zeros(len(cover), len(known))
        for i, noun in enumerate(nouns):
            shares[:, number[noun]] += cover[:, i] if cells else cover[:, i].sqrt()
        empty = shares.sum(1) < (0.02 if cells else 0.05)
        plain = shares.max(1).values > 0.25  # a cell that is half covered has no name
        shares[:, -1] = empty.float()
        shares /= shares.sum(1, keepdim=True).clamp(min=1e-6)
        # Of the empty cells one in twelve will do.
        few = empty & (torch.rand(len(empty)) < 0.08)
        groups = [(1, plain & ~empty), (2, few)] if cells else [(0, torch.ones_like(empty))]
        for group, these in groups:
            pools[group].append((tokens[these].half(), shares[these].half()))

    torch.manual_seed(SEED)
    for clip in clips:
        assert clip.tokens is not None
        assert clip.frames is not None
        assert clip.cells is not None
        put(clip.tokens[:FRAMES], clip.nouns, clip.frames, cells=False)
        put(clip.tokens[FRAMES:], clip.nouns, clip.cells, cells=True)
    for shot in shots:
        put(shot.cells.float().mean(1), shot.nouns, shot.cover.mean(1), cells=False)
        put(shot.cells.flatten(0, 1), shot.nouns, shot.cover.flatten(0, 1), cells=True)
    tokens = [torch.cat([some for some, _ in pool]) for pool in pools]
    shares = [torch.cat([some for _, some in pool]) for pool in pools]
    sample = torch.cat([some[::20] for some in tokens]).float()
    noise = 0.3 * (sample.std(0) + 1e-3)

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        at = [torch.randint(len(some), (n,)) for some, n in zip(tokens, (192, 96, 32), strict=True)]
        drawn = torch.cat([some[i] for some, i in zip(tokens, at, strict=True)]).float()
        wanted = torch.cat([some[i] for some, i in zip(shares, at, strict=True)]).float()
        return drawn + noise * torch.randn_like(drawn), wanted

    history = train.align(model, known, draw, sample, steps=4000, seed=SEED)
    logging.info("aligned anew: %s", history[-1])


def replay(llm: Any, tokenizer: Any) -> list[train.Example]:
    """Plain questions with the untrained model's own answers, in its own chat format."""
    questions = (Path(__file__).parent / "questions.txt").read_text(encoding="utf-8").splitlines()
    file = FOLDER / "replay.json"
    if not file.exists():
        pairs = []
        for start in tqdm(range(0, len(questions), 17), desc="plain answers"):
            asked = questions[start : start + 17]
            inputs = tokenizer.apply_chat_template(
                [[{"role": "user", "content": question}] for question in asked],
                add_generation_prompt=True,
                padding=True,
                return_tensors="pt",
                return_dict=True,
                tokenizer_kwargs={"padding_side": "left"},
            )
            out = llm.generate(**inputs, max_new_tokens=60, do_sample=False)
            said = tokenizer.batch_decode(out[:, inputs.input_ids.shape[1] :], True)
            for question, text in zip(asked, said, strict=True):
                end = max(text.rfind(mark) for mark in ".!?")  # whole sentences
                if end > 0:
                    pairs.append((question, text[: end + 1].strip()))
        file.write_text(json.dumps(pairs), encoding="utf-8")
    return [train.Example(None, ((q, a),)) for q, a in json.loads(file.read_text())]


def untrained() -> PGVideoLLaVA:
    where = assets.path("smollm2")
    llm = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32)
    encoder = LiteCLIPEncoder()
    torch.manual_seed(SEED)
    fresh = projector.build("mlp2x_gelu", encoder.dim, llm.config.hidden_size)
    tokenizer = AutoTokenizer.from_pretrained(where)
    return PGVideoLLaVA(
        encoder, fresh, llm, tokenizer, "pg-video-llava", FRAMES, SIDE, video_first=True
    )


def examine(model: PGVideoLLaVA, split: str, clips: int = 100) -> dict[str, str]:
    """Right answers by topic on clips of a held-out split, one to three objects in turn."""
    exam, topics = [], []
    for seed in tqdm(range(clips), desc=split):
        count = (2, 2, 3, 1)[seed % 4]
        clip = make_clip(5000 + seed, split, objects=count, shots=count)
        pairs = tuple((each.question, each.answer) for each in clip.qa)
        exam.append(train.Example(model.encode(clip.frames), pairs))
        topics.append([topic(each) for each in clip.qa])
    found: dict[str, list[bool]] = defaultdict(list)
    for asked_for, verdicts in zip(topics, train.evaluate(model, exam), strict=True):
        for name, right in zip(asked_for, verdicts, strict=True):
            found[name].append(right)
    return {
        name: f"{np.mean(right):.1%} of {len(right)}, "
        + "95% from {:.1%} to {:.1%}".format(*wilson(sum(right), len(right)))
        for name, right in sorted(found.items())
    }


def first_stages(
    model: PGVideoLLaVA,
    films: Sequence[Seen],
    empty: list[torch.Tensor],
    called: list[str],
    plain: list[train.Example],
) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """Train an untrained model in two stages: its weights, and the curve."""
    rng = np.random.default_rng(SEED)
    clips: list[train.Example] = list(films)
    assert isinstance(model.encoder, LiteCLIPEncoder)
    directions = directions_of(model.encoder, clips)
    align(model, clips, empty, directions, called)
    data = clips + [imagined_example(rng, empty, directions, called) for _ in range(IMAGINED)]
    data += [each for each in clips if "Which objects appear, in order?" in dict(each.pairs)]
    known = vocabulary(called)
    data = [sharpen(each, rng, known) for each in data]
    data += 2 * plain
    logging.info("%d examples, %d sprite categories", len(data), len(categories("train")))
    run = train.train(model, data, FOLDER, train.POCKET, SEED, fresh=False)
    rng = np.random.default_rng([SEED, 2])
    clips = [counted(sharpen(each, rng, known)) for each in clips]
    second = clips + 2 * [each for each in clips if often(each)]
    second += [narrated(clips[i], rng, known) for i in rng.permutation(CLIPS)[:NARRATED]]
    second += data[CLIPS : CLIPS + IMAGINED] + 2 * plain
    logging.info("second stage: %d examples", len(second))
    more = train.train(model, second, FOLDER / "second", SECOND, SEED, fresh=False)
    return more.weights, curve(run) + curve(more)


@dataclass(frozen=True)
class Stock:
    """What the third stage and those after it draw their examples from."""

    clips: Sequence[Seen]
    shots: Sequence[scenes.Scene]
    empty: list[torch.Tensor]
    directions: torch.Tensor  # of the ImageNet classes
    called: list[str]
    plain: list[train.Example]

    def examples(
        self,
        rng: np.random.Generator,
        together: int,
        clips: Sequence[Seen],
        imagined: int,
        elsewhere: float = 0.0,
    ) -> list[train.Example]:
        """Clips put together, clips that were rendered, and imagined ones."""
        shots = scenes.Scenes(self.shots, elsewhere)
        data = [assembled(shots, rng) for _ in range(together)]
        data += clips
        return data + [
            imagined_example(rng, self.empty, self.directions, self.called) for _ in range(imagined)
        ]


def third_stage(model: PGVideoLLaVA, stock: Stock) -> train.Run:
    """Go on from the second stage with other clips, the projector aligned anew."""
    realign(model, stock.clips, stock.shots)
    rng = np.random.default_rng([SEED, 3])
    known = vocabulary(stock.called)
    data = stock.examples(rng, 4500, stock.clips[:1600], 500)
    data = [counted(sharpen(each, rng, known)) for each in data]
    data += [narrated(each, rng, known) for each in data[4500:5400]] + 2 * stock.plain
    logging.info("third stage: %d examples", len(data))
    return train.train(model, data, FOLDER / "third", THIRD, SEED, fresh=False)


def name_stage(
    model: PGVideoLLaVA,
    name: str,
    recipe: train.Recipe,
    stock: Stock,
    rng: np.random.Generator,
    data: list[train.Example],
    told: slice,
    plain: list[train.Example],
) -> train.Run:
    """Go on with little but names; those of `data` that are `told` come with a narrator too."""
    known = vocabulary(stock.called)
    data = [naming(counted(sharpen(each, rng, known)), rng) for each in data]
    data += [narrated(each, rng, known) for each in data[told]] + plain
    logging.info("%s stage: %d examples", name, len(data))
    return train.train(model, data, FOLDER / name, recipe, SEED, fresh=False)


def fourth_stage(model: PGVideoLLaVA, stock: Stock) -> train.Run:
    """Go on from the third stage with lists and orders, the projector nearly as it is."""
    rng = np.random.default_rng([SEED, 4])
    data = stock.examples(rng, 3000, stock.clips[1600:2300], 200)
    told, plain = slice(3000, 3300), stock.plain[::2]
    return name_stage(model, "fourth", FOURTH, stock, rng, data, told, plain)


def fifth_stage(model: PGVideoLLaVA, stock: Stock) -> train.Run:
    """Go on from the fourth stage for longer, with shots before one another's backgrounds."""
    quicken(model)
    rng = np.random.default_rng([SEED, 5])
    data = stock.examples(rng, 7500, stock.clips, 500, elsewhere=0.6)
    told, plain = slice(7500, 8100), 2 * stock.plain
    return name_stage(model, "fifth", FIFTH, stock, rng, data, told, plain)


def sixth_stage(model: PGVideoLLaVA, stock: Stock) -> train.Run:
    """Go on from the fifth stage, most shots before the scenery."""
    quicken(model)
    rng = np.random.default_rng([SEED, 6])
    data = stock.examples(rng, 5600, stock.clips[:1200], 400, elsewhere=0.3)
    told, plain = slice(5600, 6200), 2 * stock.plain
    return name_stage(model, "sixth", SIXTH, stock, rng, data, told, plain)


STAGES = {
    "third": third_stage,
    "fourth": fourth_stage,
    "fifth": fifth_stage,
    "sixth": sixth_stage,
}


def quicken(model: PGVideoLLaVA) -> None:
    """A fifth less time a step: layers are kept as autocast would cast them at every step."""
    model.lora.unmerge_adapter()  # what is rounded has nothing of the LoRA in it
    model.llm.set_attn_implementation("eager")  # on a CPU, quicker than the kernel with a mask
    if not train.native_bfloat16(model.llm.device):
        return
    for name, module in model.llm.model.layers.named_modules():
        if isinstance(module, torch.nn.Linear) and "lora_" not in name:
            module.to(torch.bfloat16)


def directions_of(encoder: LiteCLIPEncoder, clips: Sequence[train.Example]) -> torch.Tensor:
    cells = [each.tokens[FRAMES:].float() for each in clips[:400] if each.tokens is not None]
    return class_directions(encoder.trunk, torch.cat(cells))


def curve(run: train.Run) -> list[dict[str, float]]:
    return [{key: round(row[key], 4) for key in ("loss", "right")} for row in run.history]


def write_mean(first: Path, second: Path, target: Path) -> None:
    """Write the mean of two stages' weights, with the second's curve.

    What the later stage learned of new backgrounds it paid for before the old ones; halfway between
    the two is better than either (Wortsman et al., 2022, average fine-tuned models for that).
    """
    before, after = load_file(first), load_file(second)
    with safe_open(second, "pt") as found:
        about = found.metadata()
    mean = {name: ((before[name].float() + after[name].float()) / 2).half() for name in after}
    train.write_tensors(target, mean, about)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", default="0/1", help="encode only each n-th clip: 0/2, 1/2")
    part, parts = map(int, parser.parse_args().part.split("/"))
    second = FOLDER / "second.safetensors"
    for name in ("clips", "scenes", "scenery"):
        (FOLDER / name).mkdir(parents=True, exist_ok=True)
    model = untrained()
    encoder = model.encoder
    assert isinstance(encoder, LiteCLIPEncoder)
    clips, shots = [], []
    begin = CLIPS if second.exists() else 0
    for seed in tqdm(range(begin + part, CLIPS + MORE, parts), desc="clips"):
        file = FOLDER / "clips" / f"{seed}.safetensors"
        if not file.exists():
            keep(file, toyworld_example(seed, model))
        clips.append(kept(file))
    for salt, name in ((3, "scenes"), (6, "scenery")):
        pictures = scenery.load() if name == "scenery" else []
        for seed in tqdm(range(part, SCENES, parts), desc=name):
            file = FOLDER / name / f"{seed}.safetensors"
            if not file.exists():
                rng = np.random.default_rng([SEED, salt, seed])
                scenes.keep(file, scenes.scene(rng, encoder, SIDE, pictures))
            shots.append(scenes.kept(file))
    if parts > 1:
        return
    rng = np.random.default_rng(SEED)
    photographs = [backgrounds(rng, "train", 1, 224, 224)[0] for _ in range(400)]
    empty = list(encoder.encode(np.stack(photographs)))
    behind = [scenery.draw(rng, pictures, 1, 224, 224)[0] for _ in range(800)]
    called, plain = names(), replay(model.llm, model.tokenizer)
    if not second.exists():
        weights, history = first_stages(model, clips[:CLIPS], empty, called, plain)
        train.write_tensors(second, weights, {"history": json.dumps(history)})
    directions = directions_of(encoder, clips[-MORE:])
    stock = Stock(clips[-MORE:], shots[:SCENES], empty, directions, called, plain)
    wider = replace(
        stock,
        shots=shots[SCENES * 3 // 4 :],
        empty=[*empty, *encoder.encode(np.stack(behind))],
    )
    before = second
    for name, stage in STAGES.items():
        file = FOLDER / f"{name}.safetensors"
        if not file.exists():
            run = stage(load("smollm2", encoder, before), wider if name == "sixth" else stock)
            with safe_open(before, "pt") as found:
                history = json.loads(found.metadata()["history"])
            train.write_tensors(file, run.weights, {"history": json.dumps(history + curve(run))})
        before = file
    write_mean(FOLDER / "fifth.safetensors", FOLDER / "sixth.safetensors", WEIGHTS)
    logging.info("wrote %s, %.1f MB", WEIGHTS.name, WEIGHTS.stat().st_size / 2**20)
    model = load("smollm2", encoder, WEIGHTS)
    for split in ("compositions", "unseen"):
        logging.info("%s: %s", split, json.dumps(examine(model, split, 60), indent=2))


if __name__ == "__main__":
    main()
