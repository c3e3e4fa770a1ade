"""Training on a model of a few thousand weights, against transformers and against itself."""

import json
import math
import multiprocessing
import os
import socket
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from accelerate.state import AcceleratorState, PartialState
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer

from pgvl_core import assets, projector, train
from pgvl_core.model import PGVideoLLaVA, load
from pgvl_core.prompts import render, video_slot
from pgvl_core.toyworld import make_clip
from pgvl_core.toyworld_formats import conversations, video_instruct
from pgvl_core.train import Example, Recipe, TrainingError
from pgvl_core.video import write_video

COLOURS = ("red", "green", "blue", "grey")
# Enough for a tiny model to learn a few answers by heart.
RECIPE = Recipe(12, 3, 1e-2, 1e-2, questions=2, every=4, standardise=True)


def examples(count=6, tokens=8, seed=0):
    """Videos of one colour each, and what is asked about them."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for i in range(count):
        video = torch.rand(tokens, tiny.ColourEncoder.dim, generator=generator)
        video[:, i % 3] += 2
        pairs = (("Colour?", COLOURS[i % 3]), ("Is it red?", "no" if i % 3 else "yes"))
        found.append(Example(video.half(), pairs))
    return found


@pytest.fixture(autouse=True)
def _afresh():
    """Accelerate keeps the precision of the first run in a process."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def model():
    """Read only: what trains builds its own."""
    return tiny.model()


def weights_of(folder):
    return load_file(folder / train.CHECKPOINT)


def same(a, b, **tolerance):
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], **(tolerance or {"atol": 0, "rtol": 0}))


# --------------------------------------------------------------------------------------- the data
def test_both_forms_of_instructions_give_the_same_pairs(tmp_path):
    clip = make_clip(3, frames=16, height=64, width=64)
    items = video_instruct(clip)
    (tmp_path / "plain.json").write_text(json.dumps(items))
    (tmp_path / "converted.json").write_text(json.dumps(conversations(items)))
    assert len(items) > 3
    assert train.read_instructions(tmp_path / "plain.json") == items
    assert train.read_instructions(tmp_path / "converted.json") == items


def test_a_conversation_of_several_turns_gives_a_pair_each(tmp_path):
    values = ["<video>\nWho?", "A cook.", "Where?", "In a kitchen."]
    said = [{"from": "human", "value": value} for value in values]
    item = {"id": "v", "video": "v_x.pkl", "conversations": said}
    (tmp_path / "i.json").write_text(json.dumps([item]))
    assert train.read_instructions(tmp_path / "i.json") == [
        {"q": "Who?", "a": "A cook.", "video_id": "v_x"},
        {"q": "Where?", "a": "In a kitchen.", "video_id": "v_x"},
    ]


GOOD = {"q": "Who?", "a": "He.", "video_id": "v"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"i\.json: not a readable JSON"),
        (b"\xff\xfe\x00", r"i\.json: not a readable JSON"),
        ([], r"i\.json: no list"),
        ({"q": "Who?"}, r"i\.json: no list"),
        ([GOOD, {"q": "Who?", "a": "He."}], r"i\.json: item 1 .*video_id"),
        ([GOOD, GOOD, 7], r"i\.json: item 2 "),
        ([GOOD, None], r"i\.json: item 1 "),
        ([{"conversations": []}], r"i\.json: item 0 "),
        ([{"video": "v.pkl", "conversations": [{"value": "Who?"}]}], r"i\.json: item 0 .*pairs"),
    ],
)
def test_wrong_instructions_are_named(tmp_path, content, message):
    path = tmp_path / "i.json"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(TrainingError, match=message):
        train.read_instructions(path)


def test_missing_instructions(tmp_path):
    with pytest.raises(TrainingError, match=r"none\.json"):
        train.read_instructions(tmp_path / "none.json")


def test_video_tokens_are_computed_once_and_unreadable_videos_are_listed(tmp_path, model, caplog):
    videos, folder = tmp_path / "videos", tmp_path / "tokens"
    videos.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        write_video(videos / f"{name}.mp4", rng.integers(0, 256, (6, 32, 32, 3), np.uint8), 8)
    (videos / "torn.mp4").write_bytes((videos / "a.mp4").read_bytes()[:300])
    names = ["a", "b", "torn", "missing", "a"]

    skipped = train.precompute(model, names, videos, folder)

    assert skipped.keys() == {"torn", "missing"}
    assert "missing" in skipped["missing"]
    assert ".mp4" in skipped["missing"]
    assert "2 of 4 videos are skipped" in caplog.text
    files = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert files.keys() == {"a.safetensors", "b.safetensors"}
    tokens = load_file(folder / "a.safetensors")["tokens"]
    assert tokens.dtype == torch.float16
    assert tokens.shape == (model.video_tokens, 6)
    (videos / "a.mp4").unlink()  # not asked for again
    assert train.precompute(model, names, videos, folder).keys() == {"torn", "missing"}
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == files

    items = [{"q": f"{name}?", "a": name, "video_id": name} for name in names]
    found = train.examples(items, folder)
    assert [example.pairs for example in found] == [(("a?", "a"), ("a?", "a")), (("b?", "b"),)]
    assert torch.equal(found[0].tokens, tokens)


def test_video_tokens_are_those_of_the_frames(tmp_path, model):
    images = np.zeros((6, 32, 32, 3), np.uint8)
    images[:, :, 16:] = 200
    write_video(tmp_path / "a.mp4", images, 8)
    train.precompute(model, ["a"], tmp_path, tmp_path)
    tokens = load_file(tmp_path / "a.safetensors")["tokens"].float()
    left, right = [0.0] * 3, [200 / 255] * 3
    wanted = torch.tensor([[100 / 255] * 3] * 4 + [left, right, left, right])
    torch.testing.assert_close(tokens[:, :3], wanted, atol=0.02, rtol=0)


# ---------------------------------------------------------------------------------------- a batch
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), min_size=1)


def learned_texts(model, turns):
    """The stretches of a conversation that are learned, as text."""
    row = train.dialogue(model, turns)
    runs, before = [], False
    for token, own in zip(row.ids, row.answers, strict=True):
        if own and not before:
            runs.append([])
        if own:
            runs[-1].append(token)
        before = own
    return [model.tokenizer.decode(run) for run in runs]


@settings(deadline=None, max_examples=50)
@given(turns=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3))
def test_the_answers_and_their_ends_are_learned_and_nothing_else(model, turns):
    assert learned_texts(model, turns) == [f" {answer}</s>" for _, answer in turns]


@pytest.mark.parametrize("name", ["vicuna", "smollm2"])
def test_answers_are_found_with_other_tokenizers(name):
    """One begins every text with a token of its own, the other ends an answer in another word."""
    if name == "vicuna":
        words = tiny.vicuna_words()
    else:
        words = AutoTokenizer.from_pretrained(assets.path(name))
    llm = tiny.language_model(len(words))
    own = projector.build("linear", 6, tiny.WIDTH)
    model = PGVideoLLaVA(
        tiny.ColourEncoder(), own, llm, words, "vicuna_v1", 4, 2, torch.zeros(2, 32)
    )
    turns = [("What?", "A red  cap."), ("Why?", "Señor 猫 said: so!"), ("When", "1")]
    end = {"vicuna": "</s>", "smollm2": "<|im_end|>"}[name]
    # Vicuna's decoder takes the first blank for its own.
    found = [text.removeprefix(" ") for text in learned_texts(model, turns)]
    assert found == [f"{answer}{end}" for _, answer in turns]


def separately(model, pairs, tokens, video_first):
    """Loss of each token of the answers by transformers, each question in a text of its own."""
    found, slot = [], video_slot(model.video_tokens)
    for question, answer in pairs:
        text = render(
            model.template,
            [(question, None)],
            eos="</s>",
            video=slot,
            video_first=video_first,
        )
        asked = model.tokenizer(text).input_ids
        said = model.tokenizer(f" {answer}</s>").input_ids
        with torch.no_grad():
            embeddings = model.embed(
                torch.tensor([asked + said]), model.project(tokens.float())[None]
            )
            logits = model.llm(inputs_embeds=embeddings).logits[0, len(asked) - 1 : -1]
        found.append(cross_entropy(logits, torch.tensor(said), reduction="none"))
    return found


PAIRS = (
    ("What colour is it?", "It is red."),
    ("Why?", "Because."),
    ("Who comes after the dog?", "A cat, then two birds."),
)


def test_no_question_of_a_fan_sees_another(model):
    """The loss of each token is that of the question asked alone, the video before it."""
    first, second = examples(2)
    rows = [train.fan(model, PAIRS), train.fan(model, PAIRS[:1])]
    batch = train.assemble(rows, torch.stack([first.tokens, second.tokens]).float())
    with torch.no_grad():
        losses, right = train.answers(model, batch, model.project(batch.tokens))
    expected = separately(model, PAIRS, first.tokens, True)
    expected += separately(model, PAIRS[:1], second.tokens, True)
    assert len(right) == 4
    torch.testing.assert_close(losses, torch.cat(expected), atol=1e-4, rtol=1e-4)
    lengths = [len(row.ids) for row in rows]
    assert lengths[0] < sum(len(train.fan(model, [pair]).ids) for pair in PAIRS) - 16


@pytest.mark.parametrize("video_first", [False, True])
def test_a_dialogue_is_a_conversation_with_the_video_beside_its_first_question(video_first):
    model, example = tiny.model(), examples(1)[0]
    model.video_first = video_first
    losses = []
    for pair in PAIRS:
        row = train.dialogue(model, [pair])
        batch = train.assemble([row], example.tokens.float()[None])
        with torch.no_grad():
            losses.append(train.answers(model, batch, model.project(batch.tokens))[0])
    expected = separately(model, PAIRS, example.tokens, video_first)
    torch.testing.assert_close(torch.cat(losses), torch.cat(expected), atol=1e-4, rtol=1e-4)


def test_loss_is_transformers_own(model):
    """Two conversations of different lengths, -100 for what is not answered."""
    tokens = torch.stack([example.tokens for example in examples(2)]).float()
    rows = [train.dialogue(model, turns) for turns in (PAIRS[:1], PAIRS)]
    batch = train.assemble(rows, tokens)
    with torch.no_grad():
        projected = model.project(tokens)
        losses, _ = train.answers(model, batch, projected)
        filled = torch.arange(batch.ids.shape[1]) < torch.tensor([[len(r.ids)] for r in rows])
        theirs = model.llm(
            inputs_embeds=model.embed(batch.ids, projected),
            attention_mask=filled.long(),
            labels=batch.labels,
        ).loss
    torch.testing.assert_close(losses.mean(), theirs, atol=1e-5, rtol=1e-5)


def test_a_batch_mixes_fans_dialogues_and_plain_text(model):
    data = [*examples(2), Example(None, (("Hello", "Hi."),))]
    rngs = [np.random.default_rng(i) for i in range(3)]
    batch = train.collate(model, [data[0], data[2], data[1]], rngs, RECIPE, fans=True)
    assert batch.tokens.shape == (2, 8, 6)
    patches = (batch.ids == model.word_ids[0]).sum(1)
    assert patches.tolist() == [8, 0, 8]
    assert batch.branch[0].unique().tolist() in ([0, 1, 2], [-1, 0, 1, 2])


def test_what_is_too_long_loses_its_end(model):
    video = examples(1)[0].tokens
    data = [Example(video, (("Tell.", "so " * 900),)), Example(video, (("Tell.", "so"),))]
    rngs = [np.random.default_rng(0)] * 2
    batch = train.collate(model, data, rngs, replace(RECIPE, tokens=150), fans=False)
    assert batch.ids.shape == (2, 150)
    assert batch.labels[0, -1] == batch.ids[0, -1]


def test_a_question_that_leaves_no_room_for_the_video_is_refused(model):
    """Else the next example of the batch would read this one's tokens."""
    data = [Example(examples(1)[0].tokens, (("why " * 300, "so"),))]
    with pytest.raises(TrainingError, match=r"'why why .* 200 tokens"):
        train.collate(
            model, data, [np.random.default_rng(0)], replace(RECIPE, tokens=200), fans=False
        )


def test_a_batch_whose_answers_were_all_cut_has_no_loss(model):
    rows = [train.Row(*(part[:40] for part in train.dialogue(model, PAIRS, video=False)))]
    losses, right = train.answers(model, train.assemble(rows, None), None)
    assert len(losses) == len(right) == 0


# ------------------------------------------------------------------------------------- a training
@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A model that knows a few answers by heart, what it was before, and how it got there."""
    AcceleratorState._reset_state(reset_partial_state=True)
    model, folder = tiny.model(marks=False), tmp_path_factory.mktemp("learned")
    before = {name: value.clone() for name, value in model.llm.state_dict().items()}
    run = train.train(model, examples(), folder, replace(RECIPE, steps=50, batch=6, lora_rate=3e-2))
    return model, before, run


def test_loss_falls(learned):
    history = learned[2].history
    assert [row["step"] for row in history] == list(range(50))
    losses, rights = ([row[name] for row in history] for name in ("loss", "right"))
    assert np.mean(losses[:5]) > 4
    assert np.mean(losses[-5:]) < 2
    assert np.mean(rights[:5]) < 0.2
    assert np.mean(rights[-5:]) > 0.6


def test_the_language_models_own_weights_do_not_change(learned):
    model, before, _ = learned
    after = model.llm.state_dict()
    base = {
        name.replace(".base_layer", ""): value
        for name, value in after.items()
        if "lora_" not in name
    }
    same(base, before)
    assert all((value != 0).any() for name, value in after.items() if "lora_B" in name)
    assert not any(value.requires_grad for value in model.parameters())


@pytest.mark.parametrize(("talk", "expected"), [(2, "FCFCFC"), (3, "FFCFFC")])
def test_one_step_in_so_many_is_of_conversations(talk, expected, tmp_path, monkeypatch):
    """A fan has several branches that read the video, a conversation has none."""
    seen = []

    def watch(rows, tokens):
        seen.append("F" if max(max(row.branch) for row in rows) else "C")
        return assemble(rows, tokens)

    assemble = train.assemble
    monkeypatch.setattr(train, "assemble", watch)
    train.train(tiny.model(), examples(), tmp_path, replace(RECIPE, steps=6, talk=talk))
    assert "".join(seen) == expected


@pytest.mark.parametrize("lora", [0, 1e-2])
def test_projector_marks_and_lora_are_what_is_trained(lora, tmp_path):
    model = tiny.model(marks=False)
    train.train(model, examples(), tmp_path, replace(RECIPE, steps=1, lora_rate=lora))
    trained = {name for name in weights_of(tmp_path) if name.startswith("weight/")}
    parts = ["linear_1.weight", "linear_1.bias", "linear_2.weight", "linear_2.bias"]
    wanted = {"weight/model.marks", *(f"weight/model.projector.{part}" for part in parts)}
    rest = trained - wanted
    assert trained >= wanted
    assert all("lora_" in name for name in rest)
    assert len(rest) == (2 * 7 * 2 if lora else 0)  # layers, matrices, A and B


@pytest.mark.parametrize("video_first", [True, False])
@pytest.mark.parametrize("trained", [True, False])
def test_a_right_answer_is_what_greedy_decoding_gives(
    learned, model, trained, video_first, monkeypatch
):
    """Verdicts of one pass against answers that were really generated."""
    model = learned[0] if trained else model
    monkeypatch.setattr(model, "video_first", video_first)
    data = [*examples(), Example(None, (("Colour?", "red"),))]
    data[1] = replace(data[1], transcript="Look, how nice!")
    # What the model does say is right, whatever it has learned; a word less or more is not.
    for i, example in enumerate(data):
        video = example.tokens is not None
        tokens = example.tokens.float() if video else None
        ids = model.fit([("Well?", None)], example.transcript, video).ids
        said = model.tokenizer.decode(list(model.stream(ids, tokens, max_new_tokens=6))[:-1])
        pairs = (*example.pairs, ("Well?", said.removeprefix(" ")), ("Colour?", "red and so on"))
        data[i] = replace(example, pairs=pairs)
    expected = []
    for example in data:
        video = example.tokens is not None
        tokens = example.tokens.float() if video else None
        expected.append([])
        for question, answer in example.pairs:
            wanted = model.tokenizer(f" {answer}</s>").input_ids
            ids = model.fit([(question, None)], example.transcript, video).ids
            given = list(model.stream(ids, tokens, max_new_tokens=len(wanted)))
            expected[-1].append([*given, model.tokenizer.eos_token_id][: len(wanted)] == wanted)
    assert train.evaluate(model, data, batch=2) == expected
    verdicts = {verdict for row in expected for verdict in row}
    assert verdicts == ({True, False} if trained else {False})


@pytest.mark.parametrize("kind", ["mlp2x_gelu", "linear"])
def test_standardising_and_folding_change_no_answer(kind):
    """Raw features, standardised ones with a scaled output, raw ones: the same losses."""
    model = tiny.model(marks=False)
    model.projector = projector.build(kind, 6, tiny.WIDTH)
    data = examples()
    tokens = torch.stack([example.tokens.float() for example in data])
    before = model.project(tokens)
    learner = train.Learner(model, RECIPE, 5 + 3 * tokens.flatten(0, 1))
    rows = [train.dialogue(model, example.pairs) for example in data]
    batch = train.assemble(rows, tokens)
    assert learner.scale != 1
    assert not torch.allclose(learner.mean, torch.zeros(6))
    with torch.no_grad():
        expected = train.answers(model, batch, before)[0]
        during = learner(batch)[0]
        assert not torch.allclose(model.project(tokens), before, atol=0.1)
        weights = learner.fold()
        after = train.answers(model, batch, model.project(tokens))[0]
    torch.testing.assert_close(during, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after, expected, atol=1e-4, rtol=1e-4)
    assert {value.dtype for value in weights.values()} == {torch.float16}


def test_saved_weights_are_read_back(tmp_path):
    """A folder of the language model and the written file give the trained model's logits."""
    model = tiny.model(marks=False, frames=8, side=7)
    model.video_first = True  # as a model with its own projector file is
    model.llm.save_pretrained(tmp_path / "llm")
    tiny.tokenizer().save_pretrained(tmp_path / "llm")
    data = examples(tokens=8 + 49)
    run = train.train(model, data, tmp_path / "run", RECIPE)
    train.write_tensors(tmp_path / "own.safetensors", run.weights)
    again = load(tmp_path / "llm", tiny.ColourEncoder(), tmp_path / "own.safetensors")
    found = []
    for each in (model, again):
        ids = each.fit([("Colour?", None)]).ids
        with torch.no_grad():
            embeddings = each.embed(ids[None], each.project(data[0].tokens.float())[None])
            found.append(each.llm(inputs_embeds=embeddings).logits[0, -1].softmax(-1))
    torch.testing.assert_close(*found, atol=0.01, rtol=0)
    assert sum(found[0] > 0.02) > 1  # unlike a softmax that any model would give


def test_training_goes_on_beside_the_language_models_own_weights(tmp_path):
    """The LoRA that was merged when it was loaded is taken out of the frozen matrices."""
    model = tiny.model(marks=False, frames=8, side=7)
    model.llm.save_pretrained(tmp_path / "llm")
    tiny.tokenizer().save_pretrained(tmp_path / "llm")
    own = {f"{name}.weight": layer.weight.clone() for name, layer in linear(model.llm)}
    run = train.train(model, examples(tokens=8 + 49), tmp_path / "run", RECIPE)
    train.write_tensors(tmp_path / "own.safetensors", run.weights)
    again = load(tmp_path / "llm", tiny.ColourEncoder(), tmp_path / "own.safetensors")
    merged = {f"{name}.weight": layer.weight for name, layer in linear(again.llm)}
    assert all(not torch.equal(merged[name], own[name]) for name in merged)
    train.Learner(again, RECIPE, None)
    same(merged, own, atol=1e-5, rtol=1e-5)


def linear(llm):
    """The matrices that a LoRA adapts, by their own names."""
    for name, layer in llm.model.layers.named_modules():
        if name.endswith("_proj"):
            yield name, layer


@pytest.mark.parametrize("native", [True, False])
def test_a_model_of_half_precision_answers_after_its_training(tmp_path, monkeypatch, native):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    model = tiny.model(marks=True)
    model.llm.to(torch.bfloat16)
    model.projector.to(torch.bfloat16)
    model.marks.data = model.marks.data.to(torch.bfloat16)
    data = examples()
    run = train.train(model, data, tmp_path, replace(RECIPE, precision="bf16"))
    assert run.history[-1]["loss"] < run.history[0]["loss"]
    assert weights_of(tmp_path)["weight/model.marks"].dtype == torch.float32
    ids = model.fit([("Colour?", None)]).ids
    assert len(list(model.stream(ids, data[0].tokens.float(), max_new_tokens=3))) <= 3


# -------------------------------------------------------------------------- the same run, again
def test_same_seed_same_weights(tmp_path):
    runs = [
        train.train(tiny.model(marks=False), examples(), tmp_path / str(i), RECIPE, seed)
        for i, seed in enumerate([5, 5, 6])
    ]
    same(runs[0].weights, runs[1].weights)
    assert runs[0].history == runs[1].history
    assert runs[0].history[0]["loss"] != runs[2].history[0]["loss"]


def in_another_process(target, *args):
    """A process that has trained nothing yet: it imports what a server imported once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pgvl_core.train"])
    process = context.Process(target=target, args=args)
    process.start()
    return process


def run_and_wait(folder):
    """Train until the first report after a checkpoint, then hang until killed."""
    torch.set_num_threads(1)

    def hang(history):
        multiprocessing.Event().wait()

    train.train(tiny.model(marks=False), examples(), folder, RECIPE, report=hang)


def test_a_killed_run_continues_to_the_same_weights(tmp_path):
    process = in_another_process(run_and_wait, tmp_path / "killed")
    checkpoint = tmp_path / "killed" / train.CHECKPOINT
    while process.is_alive() and not checkpoint.exists():
        process.join(0.05)
    process.kill()
    process.join()
    assert checkpoint.exists()
    seen = []
    again = train.train(
        tiny.model(marks=False),
        examples(),
        tmp_path / "killed",
        RECIPE,
        report=lambda history: seen.append(len(history)),
    )
    whole = train.train(tiny.model(marks=False), examples(), tmp_path / "whole", RECIPE)
    assert seen == [5, 10, 12]  # it went on at step 4
    assert len(again.history) == 12
    same(again.weights, whole.weights, atol=1e-3, rtol=1e-3)  # half precision
    same(weights_of(tmp_path / "killed"), weights_of(tmp_path / "whole"), atol=1e-6, rtol=1e-5)


class Stop(Exception):
    """What a person's interrupt is to a run."""


def stopped(folder, data, recipe):
    def stop(history):
        raise Stop

    with pytest.raises(Stop):
        train.train(tiny.model(marks=False), data, folder, recipe, report=stop)


def test_plain_text_among_the_examples_continues_as_well(tmp_path):
    """Steps without a video leave the projector out, and it is still the same run."""
    data = examples(2) + [Example(None, ((f"Say {i}", str(i)),)) for i in range(10)]
    recipe = replace(RECIPE, batch=1, every=1)
    stopped(tmp_path / "stopped", data, recipe)
    train.train(tiny.model(marks=False), data, tmp_path / "stopped", recipe)
    train.train(tiny.model(marks=False), data, tmp_path / "whole", recipe)
    same(weights_of(tmp_path / "stopped"), weights_of(tmp_path / "whole"), atol=1e-6, rtol=1e-5)


def test_a_finished_run_is_not_trained_further(tmp_path):
    first = train.train(tiny.model(marks=False), examples(), tmp_path, RECIPE)
    again = train.train(tiny.model(marks=False), examples(), tmp_path, RECIPE)
    assert again.history == first.history
    same(again.weights, first.weights)


@pytest.mark.parametrize(
    ("recipe", "seed", "count"),
    [(replace(RECIPE, rate=1e-3), 0, 6), (RECIPE, 1, 6), (RECIPE, 0, 5)],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, recipe, seed, count):
    train.train(tiny.model(marks=False), examples(), tmp_path, replace(RECIPE, steps=4))
    before = (tmp_path / train.CHECKPOINT).read_bytes()
    recipe = replace(recipe, steps=4)
    with pytest.raises(TrainingError, match="another run"):
        train.train(tiny.model(marks=False), examples(count), tmp_path, recipe, seed)
    assert (tmp_path / train.CHECKPOINT).read_bytes() == before


def test_nothing_to_train_on(tmp_path):
    for data in ([], [Example(None, (("Hello", "Hi."),))]):
        with pytest.raises(TrainingError, match="no example has a video"):
            train.train(tiny.model(), data, tmp_path, RECIPE)


def test_a_loss_that_is_no_number_stops_the_run_and_the_checkpoint_is_good(tmp_path):
    model = tiny.model(marks=False)

    def break_it(history):
        model.projector.linear_1.weight.data.fill_(math.inf)

    with pytest.raises(TrainingError, match="step 5 has a loss of nan"):
        train.train(model, examples(), tmp_path / "broken", RECIPE, report=break_it)
    assert all(value.isfinite().all() for value in weights_of(tmp_path / "broken").values())
    with safe_open(tmp_path / "broken" / train.CHECKPOINT, "pt") as file:
        assert len(json.loads(file.metadata()["history"])) == 4
    train.train(tiny.model(marks=False), examples(), tmp_path / "broken", RECIPE)
    train.train(tiny.model(marks=False), examples(), tmp_path / "whole", RECIPE)
    same(weights_of(tmp_path / "broken"), weights_of(tmp_path / "whole"), atol=1e-6, rtol=1e-5)


def test_tokens_that_are_no_numbers_stop_the_run(tmp_path):
    data = examples()
    data[2].tokens[0, 0] = math.inf
    with pytest.raises(TrainingError, match="step 0 has a loss of nan"):
        train.train(tiny.model(marks=False), data, tmp_path, RECIPE)
    assert not list(tmp_path.iterdir())


# -------------------------------------------------------------------- several processes, memory
def one_of_two(folder, rank, port):
    torch.set_num_threads(1)
    about = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in about.items()}
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    recipe = replace(RECIPE, batch=4, steps=6, checkpointing=True)
    run = train.train(tiny.model(marks=False), examples(), folder / "two", recipe)
    save_file(run.weights, folder / f"{rank}.safetensors")
    (folder / f"{rank}.json").write_text(json.dumps([PartialState().num_processes, run.history]))


def test_two_processes_learn_what_one_does(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [in_another_process(one_of_two, tmp_path, rank, port) for rank in range(2)]
    recipe = replace(RECIPE, batch=4, steps=6)
    alone = train.train(tiny.model(marks=False), examples(), tmp_path / "one", recipe)
    for process in both:
        process.join(120)
        assert process.exitcode == 0
    for rank in range(2):
        count, history = json.loads((tmp_path / f"{rank}.json").read_text())
        assert count == 2
        for ours, theirs in zip(history, alone.history, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-4)
        same(load_file(tmp_path / f"{rank}.safetensors"), alone.weights, atol=2e-3, rtol=2e-3)


def test_gradient_checkpointing_computes_twice_and_changes_nothing(tmp_path):
    histories, passes = [], []
    for checkpointing in (False, True):
        model = tiny.model(marks=False)
        calls = []
        layer = model.llm.model.layers[0].mlp
        layer.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        recipe = replace(RECIPE, steps=4, checkpointing=checkpointing)
        run = train.train(model, examples(), tmp_path / str(checkpointing), recipe)
        histories.append([row["loss"] for row in run.history])
        passes.append(len(calls))
        assert not model.llm.training
    assert passes == [4, 8]
    assert histories[1] == pytest.approx(histories[0], abs=1e-5)


# --------------------------------------------------------------------------------- the paper's way
class Watched(torch.optim.AdamW):
    """Keeps what each step is made with."""

    steps: list[dict] = []  # noqa: RUF012

    def step(self, closure=None):
        self.steps.append([dict(group, params=None) for group in self.param_groups])
        return super().step(closure)


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_only_where_the_processor_multiplies_it(tmp_path, monkeypatch, native):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    model, kinds = tiny.model(marks=False), set()
    gate = model.llm.model.layers[0].mlp.gate_proj
    gate.register_forward_hook(lambda _, __, output: kinds.add(output.dtype))
    train.train(model, examples(), tmp_path, replace(RECIPE, precision="bf16", steps=1))
    assert kinds == {torch.bfloat16 if native else torch.float32}
    assert train.native_bfloat16(torch.device("cuda"))


def test_the_papers_numbers_are_used(tmp_path, monkeypatch):
    """Section 4.1: 3 epochs, batches of 32, 2e-5; the rest as Video-ChatGPT trains."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    monkeypatch.setattr(Watched, "steps", [])
    model, seen, kinds, passes = tiny.model(marks=False), [], set(), []
    model.projector.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    mlp = model.llm.model.layers[0].mlp
    mlp.register_forward_pre_hook(lambda *_: passes.append(1))
    mlp.gate_proj.register_forward_hook(lambda _, __, output: kinds.add(output.dtype))
    run = train.train(model, examples(70), tmp_path, train.PAPER)
    assert seen == [32] * 9  # 3 epochs of 70 videos
    assert kinds == {torch.bfloat16}
    assert len(passes) == 2 * len(run.history) == 18  # activations are computed twice
    for groups in Watched.steps:
        assert [group["weight_decay"] for group in groups] == [0]
    cosine = [2e-5 * (1 + math.cos(math.pi * step / 9)) / 2 for step in range(9)]
    rates = [groups[0]["lr"] for groups in Watched.steps]
    assert rates == pytest.approx(cosine)
    assert not any("lora" in name for name in weights_of(tmp_path))
    assert train.PAPER.tokens == 2048


def test_the_papers_rate_warms_up_over_three_hundredths_of_the_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    monkeypatch.setattr(Watched, "steps", [])
    recipe = replace(train.PAPER, batch=1, precision="no", checkpointing=False)
    train.train(tiny.model(marks=False), examples(33), tmp_path, recipe)  # 99 steps
    rates = [groups[0]["lr"] for groups in Watched.steps]
    assert len(rates) == 99
    assert rates[:4] == pytest.approx([0, 2e-5 / 3, 4e-5 / 3, 2e-5])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] < 2e-8


def test_projector_and_lora_have_rates_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    monkeypatch.setattr(Watched, "steps", [])
    recipe = replace(RECIPE, steps=2, warmup=0, rate=0.5, lora_rate=0.25)
    train.train(tiny.model(marks=False), examples(), tmp_path, recipe)
    assert sorted(group["lr"] for group in Watched.steps[0]) == [0.25, 0.5]


@pytest.mark.parametrize("standardise", [True, False])
def test_a_projector_that_was_read_is_trained_further(tmp_path, standardise):
    """Not fresh: the first loss is the model's own."""
    model, data = tiny.model(), examples(1)
    recipe = replace(RECIPE, batch=1, steps=1, questions=1, standardise=standardise)
    rng = np.random.default_rng([0, 1, 0])
    batch = train.collate(model, data, [rng], recipe, fans=True)
    with torch.no_grad():
        losses, _ = train.answers(model, batch, model.project(batch.tokens))
    run = train.train(model, data, tmp_path, recipe, fresh=False)
    assert run.history[0]["loss"] == pytest.approx(losses.mean().item(), rel=1e-5)


def test_examples_are_seen_once_an_epoch(tmp_path, monkeypatch):
    """Two epochs, both in full, in two orders."""
    seen = []
    own = train.collate
    monkeypatch.setattr(
        train, "collate", lambda m, chosen, *rest: (seen.extend(chosen), own(m, chosen, *rest))[1]
    )
    data = examples(6)
    recipe = replace(RECIPE, steps=None, epochs=2, batch=2)
    train.train(tiny.model(marks=False), data, tmp_path, recipe)
    order = [next(i for i, each in enumerate(data) if each is one) for one in seen]
    assert sorted(order[:6]) == sorted(order[6:]) == list(range(6))
    assert order[:6] != order[6:]


def test_a_loaded_lora_is_trained_further_and_saved_whole(tmp_path):
    """Not a second one beside it: base and file alone give the trained model again."""
    first = tiny.model(marks=False, frames=8, side=7)  # as `load` makes of a language model
    first.llm.save_pretrained(tmp_path / "llm")
    first.tokenizer.save_pretrained(tmp_path / "llm")
    recipe = replace(RECIPE, steps=6, lora_rate=1e-2)

    def again_from(name):
        return load(tmp_path / "llm", tiny.ColourEncoder(), tmp_path / name)

    run = train.train(first, examples(tokens=57), tmp_path / "a", recipe)
    train.write_tensors(tmp_path / "a.safetensors", run.weights)
    second = again_from("a.safetensors")
    run = train.train(second, examples(tokens=57), tmp_path / "b", recipe, seed=1, fresh=False)
    train.write_tensors(tmp_path / "b.safetensors", run.weights)
    ids = second.ids("USER: What is it? ASSISTANT:")[None]
    wanted, again, before = (
        each.llm(ids).logits
        for each in (second, again_from("b.safetensors"), again_from("a.safetensors"))
    )
    torch.testing.assert_close(again, wanted, atol=2e-2, rtol=1e-2)
    assert (wanted - before).abs().max() > 0.2


def test_alignment_draws_tokens_to_their_words():
    """Three kinds of token, three words: each is written nearest to its own word's embedding."""
    model = tiny.model(marks=False)
    names, kinds = ["ant", "bee", "cat"], 5 + 3 * torch.eye(tiny.ColourEncoder.dim)[:3]

    def draw():
        shown = torch.randint(3, (16,))
        return kinds[shown] + 0.2 * torch.randn(16, tiny.ColourEncoder.dim), shown

    sample = torch.cat([draw()[0] for _ in range(10)])
    history = train.align(model, names, draw, sample, steps=3000)
    words = model.llm.get_input_embeddings().weight
    vectors = torch.stack([words[model.tokenizer(f" {name}").input_ids].mean(0) for name in names])
    distances = torch.cdist(model.project(kinds), vectors)
    assert distances.argmin(1).tolist() == [0, 1, 2]
    assert distances.diagonal().max() < 0.5 * torch.cdist(vectors, vectors)[0, 1]
    assert np.mean([row["right"] for row in history[-20:]]) > 0.9
    assert not any(value.requires_grad for value in model.parameters())
