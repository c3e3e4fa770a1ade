"""Against transformers' own LLaVA, with tiny random weights in the layout of its checkpoints."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from tiny import WIDTH, ColourEncoder, language_model, model, tokenizer, vicuna_words
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    DynamicCache,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2Config,
    SiglipImageProcessor,
    SiglipVisionConfig,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from pgvl_core import pooling, projector, temporal
from pgvl_core.model import load
from pgvl_core.temporal import Conv3d

SIZE, PATCH, VISION = 32, 8, 24  # 4 x 4 patches of 24 numbers
TURNS = [("Who is it?", "A cook."), ("What does he do?", None)]
TOWER = {
    "hidden_size": VISION,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": SIZE,
    "patch_size": PATCH,
}
TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
}


def save_llava(folder, kind):
    """As llava-hf/llava-1.5-7b-hf or llava-hf/llava-interleave-qwen-0.5b-hf are laid out."""
    words = vicuna_words() if kind == "vicuna" else tokenizer()
    words.add_tokens(["<image>"], special_tokens=True)
    special = {
        "vocab_size": len(words) + 7,  # padded, as theirs are
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
    }
    image = {"image_token_index": words.convert_tokens_to_ids("<image>")}
    if kind == "vicuna":
        vision, text = CLIPVisionConfig(**TOWER), LlamaConfig(**TEXT, **special)
        eyes = CLIPImageProcessor(
            size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
        )
        config = LlavaConfig(vision_config=vision, text_config=text, **image)
    else:
        vision = SiglipVisionConfig(**TOWER, vision_use_head=False)
        text = Qwen2Config(**TEXT, **special, tie_word_embeddings=True)
        eyes = SiglipImageProcessor(size={"height": SIZE, "width": SIZE})
        config = LlavaConfig(
            vision_config=vision,
            text_config=text,
            **image,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
            tie_word_embeddings=True,
        )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    eyes.save_pretrained(folder)
    words.save_pretrained(folder)


@pytest.fixture(scope="module", params=["vicuna", "qwen"])
def checkpoint(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    save_llava(folder, request.param)
    return folder


@pytest.fixture(scope="module")
def vicuna(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava")
    save_llava(folder, "vicuna")
    return folder


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (6, 40, 48, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def tiny():
    return model()


# ---------------------------------------------------------------------------- LLaVA's checkpoints
def expected_tokens(llava, checkpoint, images):
    """Patch features by transformers alone, averaged by NumPy, zeros for frames that are not."""
    kind = SiglipImageProcessor if llava.config.vision_feature_layer == -1 else CLIPImageProcessor
    pixels = kind.from_pretrained(checkpoint)(
        [Image.fromarray(image) for image in images], return_tensors="pt"
    )["pixel_values"]
    with torch.no_grad():
        layers = llava.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    # CLIP: the last layer's input without the class token; SigLIP, which has none: all it says.
    features = layers[-1] if llava.config.vision_feature_layer == -1 else layers[-2][:, 1:]
    features = features.numpy()
    zeros = np.zeros((100 - len(images), VISION))
    return np.concatenate([features.mean(1), zeros, features.mean(0)])


def test_tower_gives_the_checkpoints_own_features(checkpoint, images):
    llava = LlavaForConditionalGeneration.from_pretrained(checkpoint)
    tokens = load(checkpoint).encode(images)
    assert tokens.shape == (100 + 16, VISION)
    np.testing.assert_allclose(tokens, expected_tokens(llava, checkpoint, images), atol=1e-5)


@pytest.fixture(scope="module")
def reference(checkpoint, images):
    """Logits and greedy answer of transformers' LLaVA, whose image is our video."""
    llava = LlavaForConditionalGeneration.from_pretrained(checkpoint)
    tokens = torch.from_numpy(expected_tokens(llava, checkpoint, images)).float()
    with torch.no_grad():
        projected = llava.model.multi_modal_projector(tokens)
    llava.model.get_image_features = lambda *_, **__: BaseModelOutputWithPooling(
        pooler_output=[projected]
    )
    ours = load(checkpoint)
    prompt = ours.fit(TURNS, "Chop the onions.")
    ids = prompt.ids.clone()
    ids[ids == ours.word_ids[0]] = llava.config.image_token_id
    pixels, answer = torch.zeros(1, 3, SIZE, SIZE), []
    with torch.no_grad():
        logits = llava(input_ids=ids[None], pixel_values=pixels).logits
        for _ in range(12):  # without a cache
            every = torch.cat([ids, torch.tensor(answer, dtype=torch.long)])
            last = llava(input_ids=every[None], pixel_values=pixels).logits[0, -1]
            answer.append(int(last.argmax()))
    return ours, prompt, tokens, logits, answer


def test_logits_are_those_of_transformers_llava(reference):
    ours, prompt, tokens, logits, _ = reference
    with torch.no_grad():
        embeddings = ours.embed(prompt.ids[None], ours.project(tokens)[None])
        found = ours.llm(inputs_embeds=embeddings).logits
    assert len(set(logits.argmax(-1)[0].tolist())) > 5  # not the same word everywhere
    torch.testing.assert_close(found, logits, atol=1e-4, rtol=1e-4)


def test_greedy_answer_is_that_of_transformers_llava(reference):
    ours, prompt, tokens, _, answer = reference
    assert list(ours.stream(prompt.ids, tokens, max_new_tokens=12)) == answer
    assert len(set(answer)) > 2
    with torch.inference_mode():
        embeddings = ours.embed(prompt.ids[None], ours.project(tokens)[None])
        generated = ours.llm.generate(
            inputs_embeds=embeddings, do_sample=False, max_new_tokens=12, eos_token_id=-1
        )
    assert generated[0].tolist() == answer


def test_answer_stops_at_the_end_token(reference):
    """With the answer's third token for the end, two are left."""
    ours, prompt, tokens, _, answer = reference
    end = next(i for i in range(1, len(answer)) if answer[i] not in answer[:i])
    own = ours.tokenizer.eos_token
    ours.tokenizer.eos_token = ours.tokenizer.convert_ids_to_tokens(answer[end])
    try:
        assert list(ours.stream(prompt.ids, tokens, max_new_tokens=12)) == answer[:end]
    finally:
        ours.tokenizer.eos_token = own


def test_vicunas_prompt_begins_with_the_begin_token_and_words_as_the_tokenizer_has_them(vicuna):
    ours = load(vicuna)
    assert ours.template == "vicuna_v1"
    ids = ours.fit(TURNS).ids
    assert ids[0] == 1
    assert (ids == 2).sum() == 1  # </s> after the one answer given
    assert ours.tokenizer.decode(ids[1:]) == ours.render(TURNS)


def test_half_precision(vicuna, images):
    ours = load(vicuna, dtype=torch.bfloat16)
    tokens = ours.encode(images)
    assert tokens.dtype == torch.float32
    assert len(list(ours.stream(ours.fit(TURNS).ids, tokens, max_new_tokens=3))) <= 3


# -------------------------------------------------------------------------- official projectors
def official(folder, rows, k=WIDTH):
    """A projector as LLaVA's training saves it, with an embedding table of that many rows."""
    weights = {
        "model.mm_projector.0.weight": torch.randn(k, VISION),
        "model.mm_projector.0.bias": torch.randn(k),
        "model.mm_projector.2.weight": torch.randn(k, k),
        "model.mm_projector.2.bias": torch.randn(k),
        "model.embed_tokens.weight": torch.randn(rows, k),
    }
    torch.save(weights, folder / "mm_projector.bin")
    return folder / "mm_projector.bin", weights


@pytest.mark.parametrize("rows", [2, 400])
def test_official_projector_and_its_marks_are_used(vicuna, tmp_path, rows):
    path, weights = official(tmp_path, rows)
    ours = load(vicuna, projector=path)
    assert ours.template == "pg-video-llava"
    tokens = torch.randn(ours.video_tokens, VISION)
    names = ("0.weight", "0.bias", "2.weight", "2.bias")
    w0, b0, w2, b2 = (weights[f"model.mm_projector.{name}"] for name in names)
    hidden = tokens @ w0.T + b0
    projected = (hidden * (1 + torch.erf(hidden / 2**0.5)) / 2) @ w2.T + b2
    torch.testing.assert_close(ours.project(tokens), projected, atol=1e-3, rtol=1e-4)

    ids = ours.fit(TURNS).ids
    embedded = ours.embed(ids[None], ours.project(tokens)[None])[0]
    begin = ids.tolist().index(ours.word_ids[1])
    end = begin + ours.video_tokens + 1
    marks = weights["model.embed_tokens.weight"][-2:]
    torch.testing.assert_close(embedded[[begin, end]], marks)
    torch.testing.assert_close(embedded[begin + 1 : end], ours.project(tokens))
    table = LlavaForConditionalGeneration.from_pretrained(vicuna).get_input_embeddings().weight
    torch.testing.assert_close(embedded[:begin], table[ids[:begin]])
    torch.testing.assert_close(embedded[end + 1 :], table[ids[end + 1 :]])


def test_projector_of_another_size_is_refused(vicuna, tmp_path):
    path, _ = official(tmp_path, 2, k=WIDTH + 1)
    with pytest.raises(ValueError, match=rf"mm_projector\.bin.*{VISION}.*{WIDTH}"):
        load(vicuna, projector=path)


# ------------------------------------------------------------------ a language model with LoRA
@pytest.fixture
def plain(tmp_path):
    """A folder of a language model alone, and its weights."""
    words = tokenizer()
    llm = language_model(len(words))
    llm.save_pretrained(tmp_path / "llm")
    words.save_pretrained(tmp_path / "llm")
    return tmp_path / "llm", {name: value.clone() for name, value in llm.state_dict().items()}


MATRICES = [*(f"self_attn.{part}" for part in "qkvo"), "mlp.gate", "mlp.up", "mlp.down"]


def test_lora_adds_to_the_matrices(plain, tmp_path):
    """(W + (alpha / r) B A) x, with the rank 16 and the alpha 32 of the shipped weights."""
    folder, base = plain
    own = projector.build("mlp2x_gelu", ColourEncoder.dim, WIDTH)
    weights, wanted = projector.tensors(own, torch.randn(2, WIDTH)), {}
    for layer in range(2):
        for part in MATRICES:
            name = f"model.layers.{layer}.{part}_proj"
            out, into = base[f"{name}.weight"].shape
            a, b = torch.randn(16, into), torch.randn(out, 16)
            weights[f"base_model.model.{name}.lora_A.weight"] = a
            weights[f"base_model.model.{name}.lora_B.weight"] = b
            wanted[name] = base[f"{name}.weight"] + 32 / 16 * b @ a
    save_file(weights, tmp_path / "pocket.safetensors")
    ours = load(folder, ColourEncoder(), tmp_path / "pocket.safetensors")
    for name, matrix in wanted.items():
        x = torch.randn(3, matrix.shape[1])
        got = ours.llm.get_submodule(name)(x)
        torch.testing.assert_close(got, x @ matrix.T, atol=1e-3, rtol=1e-4)
    assert not any(value.requires_grad for value in ours.parameters())


def test_a_lora_of_another_size_is_refused(plain, tmp_path):
    own = projector.build("mlp2x_gelu", ColourEncoder.dim, WIDTH)
    weights = projector.tensors(own, torch.randn(2, WIDTH))
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    weights[f"{name}.lora_A.weight"] = torch.randn(16, WIDTH + 1)
    weights[f"{name}.lora_B.weight"] = torch.randn(WIDTH + 1, 16)
    save_file(weights, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors: its LoRA does not fit"):
        load(plain[0], ColourEncoder(), tmp_path / "other.safetensors")


def test_a_language_model_alone_needs_an_encoder_and_a_projector(plain):
    with pytest.raises(ValueError, match="needs an encoder and a projector"):
        load(plain[0])
    with pytest.raises(ValueError, match="needs an encoder and a projector"):
        load(plain[0], ColourEncoder())


# ------------------------------------------------------------------------------------ the prompt
def length(tiny, turns, transcript=""):
    return len(tiny.tokenizer(tiny.render(turns, transcript)).input_ids)


def test_nothing_is_left_out_when_all_fits(tiny):
    prompt = tiny.fit(TURNS, "Chop  the\nonions.")
    assert prompt.notes == ()
    assert prompt.text == tiny.render(TURNS, "Chop  the\nonions.")
    assert prompt.ids.tolist() == tiny.tokenizer(prompt.text).input_ids


@settings(deadline=None, max_examples=50)
@given(
    said=st.integers(0, 250),
    asked=st.lists(st.integers(1, 60), max_size=5),
    last=st.integers(1, 150),
    reserve=st.sampled_from([64, 200, 256]),
)
def test_prompt_always_leaves_room_for_the_answer(tiny, said, asked, last, reserve):
    """First the transcript loses words, only then turns go, the oldest first."""
    room = tiny.context - reserve
    words = [f"w{i}" for i in range(said)]
    turns = [(f"q{i} " + "why " * n, f"answer {i}") for i, n in enumerate(asked)]
    turns.append(("what " * last, None))
    if length(tiny, turns[-1:]) > room:
        with pytest.raises(ValueError, match=rf"question is too long.*{tiny.context}.*{reserve}"):
            tiny.fit(turns, " ".join(words), reserve=reserve)
        return
    prompt = tiny.fit(turns, " ".join(words), reserve=reserve)
    assert len(prompt.ids) <= room
    assert prompt.ids.tolist() == tiny.tokenizer(prompt.text).input_ids
    notes = " ".join(prompt.notes)
    kept = re.search(r"first (\d+) of the transcript's (\d+) words", notes)
    gone = re.search(r"first (\d+) turns were left out", notes)
    heard = int(kept[1]) if kept else said
    dropped = int(gone[1]) if gone else 0
    assert prompt.text == tiny.render(turns[dropped:], " ".join(words[:heard]))
    if kept:
        assert heard < said == int(kept[2])
        assert length(tiny, turns[dropped:], " ".join(words[: heard + 1])) > room or dropped
    if gone:
        assert dropped > 0 == heard
        assert length(tiny, turns[dropped - 1 :]) > room


def test_words_that_stand_for_the_video_are_refused(tiny):
    for word in ("<vid_patch>", "<vid_start>", "<vid_end>"):
        with pytest.raises(ValueError, match=word):
            tiny.fit([(f"What is {word}?", None)])
    with pytest.raises(ValueError, match="<vid_patch>"):
        tiny.fit([("What is <vid_patch>?", None)], video=False)


def test_plain_text_has_no_slot(tiny):
    prompt = tiny.fit(TURNS, video=False)
    assert not {*prompt.ids.tolist()} & {*tiny.word_ids}
    tokens = list(tiny.stream(prompt.ids, None, max_new_tokens=4))
    expected = tiny.llm.generate(prompt.ids[None], do_sample=False, max_new_tokens=4)
    assert tokens == expected[0, len(prompt.ids) :].tolist()


def test_a_batch_gives_each_video_its_own_slots(tiny):
    ids = tiny.fit(TURNS).ids.expand(2, -1)
    projected = torch.randn(2, tiny.video_tokens, WIDTH)
    embedded = tiny.embed(ids, projected)
    assert torch.equal(embedded[ids == tiny.word_ids[0]].view_as(projected), projected)


# ---------------------------------------------------------------------------------------- pooling
def test_a_wide_grid_is_averaged_over_the_whole_frame(tiny):
    """Rows of four cells become rows of two; pencil and paper."""
    features = torch.tensor([[1.0, 3, 5, 9], [2.0, 2, 4, 4]]).reshape(1, 8, 1)  # 2 x 4 cells
    tokens = tiny.pool(features, 16, 32)
    assert tokens.flatten().tolist() == [3.75, 0, 0, 0, 2, 7, 2, 4]


@pytest.mark.parametrize(("rows", "columns"), [(3, 5), (2, 7), (5, 2), (1, 6)])
def test_every_cell_counts_and_a_constant_stays_one(tiny, rows, columns):
    size = rows * 8, columns * 8
    constant = tiny.pool(torch.full((4, rows * columns, 1), 2.5), *size)
    torch.testing.assert_close(constant, torch.full((8, 1), 2.5))
    for cell in range(rows * columns):
        features = torch.zeros(4, rows * columns, 1)
        features[:, cell] = 1
        assert tiny.pool(features, *size)[4:].max() > 0


def test_a_grid_of_the_right_shape_is_not_touched():
    square = model(side=7)
    features = torch.randn(4, 49, 6)
    assert torch.equal(square.pool(features, 56, 56), pooling.pool(features, 4))


def test_encoding_reads_cells_in_place(tiny):
    """A frame red at the left and blue at the right, by hand."""
    images = np.zeros((4, 16, 16, 3), np.uint8)
    images[:, :, :8, 0], images[:, :, 8:, 2] = 255, 51
    tokens = tiny.encode(images)[:, :3]
    red, blue, both = [1, 0, 0], [0, 0, 0.2], [0.5, 0, 0.1]
    torch.testing.assert_close(tokens, torch.tensor([both] * 4 + [red, blue, red, blue]))


# --------------------------------------------------------------------------------------- sampling
@pytest.fixture(scope="module")
def asked(tiny):
    return tiny.fit(TURNS).ids, torch.rand(tiny.video_tokens, 6)


def test_seed_settles_what_is_drawn(tiny, asked):
    def drawn(seed):
        return list(tiny.stream(*asked, max_new_tokens=10, temperature=1.5, seed=seed))

    assert drawn(3) == drawn(3)
    assert len({tuple(drawn(seed)) for seed in range(5)}) == 5


def test_greedy_ignores_the_seed_and_a_tiny_nucleus_is_greedy(tiny, asked):
    greedy = list(tiny.stream(*asked, max_new_tokens=10))
    assert greedy == list(tiny.stream(*asked, max_new_tokens=10, seed=9))
    narrow = {"temperature": 0.7, "top_p": 1e-6}
    assert greedy == list(tiny.stream(*asked, max_new_tokens=10, seed=9, **narrow))


def test_draws_follow_the_probabilities_of_the_nucleus(tiny, asked):
    """Frequencies of 800 first tokens, and the nucleus, from the logits by NumPy."""
    ids, tokens = asked
    with torch.no_grad():
        embeddings = tiny.embed(ids[None], tiny.project(tokens)[None])
        logits = tiny.llm(inputs_embeds=embeddings).logits[0, -1].double().numpy() / 0.6
    share = np.exp(logits - logits.max())
    share /= share.sum()
    order = np.argsort(-share)
    nucleus = order[: np.searchsorted(share[order].cumsum(), 0.5) + 1]
    cache = DynamicCache()
    list(tiny.stream(ids, tokens, cache, max_new_tokens=1))  # read once, not 800 times
    counts = dict.fromkeys(nucleus.tolist(), 0)
    for seed in range(800):
        cache.crop(-1)  # the prompt's last token is what the draw follows
        draw = {"temperature": 0.6, "top_p": 0.5, "seed": seed}
        (token,) = tiny.stream(ids, tokens, cache, max_new_tokens=1, **draw)
        counts[token] += 1  # a KeyError here is a token from outside
    assert len(nucleus) > 1
    expected = share[nucleus] / share[nucleus].sum()
    np.testing.assert_allclose(np.array([*counts.values()]) / 800, expected, atol=0.06)


def test_a_cache_of_the_beginning_changes_nothing(tiny, asked):
    ids, tokens = asked
    whole = list(tiny.stream(ids, tokens, max_new_tokens=8))
    cache = DynamicCache()
    list(tiny.stream(ids[:-5], tokens, cache, max_new_tokens=1))
    assert cache.get_seq_length() == len(ids) - 5
    assert list(tiny.stream(ids, tokens, cache, max_new_tokens=8)) == whole


# ---------------------------------------------------------------- tokens of a model of time
@pytest.fixture
def with_time(plain, tmp_path):
    """What a language model is loaded from: projector and temporal model, each with its LoRA."""
    torch.manual_seed(3)
    motion = Conv3d(ColourEncoder.dim, 8, ColourEncoder.dim)
    own = projector.build("mlp2x_gelu", ColourEncoder.dim, WIDTH)
    files = {
        "pocket": (projector.tensors(own, torch.randn(2, WIDTH)), 16, {}),
        "conv3d": (temporal.tensors(motion), 4, {"variant": "conv3d"}),
    }
    added = 0
    for name, (weights, rank, about) in files.items():
        for layer in range(2):
            for part in MATRICES:
                matrix = f"model.layers.{layer}.{part}_proj"
                out, into = plain[1][f"{matrix}.weight"].shape
                a, b = torch.randn(rank, into), torch.randn(out, rank)
                weights[f"base_model.model.{matrix}.lora_A.weight"] = a
                weights[f"base_model.model.{matrix}.lora_B.weight"] = b
                if matrix == "model.layers.1.mlp.up_proj":
                    added = added + 2 * b @ a
        save_file(weights, tmp_path / f"{name}.safetensors", about)
    loaded = load(
        plain[0],
        ColourEncoder(),
        tmp_path / "pocket.safetensors",
        temporal=tmp_path / "conv3d.safetensors",
    )
    return loaded, motion.eval(), added


def test_a_temporal_models_tokens_stand_behind_the_pooled_ones(with_time):
    ours, motion, _ = with_time
    images = np.random.default_rng(0).integers(0, 100, (16, 56, 56, 3), np.uint8)
    for t in range(16):  # something bright goes to the right
        images[t, 20:36, 2 * t : 2 * t + 16] = 255
    seen = ours.encoder.encode(images)
    tokens = ours.encode(images)
    assert len(tokens) == ours.video_tokens == 8 + 49 + temporal.SLOTS
    torch.testing.assert_close(tokens[:57], pooling.pool(seen, 8))
    with torch.no_grad():
        torch.testing.assert_close(tokens[57:], motion(seen))
    backwards = ours.encode(images[::-1].copy())
    torch.testing.assert_close(backwards[8:57], tokens[8:57])
    assert (backwards[57:] - tokens[57:].flip(0)).abs().max() > 1e-3


def test_a_short_video_has_as_many_tokens(with_time):
    images = np.zeros((3, 56, 56, 3), np.uint8)
    assert len(with_time[0].encode(images)) == with_time[0].video_tokens


def test_its_lora_comes_on_top_of_the_projectors(with_time, plain):
    ours, _, added = with_time
    matrix = plain[1]["model.layers.1.mlp.up_proj.weight"] + added
    x = torch.randn(3, matrix.shape[1])
    got = ours.llm.get_submodule("model.layers.1.mlp.up_proj")(x)
    torch.testing.assert_close(got, x @ matrix.T, atol=1e-3, rtol=1e-4)
    assert not any(value.requires_grad for value in ours.parameters())


def test_a_temporal_file_without_a_lora_is_refused(plain, tmp_path):
    own = projector.build("mlp2x_gelu", ColourEncoder.dim, WIDTH)
    save_file(projector.tensors(own, torch.randn(2, WIDTH)), tmp_path / "pocket.safetensors")
    motion = Conv3d(ColourEncoder.dim, 8, ColourEncoder.dim)
    save_file(temporal.tensors(motion), tmp_path / "bare.safetensors", {"variant": "conv3d"})
    with pytest.raises(ValueError, match=r"bare\.safetensors: no LoRA of one rank"):
        load(
            plain[0],
            ColourEncoder(),
            tmp_path / "pocket.safetensors",
            temporal=tmp_path / "bare.safetensors",
        )
