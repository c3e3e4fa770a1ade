"""PG-Video-LLaVA's speaking half: video tokens and a prompt in, an answer's tokens out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.generation import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from . import assets, prompts
from . import projector as projectors
from . import temporal as temporals
from .encoder import FrameEncoder
from .pooling import pool
from .temporal import TemporalModel
from .video import Frames, Video, sample_indices

RANK = 16  # of the LoRA
SHORT_SIDE = 336  # pixels that frames are decoded at; every encoder takes fewer or as many

Turn = tuple[str, str | None]


@dataclass(frozen=True)
class Prompt:
    """What the model is asked, fitted to its context."""

    text: str
    ids: torch.Tensor  # int64 [L]
    notes: tuple[str, ...]  # what was left out to make it fit


class TowerEncoder(FrameEncoder):
    """The vision tower of a LLaVA checkpoint, read at the layer the checkpoint was trained on.

    Parameters
    ----------
    llava : LlavaForConditionalGeneration
    checkpoint : folder or hub name that its image processor is read from
    """

    temperature = 1.0

    def __init__(self, llava: LlavaForConditionalGeneration, checkpoint: str | Path) -> None:
        super().__init__()
        self.vision, self.config = llava.model.vision_tower, llava.config
        self.processor = AutoImageProcessor.from_pretrained(checkpoint)
        self.dim = self.vision.config.hidden_size

    def grid(self, height: int, width: int) -> tuple[int, int]:
        side = self.vision.config.image_size // self.vision.config.patch_size
        return side, side

    def _features(self, images: np.ndarray) -> torch.Tensor:
        pixels = self.processor(list(images), return_tensors="pt")["pixel_values"]
        out = self.vision(
            pixels.to(self.vision.device, self.vision.dtype), output_hidden_states=True
        )
        chosen = out.hidden_states[self.config.vision_feature_layer]
        return chosen[:, 1:] if self.config.vision_feature_select_strategy == "default" else chosen

    def _text(self, names: list[str]) -> torch.Tensor:
        raise ValueError("a LLaVA vision tower cannot be asked with words; use a CLIP checkpoint")

    project = _text  # type: ignore[assignment]


class PGVideoLLaVA(nn.Module):
    """LLaVA for video (paper, 3.1 to 3.3): encode, pool, project, and let the language model speak.

    Parameters
    ----------
    encoder : FrameEncoder
    projector : Module ``[..., D] -> [..., K]``
    llm : a Llama, Vicuna or other causal language model of transformers
    tokenizer : its tokenizer; the three video words are added to it here
    template : str
        A key of `prompts.SYSTEM`.
    frames : int
        Frames that are read of a video, and temporal tokens: 100 in the paper.
    side : int
        The spatial tokens are a square of ``side * side``: 24 in the paper.
    marks : Tensor ``[2, K]``
        Embeddings of <vid_start> and <vid_end>; None when the model has not learned any.
    lora : the peft model around `llm`, if it has an adapter: training goes on with it
    temporal : TemporalModel
        Its tokens stand behind the pooled ones, and the video is read in as many frames as it was
        trained with, while the temporal tokens stay `frames`; None for the paper's pooling alone.
    video_first : bool
        Whether the video stands before the first question, as in half of VideoInstruct-100K's
        training prompts, instead of after it, as in the official inference.
    """

    def __init__(
        self,
        encoder: FrameEncoder,
        projector: nn.Module,
        llm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        template: str,
        frames: int,
        side: int,
        marks: torch.Tensor | None = None,
        lora: Any = None,
        video_first: bool = False,
        temporal: TemporalModel | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.tokenizer, self.template = encoder, tokenizer, template
        self.frames, self.side, self.temporal_tokens = frames, side, frames
        self.temporal = temporal
        self.video_tokens = frames + side**2  # 676 in the paper
        if temporal is not None:
            temporal.eval().requires_grad_(False)
            self.frames = temporal.frames
            self.video_tokens += len(temporal(torch.zeros(1, side**2, encoder.dim)))
        self.lora, self.video_first = lora, video_first
        self.llm, self.projector = llm.eval().requires_grad_(False), projector
        self.projector.to(llm.device, llm.dtype).eval().requires_grad_(False)
        self.marks = None if marks is None else nn.Parameter(marks.to(llm.device, llm.dtype), False)
        tokenizer.add_tokens(list(prompts.VIDEO_WORDS), special_tokens=True)
        self.word_ids: Any = tokenizer.convert_tokens_to_ids(list(prompts.VIDEO_WORDS))

    @property
    def context(self) -> int:
        """Tokens that the language model can read and write in all."""
        return self.llm.config.max_position_embeddings

    def encode(self, source: Video | Frames | np.ndarray) -> torch.Tensor:
        """Video tokens of a video, before the projector.

        Parameters
        ----------
        source : Video, Frames or uint8 array ``[T, H, W, 3]``
            Of more than `frames` frames, those at the middles of as many equal stretches are taken.

        Returns
        -------
        Tensor ``[video_tokens, D]``, float32, on the CPU
        """
        if isinstance(source, Video):
            source = source.sample(self.frames, SHORT_SIDE)
        images = source.images if isinstance(source, Frames) else source
        images = images[sample_indices(len(images), self.frames)]
        return self.pool(self.encoder.encode(images), *images.shape[1:3])

    def pool(self, features: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Video tokens of patch features ``[T, N, D]`` of frames of that size.

        A grid of another shape (LiteCLIP keeps a video's) is averaged to the square that the
        projector was trained on, so that the whole frame is seen at any aspect ratio.
        """
        grid = self.encoder.grid(height, width)
        if grid != (self.side, self.side):
            maps = features.unflatten(1, grid).permute(0, 3, 1, 2)
            features = adaptive_avg_pool2d(maps, self.side).flatten(2).transpose(1, 2)
        pooled = pool(features, self.temporal_tokens)
        if self.temporal is None:
            return pooled
        with torch.no_grad():
            return torch.cat([pooled, self.temporal(features)])

    # -------------------------------------------------------------------------------- the prompt
    def render(
        self,
        turns: Sequence[Turn],
        transcript: str = "",
        video: bool = True,
        video_first: bool = False,
    ) -> str:
        """The text of a conversation in this model's template, the video in its place.

        `video_first` puts it before the question also where that is not the model's own order.
        """
        return prompts.render(
            self.template,
            turns,
            eos=str(self.tokenizer.eos_token),
            video=prompts.video_slot(self.video_tokens, self.marks is not None) if video else "",
            transcript=transcript,
            video_first=self.video_first or video_first,
        )

    def ids(self, text: str) -> torch.Tensor:
        """Token ids ``[L]`` of a rendered prompt."""
        # `fit` sees to the length, so the tokenizer need not warn of it.
        return torch.tensor(self.tokenizer(text, verbose=False).input_ids)

    def fit(
        self,
        turns: Sequence[Turn],
        transcript: str = "",
        video: bool = True,
        reserve: int = 256,
    ) -> Prompt:
        """The prompt of a conversation, shortened until `reserve` tokens are left for the answer.

        First the transcript loses its end, then the oldest turns go; the notes say so.

        Raises
        ------
        ValueError
            When the last question alone does not fit.
        """
        room, turns, notes = self.context - reserve, list(turns), []

        def length(kept: str) -> int:
            return len(self.ids(self.render(turns, kept, video)))

        words = transcript.split()
        if length(transcript) > room:
            low, high = 0, len(words)  # as many words as fit
            while low < high:
                middle = (low + high + 1) // 2
                fits = length(" ".join(words[:middle])) <= room
                low, high = (middle, high) if fits else (low, middle - 1)
            if words:
                notes.append(
                    f"only the first {low} of the transcript's {len(words)} words were read"
                )
            transcript = " ".join(words[:low])
        dropped = 0
        while length(transcript) > room and len(turns) > 1:
            turns, dropped = turns[1:], dropped + 1
        if dropped:
            notes.append(f"the conversation's first {dropped} turns were left out")
        if (needed := length(transcript)) > room:
            raise ValueError(
                f"the question is too long: with the video it takes {needed} tokens, and the model "
                f"reads {self.context}, {reserve} of them kept for its answer; ask a shorter one"
            )
        text = self.render(turns, transcript, video)
        ids = self.ids(text)
        own = video * (self.video_tokens + 2 * (self.marks is not None))
        if torch.isin(ids, torch.tensor(self.word_ids)).sum() != own:
            raise ValueError(
                f"{', '.join(prompts.VIDEO_WORDS)} stand for the video: leave them out of what you "
                "say"
            )
        return Prompt(text, ids, tuple(notes))

    # ------------------------------------------------------------------------------ the language
    def project(self, tokens: torch.Tensor) -> torch.Tensor:
        """Video tokens ``[..., D]`` in the language model's space ``[..., K]``."""
        return self.projector(tokens.to(self.llm.device, self.llm.dtype))

    def embed(self, ids: torch.Tensor, projected: torch.Tensor | None) -> torch.Tensor:
        """Input embeddings ``[B, L, K]`` of token ids ``[B, L]``, the video tokens in their slots.

        Parameters
        ----------
        ids : int64 Tensor ``[B, L]``
        projected : Tensor ``[V, n, K]``
            From `project`, of the ``V`` videos in the batch, in order; None when there are none.
        """
        ids = ids.to(self.llm.device)
        patch, start, end = self.word_ids
        own = (ids == patch) | (ids == start) | (ids == end)
        embeddings = self.llm.get_input_embeddings()(ids.masked_fill(own, 0))
        if projected is not None:
            slots = (ids == patch).unsqueeze(-1)
            embeddings = embeddings.masked_scatter(slots, projected.to(embeddings.dtype))
        if self.marks is not None:
            for mark, word in zip(self.marks, (start, end), strict=True):
                embeddings = torch.where((ids == word).unsqueeze(-1), mark, embeddings)
        return embeddings

    @torch.inference_mode()
    def stream(
        self,
        ids: torch.Tensor,
        tokens: torch.Tensor | None,
        cache: DynamicCache | None = None,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[int]:
        """The answer, token by token, until the end-of-sequence token, which is not given.

        Parameters
        ----------
        ids : int64 Tensor ``[L]``
            A prompt.
        tokens : Tensor ``[n, D]``
            Its video tokens; None for plain text.
        cache : DynamicCache
            Keys and values of the prompt's beginning; what it holds is not computed again. It
            grows by the rest of the prompt and by the answer.
        temperature, top_p, seed
            0 takes the likeliest token; above it, one is drawn among the likeliest that together
            have probability `top_p`.
        """
        cache = DynamicCache() if cache is None else cache
        projected = None if tokens is None else self.project(tokens)[None]
        new = self.embed(ids[None], projected)[:, cache.get_seq_length() :]
        warp: Any = LogitsProcessorList()
        if temperature > 0:
            warp += [TemperatureLogitsWarper(temperature), TopPLogitsWarper(top_p)]
        generator = torch.Generator(self.llm.device).manual_seed(seed)
        for _ in range(max_new_tokens):
            out = self.llm(inputs_embeds=new, past_key_values=cache, logits_to_keep=1)
            scores = warp(ids[None], out.logits[:, -1].float())
            if temperature > 0:
                token = int(torch.multinomial(scores.softmax(-1), 1, generator=generator))
            else:
                token = int(scores.argmax())
            if token == self.tokenizer.eos_token_id:
                return
            yield token
            new = self.llm.get_input_embeddings()(torch.tensor([[token]], device=self.llm.device))


# ---------------------------------------------------------------------------------------- loading
def add_lora(llm: PreTrainedModel, rank: int = RANK) -> PeftModel:
    """Put a fresh LoRA, which changes nothing yet, into a language model."""
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft uses an old name of transformers'
        return get_peft_model(llm, config)  # type: ignore[return-value]


def read_lora(llm: PreTrainedModel, weights: dict[str, torch.Tensor], source: str) -> PeftModel:
    """Put a LoRA that is there into a language model, and merge it.

    Raises
    ------
    ValueError
        When it does not fit; names `source`.
    """
    ranks = {len(value) for name, value in weights.items() if "lora_A" in name}
    if len(ranks) != 1:
        raise ValueError(f"{source}: no LoRA of one rank among its {len(weights)} tensors")
    lora = add_lora(llm, ranks.pop())
    try:
        set_peft_model_state_dict(lora, weights)
    except RuntimeError as error:
        raise ValueError(f"{source}: its LoRA does not fit the language model: {error}") from error
    lora.merge_adapter()  # kept apart, it slows every token; training takes it out again
    return lora


def load(
    checkpoint: str | Path,
    encoder: FrameEncoder | None = None,
    projector: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    temporal: str | Path | None = None,
) -> PGVideoLLaVA:
    """The model of a checkpoint.

    Parameters
    ----------
    checkpoint : str or Path
        An asset, a hub name or a folder: LLaVA in transformers' layout (its vision tower encodes
        the frames), or a plain language model, which needs an encoder and a projector file.
    encoder : FrameEncoder
        For a plain language model.
    projector : str or Path
        A projector file (`projector.read`): pocket's, with its LoRA, or an official one.
    temporal : str or Path
        A file of a temporal model and its LoRA (`temporal.read`), for a plain language model: its
        tokens go through the same projector, its LoRA comes on top of the projector's.

    Raises
    ------
    ValueError
        When the parts do not fit one another, or one is missing.
    """
    name = str(checkpoint)
    where = assets.path(name) if name in assets.ASSETS else checkpoint
    tokenizer = AutoTokenizer.from_pretrained(where)
    if AutoConfig.from_pretrained(where).model_type == "llava":
        return _load_llava(where, tokenizer, projector, device, dtype)
    if encoder is None or projector is None:
        raise ValueError(f"{name} is a language model alone: it needs an encoder and a projector")
    llm: Any = AutoModelForCausalLM.from_pretrained(where, dtype=dtype)
    llm.to(device)
    found = projectors.read(projector, encoder.dim, llm.config.hidden_size)
    lora = read_lora(llm, found.rest, str(projector)) if found.rest else None
    motion = None
    if temporal is not None:
        file = temporals.read(temporal, encoder.dim)
        motion = file.model
        if lora is not None:
            llm = lora.unload()  # type: ignore[operator]  # merged it is already
        lora = read_lora(llm, file.rest, str(temporal))
    return PGVideoLLaVA(
        encoder,
        found.projector,
        llm,
        tokenizer,
        "pg-video-llava",
        frames=8,
        side=7,
        marks=found.marks,
        lora=lora,
        video_first=True,
        temporal=motion,
    )


def _load_llava(
    where: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    projector: str | Path | None,
    device: str | torch.device,
    dtype: torch.dtype,
) -> PGVideoLLaVA:
    llava: Any = LlavaForConditionalGeneration.from_pretrained(where, dtype=dtype)
    llava.to(device)
    encoder = TowerEncoder(llava, where)
    with torch.device("meta"):  # a shell around the language model that is already there
        llm = AutoModelForCausalLM.from_config(llava.config.text_config)
    llm.model, llm.lm_head = llava.model.language_model, llava.lm_head
    own, marks, template = llava.model.multi_modal_projector, None, "vicuna_v1"
    if projector is not None:
        found = projectors.read(projector, encoder.dim, llm.config.hidden_size)
        own, marks, template = found.projector, found.marks, "pg-video-llava"
    side = encoder.grid(0, 0)[0]
    return PGVideoLLaVA(encoder, own, llm, tokenizer, template, 100, side, marks)
