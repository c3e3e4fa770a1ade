"""A model of a few thousand random weights: what holds of it holds of one of seven billion."""

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
)

from pgvl_core import projector, prompts
from pgvl_core.encoder import FrameEncoder
from pgvl_core.model import PGVideoLLaVA

CELL = 8  # pixels to a cell's side
WIDTH = 32


class ColourEncoder(FrameEncoder):
    """Mean and spread of each colour in cells of 8 x 8 pixels."""

    dim = 6
    temperature = 1.0

    def grid(self, height, width):
        return height // CELL, width // CELL

    def _features(self, images):
        cells = torch.from_numpy(images.astype(np.float32) / 255)
        cells = cells.unfold(1, CELL, CELL).unfold(2, CELL, CELL).flatten(4)
        return torch.cat([cells.mean(-1), cells.std(-1)], -1).flatten(1, 2)

    def _text(self, names):
        raise NotImplementedError

    project = _text


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, so that it reads anything, and short where the templates speak."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words.train_from_iterator([*prompts.SYSTEM.values()] * 2 + ["USER: ASSISTANT:"] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>")


def vicuna_words() -> LlamaTokenizer:
    """In Vicuna's manner: a word a letter, the blank as a letter, bytes for all else."""
    letters = ["\N{LOWER ONE EIGHTH BLOCK}", *map(chr, range(33, 127))]
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    vocabulary = {word: i for i, word in enumerate(words)}
    return LlamaTokenizer(vocab=vocabulary, merges=[], add_bos_token=True)


def language_model(words: int, context: int = 512) -> LlamaForCausalLM:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=words,
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.2,  # wide enough for the words before to matter
        bos_token_id=0,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config).eval()


def model(context: int = 512, marks: bool = True, frames: int = 4, side: int = 2) -> PGVideoLLaVA:
    words = tokenizer()
    llm = language_model(len(words), context)
    own = projector.build("mlp2x_gelu", ColourEncoder.dim, WIDTH)
    learned = torch.randn(2, WIDTH) * 0.2 if marks else None
    return PGVideoLLaVA(
        ColourEncoder(), own, llm, words, "pg-video-llava", frames, side, learned
    ).eval()
