"""A model of a few thousand random weights: what holds of it holds of one of seven billion."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from segment_anything.build_sam import _build_sam
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertTokenizerFast,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
    Sam2HieraDetConfig,
    Sam2ImageProcessor,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam2VideoProcessor,
    Sam2VideoVideoProcessor,
    Sam2VisionConfig,
    SwinConfig,
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


# ------------------------------------------------------- what points, in official layouts
SEEN = ["red", "car", "dog", "cat", "a", "##s", "two"]  # words that the detector has tokens for
# A ViT of one narrow layer; all else is SAM's own.
sam = partial(_build_sam, 16, 1, 2, [])


def grounding_dino(folder: Path, tokens: int = 32) -> Path:
    """GroundingDINO with a few thousand random weights, in transformers' layout."""
    vocabulary = [f"[unused{i}]" for i in range(1040)]
    # The model looks for these by the numbers that BERT gave them.
    for number, word in ((0, "[PAD]"), (100, "[UNK]"), (101, "[CLS]"), (102, "[SEP]")):
        vocabulary[number] = word
    vocabulary[1012], vocabulary[1029] = ".", "?"
    vocabulary[200 : 200 + len(SEEN)] = SEEN
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=True)
    images = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    torch.manual_seed(0)
    model = GroundingDinoForObjectDetection(
        GroundingDinoConfig(
            backbone_config=SwinConfig(
                image_size=64,
                embed_dim=8,
                depths=[1, 1, 1, 1],
                num_heads=[1, 1, 1, 1],
                window_size=4,
                out_features=["stage2", "stage3", "stage4"],
            ),
            text_config=BertConfig(
                vocab_size=len(vocabulary),
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
                max_position_embeddings=2 * tokens,
            ),
            d_model=64,  # two to each of its 32 groups: the smallest map may have one cell
            encoder_layers=1,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            num_queries=20,
            max_text_len=tokens,
        )
    )
    model.save_pretrained(folder)
    GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def sam2_video(folder: Path, side: int = 64) -> Path:
    """A tiny random SAM 2 for video, in transformers' layout."""
    backbone = Sam2HieraDetConfig(
        hidden_size=8,
        image_size=[side, side],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 1, 1],
        window_size_per_stage=[4, 2, 2, 2],
        global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )
    torch.manual_seed(0)
    config = Sam2VideoConfig(
        vision_config=Sam2VisionConfig(
            backbone_config=backbone,
            backbone_channel_list=[64, 32, 16, 8],
            backbone_feature_sizes=[[side // n, side // n] for n in (4, 8, 16)],
            fpn_hidden_size=128,
        ),
        prompt_encoder_config={"hidden_size": 128, "image_size": side, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 128,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
        image_size=side,
        num_maskmem=3,
        max_object_pointers_in_encoder=4,
        memory_attention_hidden_size=128,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32,
        memory_attention_rope_feat_sizes=[side // 16, side // 16],
        memory_encoder_hidden_size=128,
        memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=32,
    )
    size = {"height": side, "width": side}
    masks = {"height": side // 4, "width": side // 4}
    Sam2VideoModel(config).save_pretrained(folder)
    Sam2VideoProcessor(
        Sam2ImageProcessor(size=size, mask_size=masks), Sam2VideoVideoProcessor(size=size)
    ).save_pretrained(folder)
    return folder


def clip(folder: Path, side: int = 32, patch: int = 8, width: int = 24) -> Path:
    """A tiny random CLIP in the layout of openai/clip-vit-base-patch32."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = letters + [letter + "</w>" for letter in letters]
    vocabulary = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    end = vocabulary["<|endoftext|>"]
    text = {
        "vocab_size": len(vocabulary),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 40,
        "eos_token_id": end,
        "bos_token_id": end - 1,
        "pad_token_id": end,
    }
    vision = {
        "hidden_size": width,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": side,
        "patch_size": patch,
    }
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    model.save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    ).save_pretrained(folder)
    return folder
