"""SmolLM2 read from GGUF, against the model that was written and against what it must know."""

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from pgvl_core import assets
from pgvl_core.lite import gguf_import

HEADS, KEY_HEADS, WIDTH, LAYERS = 4, 2, 64, 2
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def pairs_side_by_side(weight: np.ndarray, heads: int) -> np.ndarray:
    """GGUF's order of a query's or key's rows: i and i + half of a head become neighbours."""
    half = weight.shape[0] // heads // 2
    order = [
        head * 2 * half + part * half + i
        for head in range(heads)
        for i in range(half)
        for part in (0, 1)
    ]
    return weight[order]


def write_gguf(model: LlamaForCausalLM, tokens: list[str], merges: list[str], file: str) -> None:
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_vocab_size(len(tokens))
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(96)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_context_length(128)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, *[1] * (len(tokens) - 3)])
    writer.add_token_merges(merges)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        if name in ("model.embed_tokens.weight", "model.norm.weight"):
            target = {"e": "token_embd.weight", "n": "output_norm.weight"}[name[6]]
        elif name.startswith("model.layers"):
            _, _, layer, part = name.split(".", 3)
            target = f"blk.{layer}.{NAMES[part.removesuffix('.weight')]}.weight"
            if "attn_q." in target:
                array = pairs_side_by_side(array, HEADS)
            if "attn_k." in target:
                array = pairs_side_by_side(array, KEY_HEADS)
        else:
            continue  # the head is the embedding
        writer.add_tensor(target, np.ascontiguousarray(array, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_converted_model_is_the_model(tmp_path):
    torch.manual_seed(0)
    tokens = ["<unk>", "<start>", "<end>", "a", "b", "ab", "1", "2", "\u0120"]
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KEY_HEADS, max_position_embeddings=128,
        rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
        parameter.data = parameter.data.half().float()  # so that float16 holds it exactly
    write_gguf(model, tokens, ["a b"], str(tmp_path / "model.gguf"))

    folder = tmp_path / "converted"
    folder.mkdir()
    gguf_import.convert(tmp_path, folder)
    converted = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([[1, 3, 4, 5, 6, 7, 8, 2] * 4])
    with torch.no_grad():
        torch.testing.assert_close(converted(ids).logits, model(ids).logits)
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.float16

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("ab 12<end>").input_ids == [5, 8, 6, 7, 2]
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<start>", "<end>")
    chat = [{"role": "user", "content": "ab"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "ab"


@pytest.fixture(scope="module")
def smollm2():
    folder = assets.path("smollm2")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is the capital of France?", "Paris"),
        ("How many days are in a week?", "7"),
    ],
)
def test_smollm2_loads_with_plain_transformers_and_answers(smollm2, question, answer):
    model, tokenizer = smollm2
    chat = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
    with torch.inference_mode():
        ids = model.generate(**prompt, max_new_tokens=24, do_sample=False)
    text = tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :])
    assert answer in text
    assert text.endswith(tokenizer.eos_token)  # it ends by itself


def test_smollm2_is_the_published_model(smollm2):
    model, tokenizer = smollm2
    assert sum(p.numel() for p in model.parameters()) == 134_515_008  # the model's own page
    assert len(tokenizer) == 49_152


# The published vocabulary lacks the bytes of some control characters and of the unused planes.
@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"], max_codepoint=0x3FFFF)))
def test_smollm2_tokens_give_the_text_back(smollm2, text):
    _, tokenizer = smollm2
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_smollm2_reads_each_digit_apart_from_the_blanks_before_it(smollm2):
    _, tokenizer = smollm2
    assert tokenizer.tokenize("in\n\n2024") == ["in", "\u010a\u010a", "2", "0", "2", "4"]
