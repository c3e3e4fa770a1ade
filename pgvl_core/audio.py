"""What is said in a video: voice activity, Whisper, and a filter by audio tags (paper, 3.2).

Silero VAD finds where somebody speaks; what is close together is joined to chunks of at most 30 s,
as WhisperX does; openai-whisper hears these chunks alone; and each segment of what it heard is kept
or dropped by what the sound is like: Whisper also writes down a text for music that says nothing.
The sound is read in blocks, twice, so that an hour of it takes no more memory than a minute.
"""

from __future__ import annotations

import hashlib
import html
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import whisper
from tqdm.auto import tqdm
from whisper.audio import N_FRAMES
from whisper.timing import add_word_timestamps
from whisper.tokenizer import get_tokenizer
from whisper.utils import get_writer

from . import assets
from .files import sha256, write_text
from .lite.audio_tags import load_whisper
from .video import SAMPLE_RATE, Video, audio_blocks, check_file

CHUNK = 30.0  # seconds that Whisper hears at a time
WINDOW = 512  # samples of one probability of Silero VAD: 32 ms
SPEECH = ("Speech", "Male speech, man speaking", "Female speech, woman speaking")
MUSIC = "Music"
FOREIGN = "Not English"
TOP = 3  # among so many tags must be one of speech
MARGIN = 1.1  # logits by which music may exceed speech
SPELLED = "$%0123456789£€"  # signs that Whisper may not write: it writes numbers as they are said
REPEATS = 2.4  # as Whisper's own limit: a text that gzip shortens more goes round in circles

Span = tuple[float, float]  # seconds: begin, end
Sound = Video | str | Path | np.ndarray


# -------------------------------------------------------------------------------- what was heard
@dataclass(frozen=True)
class Word:
    """A word and when it was said, in seconds; how sure Whisper is of it, from 0 to 1."""

    start: float
    end: float
    text: str
    probability: float


@dataclass(frozen=True)
class Segment:
    """A stretch of speech, and why it is left out of the transcript, if it is."""

    start: float
    end: float
    text: str
    words: tuple[Word, ...]
    tags: dict[str, float]  # logits, the strongest first; empty without a tagger
    dropped: str  # "" when it is kept


@dataclass(frozen=True)
class Transcript:
    """What is said in a video."""

    segments: tuple[Segment, ...]
    language: str  # as Whisper calls it: "en"; "" when nobody speaks; `FOREIGN` by the tags alone
    duration: float  # seconds of sound
    regions: tuple[Span, ...]  # where Silero VAD heard somebody

    @property
    def kept(self) -> tuple[Segment, ...]:
        """The segments that count."""
        return tuple(each for each in self.segments if not each.dropped)

    def prompt(self, tags: bool = False) -> str:
        """The text for a model's prompt; "" when nothing was said, and then it has no such line.

        With `tags`, each segment begins with what it sounds like besides speech: "[music] Hello."
        """
        said = []
        for each in self.kept:
            heard = [name for name, logit in each.tags.items() if logit > 0 and name not in SPEECH]
            lead = f"[{', '.join(heard).lower()}] " if tags and heard else ""
            said.append(lead + each.text.strip())
        return " ".join(said)

    def __str__(self) -> str:
        return self.prompt() or "(nobody speaks)"

    def __repr__(self) -> str:
        return f"Transcript({len(self.kept)} of {len(self.segments)} segments kept: {self})"

    def _repr_html_(self) -> str:
        rows = ""
        for each in self.segments:
            heard = ", ".join(
                f"{name} {logit:.1f}" for name, logit in list(each.tags.items())[:TOP]
            )
            text = html.escape(each.text.strip())
            if each.dropped:
                text = f"<del>{text}</del> ({html.escape(each.dropped)})"
            rows += (
                f"<tr><td>{each.start:.2f} to {each.end:.2f} s</td>"
                f"<td style='text-align: left'>{text}</td><td>{html.escape(heard)}</td></tr>"
            )
        head = "<tr><th>when</th><th>what</th><th>sounds like (logits)</th></tr>"
        return f"<table>{head}{rows}</table>" if rows else f"<p>{self}</p>"

    def to_dict(self) -> dict[str, Any]:
        """The transcript as plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Transcript:
        """The transcript of `to_dict`, also after JSON."""
        segments = tuple(
            Segment(**{**each, "words": tuple(Word(**word) for word in each["words"])})
            for each in data["segments"]
        )
        regions = tuple((start, end) for start, end in data["regions"])
        return cls(segments, data["language"], data["duration"], regions)

    def save(self, path: str | Path) -> None:
        """Write the kept segments as subtitles (.srt, .vtt), or everything as .json.

        Raises
        ------
        ValueError
            When the suffix is none of these.
        """
        path = Path(path)
        if path.suffix not in (".json", ".srt", ".vtt"):
            raise ValueError(f"{path.name}: a transcript is saved as .srt, .vtt or .json")
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        if path.suffix != ".json":
            stream = io.StringIO()
            lines = [{"start": s.start, "end": s.end, "text": s.text} for s in self.kept]
            writer: Any = get_writer(path.suffix[1:], ".")
            writer.write_result({"segments": lines}, stream)
            text = stream.getvalue()
        write_text(path, text)


# ---------------------------------------------------------------------------------- where it is
@contextmanager
def _threads(count: int | None = None) -> Iterator[None]:
    """Compute with so many threads, and give torch back those it had, whoever takes them."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def _silero() -> Any:
    with _threads():
        import silero_vad  # sets torch to one thread
    return silero_vad


@cache
def _vad() -> Any:
    return _silero().load_silero_vad()


@torch.inference_mode()
@_threads(1)  # on a busy machine, two take a hundred times as long over windows so small
def speech_probabilities(blocks: Iterable[np.ndarray]) -> tuple[np.ndarray, int]:
    """How likely somebody speaks, in each window of 32 ms.

    Parameters
    ----------
    blocks : float32 arrays of samples at 16 kHz, in [-1, 1]

    Returns
    -------
    float32 array [windows], and the number of samples
    """
    model, found, samples = _vad(), [], 0
    model.reset_states()
    rest = np.zeros(0, np.float32)
    for block in blocks:
        samples += len(block)
        rest = np.concatenate([rest, block])
        whole = len(rest) // WINDOW * WINDOW
        for window in torch.from_numpy(rest[:whole]).reshape(-1, WINDOW):
            found.append(model(window, SAMPLE_RATE).item())
        rest = rest[whole:]
    if len(rest):
        window = torch.from_numpy(np.pad(rest, (0, WINDOW - len(rest))))
        found.append(model(window, SAMPLE_RATE).item())
    return np.array(found, np.float32), samples


def speech_regions(probabilities: np.ndarray, samples: int) -> list[Span]:
    """Where somebody speaks, by Silero's own rules; none is longer than 30 s."""
    found = _silero().utils_vad.get_speech_timestamps_from_probs(
        probabilities.tolist(), max_speech_duration_s=CHUNK, audio_length_samples=samples
    )
    return [(each["start"] / SAMPLE_RATE, each["end"] / SAMPLE_RATE) for each in found]


def join(regions: Sequence[Span], longest: float = CHUNK) -> list[Span]:
    """Regions joined from the left to chunks of at most `longest` seconds, silence included."""
    chunks: list[Span] = []
    for start, end in regions:
        if chunks and end - chunks[-1][0] <= longest:
            chunks[-1] = chunks[-1][0], end
        else:
            chunks.append((start, end))
    return chunks


def cut(blocks: Iterable[np.ndarray], spans: Sequence[Span]) -> Iterator[np.ndarray]:
    """The samples of each span, in order; the spans ascend and do not overlap."""
    source, begin = iter(blocks), 0
    held = np.zeros(0, np.float32)
    for span in spans:
        first, last = (round(second * SAMPLE_RATE) for second in span)
        parts, end = [held], begin + len(held)
        while end < last and (block := next(source, None)) is not None:
            if end + len(block) <= first:  # nothing of what came so far is wanted
                parts = []
                begin = end + len(block)
            else:
                parts.append(block)
            end += len(block)
        held = np.concatenate([np.zeros(0, np.float32), *parts])
        yield held[first - begin : last - begin]
        held, begin = held[last - begin :], min(last, end)


# ----------------------------------------------------------------------------------- what it says
@cache
def numerals(multilingual: bool) -> tuple[int, ...]:
    """Whisper's tokens with a sign of `SPELLED` in them, for `transcribe`."""
    tokenizer = get_tokenizer(multilingual)
    return tuple(i for i in range(tokenizer.eot) if set(tokenizer.decode([i])) & set(SPELLED))


def transcribe(model: whisper.Whisper, audio: np.ndarray) -> dict[str, Any]:
    """What openai-whisper hears in float32 samples at 16 kHz, and when each word is said.

    The words are timed when the text is complete. openai-whisper's own `word_timestamps` decodes
    anew from the end of the last word wherever one seems to be missing, and on the telephone
    conversation of the assets tiny.en gets more words wrong for it. A text that goes round in
    circles is left out. Numbers are in words ("sixty dollars", not "$60"), as in WhisperX with its
    `suppress_numerals`: so they are spoken, timed, and asked about.

    Returns
    -------
    dict
        As of `whisper.transcribe`; each of its "segments" has "words".
    """
    found = model.transcribe(
        audio,
        temperature=0.0,  # the higher ones that it falls back to are random
        beam_size=5,  # as WhisperX, and openai-whisper's own command
        condition_on_previous_text=False,
        suppress_tokens=[-1, *numerals(model.is_multilingual)],  # -1: and all that is not speech
        fp16=model.device.type != "cpu",
        verbose=None,
    )
    tokenizer = get_tokenizer(model.is_multilingual, language=found["language"], task="transcribe")
    # It would try such a text again at a higher temperature, and so at random: it is made up.
    found["segments"] = [s for s in found["segments"] if s["compression_ratio"] <= REPEATS]
    mel = whisper.log_mel_spectrogram(audio, model.dims.n_mels)
    spoken = 0.0
    for first, segments in groupby(found["segments"], key=lambda each: each["seek"]):
        piece, window = mel[:, first : first + N_FRAMES], list(segments)
        with _threads():  # Numba, at its first loop, sets the whole process to all processors
            add_word_timestamps(
                segments=window,
                model=model,
                tokenizer=tokenizer,
                mel=whisper.pad_or_trim(piece, N_FRAMES).to(model.device),
                num_frames=piece.shape[-1],
                last_speech_timestamp=spoken,
            )
        spoken = window[-1]["end"]
    return found


# ---------------------------------------------------------------------------------- what is kept
def reason(segment: Segment, language: str) -> str:
    """Why a segment does not count: the paper's rule, on the tags; "" when it does.

    Speech is among its three strongest tags, and music does not exceed it by more than 1.1.
    Only English is heard, as in the official code.
    """
    if language == FOREIGN:
        return "not English"
    if language != "en":
        return f"not English but {whisper.tokenizer.LANGUAGES[language]}"
    if not segment.tags:
        return ""
    strongest = list(segment.tags)[:TOP]
    if not set(strongest) & set(SPEECH):
        return f"sounds like {', '.join(strongest).lower()}"
    speech = max(segment.tags.get(name, -np.inf) for name in SPEECH)
    if segment.tags.get(MUSIC, -np.inf) - speech > MARGIN:
        return "music"
    return ""


class Tagger(Protocol):
    """Tells what a sound is like."""

    def tag(self, audio: np.ndarray, spans: Sequence[Span]) -> list[dict[str, float]]:
        """Logits of all tags in each span (seconds) of at most 30 s of sound."""
        ...


class WhisperAT:
    """The 527 tags of AudioSet by the package whisper-at, as in the paper, where it is installed.

    Its own `transcribe` tags windows of a fixed length and writes the text down once more. Here
    the span itself is one window, and no text is made.
    """

    def __init__(self, name: str) -> None:
        import whisper_at

        self.name, self.model = name, whisper_at.load_model(name)
        labels = Path(whisper_at.__file__).parent / "assets" / "label_name_dict.json"
        self.names: list[str] = json.loads(labels.read_text(encoding="utf-8"))["en"]

    def __repr__(self) -> str:
        return f"WhisperAT({self.name!r})"

    @torch.inference_mode()
    def tag(self, audio: np.ndarray, spans: Sequence[Span]) -> list[dict[str, float]]:
        """Logits of all tags in each span (seconds) of at most 30 s of sound at 16 kHz."""
        mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(audio))
        _, layers = self.model.encoder(mel[None].to(self.model.device))  # [layers, 75, K]
        found = []
        for begin, end in spans:
            first = min(int(begin / CHUNK * layers.shape[1]), layers.shape[1] - 1)
            states = layers[:, first : max(round(end / CHUNK * layers.shape[1]), first + 1)]
            # It takes seconds and makes states of them, rounding down: 2.5 states to a second.
            (logits,) = self.model.at_model(states, (states.shape[1] + 0.5) / 2.5)
            found.append(dict(zip(self.names, logits.tolist(), strict=True)))
        return found


# ------------------------------------------------------------------------------------- the chain
class Listener:
    """Writes down what is said in videos.

    Parameters
    ----------
    speech : str or Path
        An asset that `whisper.load_model` reads, or such a file.
    tagger : Tagger or None
        None: what was heard is not filtered.
    device : torch.device or str
        Where Whisper computes.
    """

    def __init__(
        self, speech: str | Path, tagger: Tagger | None = None, device: torch.device | str = "cpu"
    ) -> None:
        self.name, self.tagger, self.device = str(speech), tagger, str(device)
        where = assets.path(self.name) if self.name in assets.ASSETS else speech
        self.checkpoint = str(where)

    @property
    def whisper(self) -> whisper.Whisper:
        """The Whisper, loaded when somebody speaks first."""
        return load_whisper(self.checkpoint, self.device)

    def listen(self, source: Sound, vad: bool = True, filtered: bool = True) -> Transcript:
        """What is said in a video or a sound.

        Parameters
        ----------
        source : Video, path of a video or sound file, or float32 array [S] at 16 kHz
        vad : bool
            False: Whisper hears everything, thirty seconds at a time.
        filtered : bool
            False: nothing that was heard is dropped.

        Returns
        -------
        Transcript
            Of no segments when there is no sound, or nobody speaks. It is kept by the content of
            the file beside the assets, and not made twice.

        Raises
        ------
        VideoError
            When the file cannot be read, or breaks off.
        """
        heard = self._remembered(source, vad)
        drop = filtered and self.tagger is not None
        segments = tuple(
            replace(each, dropped=reason(each, heard.language) if drop else "")
            for each in heard.segments
        )
        return replace(heard, segments=segments)

    def _language(self, found: str, segments: Sequence[Segment]) -> str:
        """The language; where Whisper knows English alone, what the tags say of all segments."""
        spoken = sum(each.end - each.start for each in segments)
        if self.whisper.is_multilingual or not spoken:
            return found
        foreign = sum(each.tags.get(FOREIGN, 0) * (each.end - each.start) for each in segments)
        return FOREIGN if foreign > 0 else found

    def _remembered(self, source: Sound, vad: bool) -> Transcript:
        if isinstance(source, np.ndarray):
            content = hashlib.sha256(np.ascontiguousarray(source, np.float32).data).hexdigest()
        else:
            path = Path(source.path if isinstance(source, Video) else source)
            check_file(path)
            content = sha256(path)
        key = hashlib.sha256(f"{self.name} {vad} {self.tagger!r} {SPELLED} {content}".encode())
        file = remembered() / f"{key.hexdigest()[:32]}.json"
        if file.exists():
            return Transcript.from_dict(json.loads(file.read_text(encoding="utf-8")))
        heard = self._hear(source, vad)
        file.parent.mkdir(parents=True, exist_ok=True)
        heard.save(file)
        return heard

    def _hear(self, source: Sound, vad: bool) -> Transcript:
        if vad:
            blocks = tqdm(_blocks(source), desc="finding speech", unit="block")
            probabilities, samples = speech_probabilities(blocks)
            regions = speech_regions(probabilities, samples)
        else:
            samples = sum(len(block) for block in _blocks(source))
            starts = np.arange(0, samples / SAMPLE_RATE, CHUNK).tolist()
            regions = [(start, min(start + CHUNK, samples / SAMPLE_RATE)) for start in starts]
        chunks = join(regions)
        segments: list[Segment] = []
        language = ""
        bar = tqdm(total=samples / SAMPLE_RATE, desc="listening", unit="s")
        for (start, end), audio in zip(chunks, cut(_blocks(source), chunks), strict=True):
            found = transcribe(self.whisper, audio)
            language = language or found["language"]
            segments += self._segments(found["segments"], audio, start)
            bar.update(end - bar.n)
        bar.close()
        language = self._language(language, segments)
        return Transcript(tuple(segments), language, samples / SAMPLE_RATE, tuple(regions))

    def _segments(
        self, found: Sequence[Mapping[str, Any]], audio: np.ndarray, start: float
    ) -> Iterator[Segment]:
        found = [each for each in found if each["text"].strip() and each["end"] > each["start"]]
        tags: list[dict[str, float]] = [{}] * len(found)
        if self.tagger is not None and found:
            tags = self.tagger.tag(audio, [(each["start"], each["end"]) for each in found])
        for each, own in zip(found, tags, strict=True):
            words = tuple(
                Word(
                    start + float(word["start"]),
                    start + float(word["end"]),
                    word["word"],
                    float(word["probability"]),
                )
                for word in each["words"]
            )
            strongest = dict(sorted(own.items(), key=lambda item: -item[1]))
            yield Segment(
                start + float(each["start"]),
                start + float(each["end"]),
                each["text"],
                words,
                strongest,
                "",
            )


def remembered() -> Path:
    """Folder of the transcripts that were made already, beside the assets."""
    return assets.home() / "transcripts"


def _blocks(source: Sound) -> Iterable[np.ndarray]:
    if isinstance(source, np.ndarray):
        return [source.astype(np.float32, copy=False)]
    return source.audio_blocks() if isinstance(source, Video) else audio_blocks(source)
