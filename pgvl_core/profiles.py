"""The three sizes of the one system: a profile is a row of checkpoint names, never a branch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pgvl_core import assets

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from pgvl_core.audio import Listener
    from pgvl_core.encoder import FrameEncoder
    from pgvl_core.grounding.ground import Grounder
    from pgvl_core.model import PGVideoLLaVA


@dataclass(frozen=True)
class Profile:
    """What each part of the system loads, and the machine that this takes.

    A part is named by an asset (`assets.path`), or by one of the repository's own small models:
    "liteclip", "litedetector", "litesam", "litetagger", "propagation". The phrases of an answer are
    found by "spacy-en" or by "llm", the language model itself. `own` names packages that pip cannot
    get from PyPI and that the paper itself used; where one is installed it does the work of a part:
    "deva" of the tracker, "ram" of the tags (the named encoder still names tracks).
    """

    name: str
    encoder: str  # frames to patch features
    llm: str  # the language model that the projector feeds
    speech: str  # speech to text
    sounds: str  # what a sound is like; "litetagger" reads it off whisper-tiny.en
    phrases: str  # what an answer names
    tags: str  # words for a stretch of video
    detector: str
    segmenter: str
    tracker: str
    ram: float  # GB of memory
    gpu: float = 0  # GB of accelerator memory; 0 when the processor does
    projector: str = ""  # file of data/weights, for a language model that has none of its own
    temporal: str = ""  # file of data/weights: how else than by averaging frames can be read
    own: tuple[str, ...] = ()  # packages of the paper's own parts

    @property
    def parts(self) -> dict[str, str]:
        """Checkpoint of each part, by the part's name."""
        names = ("encoder", "llm", "speech", "sounds")
        pointing = ("phrases", "tags", "detector", "segmenter", "tracker")
        return {name: getattr(self, name) for name in (*names, *pointing)}

    @property
    def disk(self) -> float:
        """GB that must be free to fetch its assets."""
        return sum(assets.ASSETS[name].disk for name in assets.needs(self.name)) / 1000


PROFILES = {
    row.name: row
    for row in (
        Profile(
            "pocket",
            encoder="liteclip",
            llm="smollm2",
            speech="whisper-tiny.en",
            sounds="litetagger",
            phrases="spacy-en",
            tags="liteclip",
            detector="litedetector",
            segmenter="litesam",
            tracker="propagation",
            ram=4,
            projector="pocket.safetensors",
            temporal="conv3d.safetensors",
        ),
        Profile(
            "laptop",
            encoder="openai/clip-vit-base-patch32",
            llm="llava-hf/llava-interleave-qwen-0.5b-hf",
            speech="whisper-base",
            sounds="litetagger",
            phrases="llm",
            tags="openai/clip-vit-base-patch32",
            detector="IDEA-Research/grounding-dino-tiny",
            segmenter="sam_vit_b",
            tracker="propagation",
            ram=12,
        ),
        Profile(
            "paper",
            encoder="openai/clip-vit-large-patch14-336",
            llm="llava-hf/llava-1.5-7b-hf",
            speech="whisper-large-v2",
            sounds="whisper-at",
            phrases="llm",
            tags="openai/clip-vit-large-patch14-336",
            detector="IDEA-Research/grounding-dino-base",
            segmenter="sam_vit_h",
            tracker="facebook/sam2.1-hiera-large",
            ram=32,
            gpu=24,
            own=("deva", "ram"),
        ),
    )
}


def profile(name: str) -> Profile:
    """The profile called `name`.

    Raises
    ------
    ValueError
        When there is none, naming those there are.
    """
    if name not in PROFILES:
        raise ValueError(f"no profile is called {name!r}; there are {', '.join(PROFILES)}")
    return PROFILES[name]


def load(name: str, projector: str | Path | None = None, pooling: str = "average") -> PGVideoLLaVA:
    """The model of a profile, on the accelerator if there is one and the profile asks for it.

    Parameters
    ----------
    projector : str or Path
        A projector file to use instead of the profile's own, such as PG-Video-LLaVA's official one.
    pooling : str
        "average" is the paper's. Profile pocket has "conv3d" besides, which adds the tokens of a
        temporal model (`temporal.Conv3d`) and tells how things move.

    Raises
    ------
    ValueError
        When there is no such profile, or it has no such pooling.
    """
    import torch  # the table above is read by commands that should not wait for it

    from pgvl_core import model
    from pgvl_core.encoder import load_encoder

    row = profile(name)
    poolings = ["average", *filter(None, [Path(row.temporal).stem])]
    if pooling not in poolings:
        raise ValueError(f"profile {name} has no pooling {pooling!r}; it has {poolings}")
    temporal = None if pooling == "average" else assets.DATA / "weights" / row.temporal
    if projector is None and row.projector:
        projector = assets.DATA / "weights" / row.projector
    device = _device(row)
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    encoder = load_encoder(row.encoder, device) if row.projector else None
    return model.load(row.llm, encoder, projector, device, dtype, temporal)


def listener(name: str) -> Listener:
    """What writes down the speech of a profile's videos.

    Profile paper tags sounds by whisper-at where that package is installed, and else as the others.
    """
    from importlib.util import find_spec

    from pgvl_core.audio import Listener, Tagger, WhisperAT
    from pgvl_core.lite.audio_tags import LiteTagger

    row = profile(name)
    tagger: Tagger
    if row.sounds == "whisper-at" and find_spec("whisper_at"):
        tagger = WhisperAT("large-v1")
    else:
        head = assets.DATA / "weights" / "tags.safetensors"
        tagger = LiteTagger(assets.path("whisper-tiny.en"), head)
    return Listener(row.speech, tagger, _device(row))


def grounder(
    name: str, encoder: FrameEncoder | None = None, ask: Callable[[str], str] | None = None
) -> Grounder:
    """The grounding module of a profile.

    Profile paper tracks with DEVA and tags with RAM where these packages are installed, and else
    with the parts of its row.

    Parameters
    ----------
    encoder : FrameEncoder
        One that is loaded already and is the profile's `tags`; it is loaded if None.
    ask : callable
        Gives the reply of the profile's language model to a plain question. Where the profile's
        `phrases` are the language model's, it is asked so; without it, spaCy finds them.

    Raises
    ------
    AssetError
        When such a package is installed and its weights are not in the store.
    """
    from functools import partial

    from pgvl_core.encoder import load_encoder
    from pgvl_core.grounding import deva, ram
    from pgvl_core.grounding.detect import load_detector
    from pgvl_core.grounding.ground import Grounder
    from pgvl_core.grounding.phrases import llm_phrases, noun_phrases
    from pgvl_core.grounding.sam2 import load_carrier
    from pgvl_core.grounding.segment import load_segmenter

    row = profile(name)
    device = _device(row)
    tagger = ram.load(device) if "ram" in row.own and ram.installed() else None
    tracker = "deva" if "deva" in row.own and deva.installed() else row.tracker
    carrier = load_carrier(tracker, device)
    encoder = encoder or load_encoder(row.tags, device)
    detector = load_detector(row.detector, device, encoder)
    return Grounder(
        encoder,
        detector,
        load_segmenter(row.segmenter, device),
        carrier,
        partial(llm_phrases, ask) if ask and row.phrases == "llm" else noun_phrases,
        tagger,
    )


def _device(row: Profile) -> torch.device:
    import torch

    if row.gpu and (found := torch.accelerator.current_accelerator(check_available=True)):
        return found
    return torch.device("cpu")
