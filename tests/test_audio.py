"""The chain from sound to transcript, against Silero's and Whisper's own ways and a real call."""

import csv
import importlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from difflib import SequenceMatcher

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pgvl_core import assets, audio, wheels
from pgvl_core.audio import Listener, Segment, Transcript, Word
from pgvl_core.evaluation.words import read_stm, word_error_rate
from pgvl_core.video import SAMPLE_RATE, Video, VideoError, read_audio, write_video

CALL = "conversation"  # half a minute of a real telephone conversation, with its words and times


@pytest.fixture(scope="module")
def call():
    """Its samples."""
    return read_audio(assets.path(CALL) / "sample.wav")


@pytest.fixture(scope="module")
def listener():
    return Listener("whisper-tiny.en")


@pytest.fixture(autouse=True)
def _nothing_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "remembered", lambda: tmp_path / "transcripts")


@pytest.fixture(scope="module")
def heard(listener, call):
    return listener._hear(call, vad=True)


def in_blocks(samples, sizes):
    """The samples in blocks of these sizes, over and over."""
    at = 0
    while at < len(samples):
        for size in sizes:
            yield samples[at : at + size]
            at += size


# -------------------------------------------------------------------------------- where it is said
def test_probabilities_and_regions_are_sileros_own(call):
    """In blocks that never end where a window does."""
    probabilities, samples = audio.speech_probabilities(in_blocks(call, [1000, 7, 3333]))
    assert samples == len(call)
    vad = audio._vad()
    expected = audio._silero().get_speech_timestamps(
        torch.from_numpy(call), vad, max_speech_duration_s=30
    )
    found = audio.speech_regions(probabilities, samples)
    assert len(found) > 3
    assert [(round(a * SAMPLE_RATE), round(b * SAMPLE_RATE)) for a, b in found] == [
        (each["start"], each["end"]) for each in expected
    ]


def test_silero_leaves_torch_its_threads():
    """Its module sets torch to one thread when it is imported."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    audio._silero.cache_clear()
    for name in [name for name in sys.modules if name.startswith("silero_vad")]:
        del sys.modules[name]
    audio._silero()
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert after == 2


def test_words_are_timed_with_the_threads_that_torch_has():
    """Numba's first parallel loop, in a process, sets OpenMP to its own number for good."""
    code = """if True:
        import sys, torch
        from pgvl_core import audio, profiles, video
        torch.set_num_threads(1)
        model = profiles.listener("pocket").whisper
        sound = video.read_audio(sys.argv[1])
        assert audio.transcribe(model, sound)["text"]
        print(torch.get_num_threads())
    """
    names = assets.DATA / "narration" / "names.ogg"
    ran = subprocess.run(
        [sys.executable, "-c", code, names],
        env=os.environ | {"NUMBA_NUM_THREADS": "2"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert ran.stdout.split() == ["1"]


def truth():
    """Who speaks when, and the words, of the telephone conversation."""
    folder = assets.path(CALL)
    with (folder / "sample.rttm").open() as stream:
        rows = [row for row in csv.reader(stream, delimiter=" ") if row]
    spoken = [(float(row[3]), float(row[3]) + float(row[4])) for row in rows]
    return spoken, read_stm(folder / "sample.stm")


def test_speech_is_found_in_a_real_conversation(call):
    """In frames of 10 ms, F1 of at least 0.85."""
    spoken, _ = truth()
    frames = np.zeros((2, len(call) // 160), bool)
    found = audio.speech_regions(*audio.speech_probabilities([call]))
    for row, spans in zip(frames, (spoken, found), strict=True):
        for start, end in spans:
            row[round(100 * start) : round(100 * end)] = True
    both = (frames[0] & frames[1]).sum()
    assert 2 * both / frames.sum() >= 0.85


def test_regions_are_joined_as_far_as_thirty_seconds():
    regions = [(0.0, 4.0), (5.0, 20.0), (25.0, 30.0), (30.5, 31.0), (70.0, 99.0)]
    assert audio.join(regions) == [(0.0, 30.0), (30.5, 31.0), (70.0, 99.0)]
    assert audio.join([]) == []


spans = st.lists(st.integers(0, 400), min_size=0, max_size=12, unique=True).map(sorted)


@given(points=spans, sizes=st.lists(st.integers(1, 70), min_size=1, max_size=4))
def test_what_is_cut_is_what_slicing_gives(points, sizes):
    """Whatever the blocks; spans in seconds at 16 samples each."""
    samples = np.arange(390, dtype=np.float32)
    chosen = list(zip(points[::2], points[1::2], strict=False))
    seconds = [(a / SAMPLE_RATE, b / SAMPLE_RATE) for a, b in chosen]
    found = audio.cut(in_blocks(samples, sizes), seconds)
    for (a, b), part in zip(chosen, found, strict=True):
        np.testing.assert_array_equal(part, samples[a:b])


# --------------------------------------------------------------------------------- what is dropped
def segment(text="Hello.", start=1.0, tags=None, dropped=""):
    words = (Word(start, start + 0.5, f" {text}", 0.9),)
    return Segment(start, start + 0.5, f" {text}", words, tags or {}, dropped)


@pytest.mark.parametrize(
    ("tags", "language", "dropped"),
    [
        ({"Speech": 1.0, "Music": 2.0, "Animal": -3.0}, "en", ""),
        ({"Music": 2.2, "Speech": 1.0, "Animal": -3.0}, "en", "music"),
        ({"Music": 2.1, "Speech": 1.0}, "en", ""),  # exceeds it by 1.1, not by more
        ({"Male speech, man speaking": 0.0, "Music": 1.0}, "en", ""),
        ({"Wind": 3.0, "Rain": 2.0, "Animal": 1.0, "Speech": 0.9}, "en", "sounds like wind, rain"),
        ({"Music": 3.0}, "en", "sounds like music"),
        ({}, "en", ""),
        ({"Speech": 1.0}, "de", "not English but german"),
        ({"Speech": 1.0}, audio.FOREIGN, "not English"),
    ],
)
def test_the_papers_rule(tags, language, dropped):
    found = audio.reason(segment(tags=tags), language)
    assert found.startswith(dropped)
    assert bool(found) == bool(dropped)


# ---------------------------------------------------------------------------------- the transcript
MADE = Transcript(
    (
        segment("First.", 1.0, {"Speech": 3.0, "Music": 0.5, "Animal": -1.0}),
        segment("La la.", 2.0, {"Music": 5.0, "Speech": 1.0}, "music"),
        segment("Then.", 3661.25, {"Speech": 3.0, "Music": -2.0}),
    ),
    "en",
    4000.0,
    ((0.9, 2.6), (3661.0, 3662.0)),
)


def test_prompt_has_what_is_kept():
    assert MADE.prompt() == "First. Then."
    assert MADE.prompt(tags=True) == "[music] First. Then."
    assert replace(MADE, segments=MADE.segments[1:2]).prompt() == ""
    assert repr(MADE) == "Transcript(2 of 3 segments kept: First. Then.)"


def test_a_transcript_survives_json(tmp_path):
    MADE.save(tmp_path / "t.json")
    data = json.loads((tmp_path / "t.json").read_text())
    assert Transcript.from_dict(data) == MADE
    assert data["segments"][1]["dropped"] == "music"


def test_subtitles(tmp_path):
    MADE.save(tmp_path / "t.srt")
    MADE.save(tmp_path / "t.vtt")
    assert (tmp_path / "t.srt").read_text() == (
        "1\n00:00:01,000 --> 00:00:01,500\nFirst.\n\n2\n01:01:01,250 --> 01:01:01,750\nThen.\n\n"
    )
    assert (tmp_path / "t.vtt").read_text() == (
        "WEBVTT\n\n00:01.000 --> 00:01.500\nFirst.\n\n01:01:01.250 --> 01:01:01.750\nThen.\n\n"
    )
    with pytest.raises(ValueError, match=r"t\.doc: a transcript is saved as"):
        MADE.save(tmp_path / "t.doc")


def test_a_transcript_shows_what_was_dropped_and_why():
    shown = MADE._repr_html_()
    assert "<del>La la.</del> (music)" in shown
    assert "1.00 to 1.50 s" in shown
    assert "nobody speaks" in Transcript((), "", 3.0, ())._repr_html_()


# ------------------------------------------------------------------------------------- the listener
def test_a_real_conversation_is_understood(heard):
    assert word_error_rate(truth()[1], heard.prompt()) <= 0.14
    assert heard.duration == pytest.approx(30, abs=0.1)
    starts = [word.start for each in heard.segments for word in each.words]
    assert starts == sorted(starts)
    assert all(a <= b for each in heard.segments for a, b in [(each.start, each.end)])


def test_words_are_where_the_truth_has_them(heard):
    """The first word, within a second; what comes before is silence."""
    words = [word for each in heard.segments for word in each.words]
    said = [word for word in words if "hello" in word.text.lower()]
    assert said[0].start == pytest.approx(6.68, abs=1)


def test_the_same_sound_is_heard_once(listener, call, monkeypatch):
    first = listener.listen(call[: 12 * SAMPLE_RATE])
    monkeypatch.setattr(listener.whisper, "transcribe", None)
    assert listener.listen(call[: 12 * SAMPLE_RATE]) == first


def test_silence_and_no_sound_give_nothing(listener, tmp_path):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (8, 32, 32, 3), np.uint8)
    write_video(tmp_path / "mute.mp4", pictures, 8)
    for source in (
        Video(tmp_path / "mute.mp4"),
        tmp_path / "mute.mp4",
        np.zeros(0, np.float32),
        np.zeros(3 * SAMPLE_RATE, np.float32),
    ):
        heard = listener.listen(source)
        assert heard.prompt() == ""
        assert heard.segments == ()
        assert str(heard) == "(nobody speaks)"


def test_without_voice_activity_all_is_heard(listener, call):
    heard = listener.listen(call, vad=False)
    assert heard.regions == ((0.0, pytest.approx(len(call) / SAMPLE_RATE)),)
    assert word_error_rate(truth()[1], heard.prompt()) <= 0.2


def test_a_file_that_is_not_there(listener, tmp_path):
    with pytest.raises(VideoError, match=r"none\.wav"):
        listener.listen(tmp_path / "none.wav")


class Jukebox:
    """A tagger that hears music in whatever comes after four seconds."""

    def tag(self, sound, spans):
        return [
            {"Music": 9.0 if start > 4 else -9.0, "Speech": 1.0, "Animal": -5.0}
            for start, _ in spans
        ]

    def __repr__(self):
        return "Jukebox()"


def test_what_sounds_like_music_is_dropped(call):
    listener = Listener("whisper-tiny.en", Jukebox())
    part = call[5 * SAMPLE_RATE : 17 * SAMPLE_RATE]
    heard = listener.listen(part)
    begin = heard.regions[0][0]
    assert {each.dropped for each in heard.segments if each.start - begin > 4} == {"music"}
    assert {each.dropped for each in heard.segments if each.start - begin <= 4} == {""}
    everything = listener.listen(part, filtered=False)
    assert {each.dropped for each in everything.segments} == {""}
    assert [s.text for s in everything.segments] == [s.text for s in heard.segments]


class Polyglot:
    """A tagger that hears a foreign language in whatever is longer than a second."""

    def tag(self, sound, spans):
        return [
            {"Speech": 2.0, audio.FOREIGN: 1.0 if end - begin > 1 else -1.5} for begin, end in spans
        ]

    def __repr__(self):
        return "Polyglot()"


def test_what_is_not_english_is_told_by_the_tags(call):
    """tiny.en takes everything for English; most of what is spoken decides."""
    listener = Listener("whisper-tiny.en", Polyglot())
    heard = listener.listen(call[6 * SAMPLE_RATE : 12 * SAMPLE_RATE])
    assert heard.language == audio.FOREIGN
    assert {each.dropped for each in heard.segments} == {"not English"}
    assert heard.prompt() == ""


def write_sound(path, sound, rate, layout):
    """Mono samples as a WAV file of that rate, the same in every channel."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(sound[None], format="flt", layout="mono")
        frame.rate = SAMPLE_RATE
        resampler = av.AudioResampler("s16", layout, rate)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(part))
        out.mux(stream.encode())


@pytest.mark.parametrize(
    ("rate", "layout", "gain"),
    [(8_000, "mono", 1), (48_000, "stereo", 1), (44_100, "5.1", 1), (16_000, "mono", 8)],
    ids=["8 kHz", "48 kHz stereo", "5.1", "clipped"],
)
def test_other_rates_and_channels_say_the_same(listener, call, tmp_path, rate, layout, gain):
    part = call[6 * SAMPLE_RATE : 18 * SAMPLE_RATE]
    file = tmp_path / "call.wav"
    write_sound(file, np.clip(gain * part, -1, 1), rate, layout)
    assert word_error_rate(listener.listen(part).prompt(), listener.listen(file).prompt()) <= 0.2


def test_sound_that_ends_before_the_video(listener, call, tmp_path):
    write_sound(tmp_path / "hello.wav", call[6 * SAMPLE_RATE : 9 * SAMPLE_RATE], 16_000, "mono")
    pictures = np.zeros((40, 32, 32, 3), np.uint8)
    write_video(tmp_path / "long.mp4", pictures, 4, audio_from=tmp_path / "hello.wav")
    heard = listener.listen(tmp_path / "long.mp4")
    assert "hello" in heard.prompt().lower()
    assert heard.duration == pytest.approx(3, abs=0.2)
    assert all(each.end <= 3.2 for each in heard.segments)


def test_words_are_timed_as_openai_whisper_times_them(listener, call):
    """Those that both hear; it decodes differently when it times words, so not all are the same."""
    part = call[6 * SAMPLE_RATE : 18 * SAMPLE_RATE]
    ours = [
        w for each in audio.transcribe(listener.whisper, part)["segments"] for w in each["words"]
    ]
    found = listener.whisper.transcribe(
        part, temperature=0.0, word_timestamps=True, condition_on_previous_text=False, fp16=False
    )
    theirs = [word for each in found["segments"] for word in each["words"]]
    names = [[word["word"].strip(" ,.?!").lower() for word in words] for words in (ours, theirs)]
    blocks = SequenceMatcher(None, *names, autojunk=False).get_matching_blocks()
    apart = [
        abs(ours[a + i]["start"] - theirs[b + i]["start"]) for a, b, n in blocks for i in range(n)
    ]
    assert len(apart) >= 15
    assert np.median(apart) <= 0.1


# -------------------------------------------------------------------------------------- whisper-at
@pytest.fixture
def whisper_at(tmp_path, monkeypatch):
    """The package itself, though its pins forbid to install it: its code alone is taken."""
    wheel = wheels.download("whisper-at==0.5", tmp_path, 2)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "package")
    monkeypatch.syspath_prepend(tmp_path / "package")
    yield importlib.import_module("whisper_at")
    for name in [name for name in sys.modules if name.split(".")[0] == "whisper_at"]:
        del sys.modules[name]


def test_whisper_at_tags_spans_as_its_own_windows(whisper_at, call, monkeypatch):
    """A span of ten seconds is one of its windows, of the same sound; the weights are random."""
    torch.manual_seed(0)
    dims = whisper_at.model.ModelDimensions(80, 1500, 64, 2, 2, 51865, 448, 64, 2, 2)
    model = whisper_at.model.Whisper(dims).eval()
    monkeypatch.setattr(whisper_at, "load_model", lambda name: model)
    tagger = audio.WhisperAT("large-v1")
    assert len(tagger.names) == 527
    assert {*audio.SPEECH, audio.MUSIC} <= set(tagger.names)
    sound = call[: 30 * SAMPLE_RATE]
    spans = [(0.0, 10.0), (10.0, 20.0), (20.0, 30.0), (3.0, 3.01), (29.95, 30.0)]
    found = tagger.tag(sound, spans)
    mel = whisper_at.pad_or_trim(whisper_at.log_mel_spectrogram(sound), 3000)
    with torch.inference_mode():
        windows = model.at_model(model.encoder(mel[None])[1], time_resolution=10)
    for tags, window in zip(found[:3], windows, strict=True):
        np.testing.assert_allclose([tags[name] for name in tagger.names], window, atol=1e-4)
    assert all(len(tags) == 527 for tags in found)
