"""Read a Llama stored as quantised GGUF into a Hugging Face folder that loads fast.

transformers reads GGUF itself, in half a minute and with a tokenizer that does not part digits from
blanks as SmolLM2's does; a model is read many times and converted once, so it is done here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tqdm.auto import tqdm
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")
CONTROL = 3  # the token type of GGUF that marks special tokens
CONFIG = {  # transformers' names for what GGUF calls otherwise
    "vocab_size": "llama.vocab_size",
    "hidden_size": "llama.embedding_length",
    "intermediate_size": "llama.feed_forward_length",
    "num_hidden_layers": "llama.block_count",
    "num_attention_heads": "llama.attention.head_count",
    "num_key_value_heads": "llama.attention.head_count_kv",
    "max_position_embeddings": "llama.context_length",
    "rms_norm_eps": "llama.attention.layer_norm_rms_epsilon",
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
    "pad_token_id": "tokenizer.ggml.padding_token_id",
}


def convert(source: Path, folder: Path) -> None:
    """Write model, configuration and tokenizer of the GGUF in `source` into `folder`.

    Weights become float16: of the two half-size types it is the one that keeps the dequantised
    values' digits (11 bits against 8 for bfloat16), and none of them is near its limits.
    """
    (file,) = source.glob("*.gguf")
    reader = gguf.GGUFReader(file)
    config = _config(reader.fields)
    state = _state_dict(reader, config)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    ends = {name: value for name, value in config.to_dict().items() if name in ENDS}
    GenerationConfig(**ends).save_pretrained(folder)
    _tokenizer(reader.fields, ends).save_pretrained(folder)


def _config(fields: dict[str, Any]) -> LlamaConfig:
    return LlamaConfig(
        **{name: fields[key].contents() for name, key in CONFIG.items()},
        rope_parameters={
            "rope_type": "default",
            "rope_theta": fields["llama.rope.freq_base"].contents(),
        },
        tie_word_embeddings=True,
        architectures=["LlamaForCausalLM"],
        dtype="float16",
    )


def _state_dict(reader: gguf.GGUFReader, config: LlamaConfig) -> dict[str, torch.Tensor]:
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    with torch.device("meta"):
        wanted = LlamaForCausalLM(config).state_dict()
    wanted.pop("lm_head.weight")  # tied to the embedding
    state = {}
    for name in tqdm(wanted, desc="dequantising", unit="tensor"):
        tensor = tensors[names.get_name(name, try_suffixes=(".weight",)) or name]
        array = gguf.dequantize(tensor.data, tensor.tensor_type)
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            array = _interleaved_to_halves(array, config.hidden_size // config.num_attention_heads)
        state[name] = torch.from_numpy(array.astype(np.float16))
    return state


def _interleaved_to_halves(weight: np.ndarray, head_dim: int) -> np.ndarray:
    """Reorder each head's rows [heads * head_dim, in] from GGUF's rotary layout (the pair that
    turns together side by side) to transformers' (in the two halves of the head)."""
    pairs = weight.reshape(-1, head_dim // 2, 2, weight.shape[1])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def _tokenizer(fields: dict[str, Any], ends: dict[str, int]) -> PreTrainedTokenizerFast:
    tokens: list[str] = fields["tokenizer.ggml.tokens"].contents()
    types: list[int] = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[ends["bos_token_id"]],
        eos_token=tokens[ends["eos_token_id"]],
        pad_token=tokens[ends["pad_token_id"]],
        unk_token=tokens[fields["tokenizer.ggml.unknown_token_id"].contents()],
        model_max_length=fields["llama.context_length"].contents(),
        chat_template=fields["tokenizer.chat_template"].contents(),
    )
