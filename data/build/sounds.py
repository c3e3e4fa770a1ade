"""Sounds for narrated clips and for the tag head: voices of espeak-ng, synthesised music and noise.

espeak-ng is needed for making them alone; who listens to them needs none.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

from pgvl_core.video import SAMPLE_RATE as RATE
from pgvl_core.video import read_audio

LEVEL = 0.08  # root mean square of a narrator, of at most 1
Maker = Callable[[np.random.Generator, float], np.ndarray]
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-029")
SPEAKERS = ("", "+m1", "+m2", "+m3", "+m4", "+f1", "+f2", "+f3", "+f4")


def say(
    text: str, voice: str = "en-us", speed: int = 160, pitch: int = 50, gap: int = 0
) -> np.ndarray:
    """What a voice says, float32 [S] at 16 kHz.

    Speed in words a minute, pitch from 0 to 99, the gap between words in hundredths of a second.
    """
    program = shutil.which("espeak-ng")
    if program is None:
        raise SystemExit("espeak-ng speaks here: install it (apt-get install espeak-ng)")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "said.wav"
        manner = ["-v", voice, "-s", str(speed), "-p", str(pitch), "-g", str(gap)]
        subprocess.run([program, *manner, "-w", str(file), text], check=True)
        return read_audio(file)


def write_opus(file: Path, sound: np.ndarray) -> None:
    """Write samples at 16 kHz as an Opus file, 20 kbit a second."""
    with av.open(str(file), "w", format="ogg") as out:
        stream: Any = out.add_stream("libopus", rate=48_000, layout="mono")
        stream.bit_rate = 20_000
        frame = av.AudioFrame.from_ndarray(sound[None], format="flt", layout="mono")
        frame.rate = RATE
        resampler = av.AudioResampler("flt", "mono", 48_000, frame_size=960)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(part))
        out.mux(stream.encode())


# ------------------------------------------------------------------------------------ synthesised
def envelope(samples: int, attack: float, decay: float) -> np.ndarray:
    """A note's loudness: up in `attack` seconds, down by e in `decay` seconds."""
    time = np.arange(samples) / RATE
    return np.minimum(time / attack, 1) * np.exp(-time / decay)


def note(rng: np.random.Generator, hertz: float, samples: int, timbre: np.ndarray) -> np.ndarray:
    """A tone of harmonics of the given strengths."""
    time = np.arange(samples) / RATE
    harmonics = hertz * np.arange(1, len(timbre) + 1)
    waves = np.sin(2 * np.pi * harmonics[:, None] * time + rng.uniform(0, 6.3, (len(timbre), 1)))
    return (np.where(harmonics < RATE / 2, timbre, 0)[:, None] * waves).sum(0)


def tune(rng: np.random.Generator, count: int) -> np.ndarray:
    """Frequencies of a random walk on a scale."""
    scale = np.array([(0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)][rng.integers(2)])
    steps = np.clip(np.cumsum(rng.integers(-2, 3, count)) + rng.integers(3, 10), 0, 14)
    return rng.uniform(110, 260) * 2 ** ((scale[steps % 7] + 12 * (steps // 7)) / 12)


def band(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Chords, a tune above them, and drums."""
    total = int(seconds * RATE)
    sound = np.zeros(total + RATE)
    beat = int(RATE * rng.uniform(0.25, 0.6))
    timbres = [rng.random(8) / np.arange(1, 9) ** rng.uniform(0.5, 2) for _ in range(2)]
    attack, decay, drums = rng.uniform(0.005, 0.08), rng.uniform(0.1, 0.8), rng.random() < 0.6
    melody = tune(rng, total // beat + 1)
    for i, start in enumerate(range(0, total, beat)):
        length = min(2 * beat, len(sound) - start)
        shape = envelope(length, attack, decay)
        if i % 4 == 0:
            root = melody[i] / 2
            for ratio in (1, 1.26 if rng.random() < 0.6 else 1.19, 1.5):
                chord = note(rng, root * ratio, min(4 * beat, len(sound) - start), timbres[0])
                sound[start : start + len(chord)] += 0.5 * chord * envelope(len(chord), 0.02, 1.5)
        if rng.random() < 0.85:
            sound[start : start + length] += note(rng, melody[i], length, timbres[1]) * shape
        if drums:
            hit = rng.standard_normal(min(2000, length)) * envelope(min(2000, length), 0.001, 0.03)
            sound[start : start + len(hit)] += 1.2 * hit
    return sound[:total]


def singing(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """A voice that sings vowels, over a band."""
    total = int(seconds * RATE)
    time = np.arange(total) / RATE
    length = int(RATE * rng.uniform(0.3, 0.8))
    tones = np.repeat(tune(rng, total // length + 1), length)[:total]
    phase = 2 * np.pi * np.cumsum(tones * (1 + 0.01 * np.sin(2 * np.pi * 5.5 * time))) / RATE
    vowels = np.array([(800, 1200, 2800), (350, 2200, 2900), (450, 800, 2700), (600, 1800, 2600)])
    places = np.repeat(vowels[rng.integers(4, size=total // length + 1)], length, 0)[:total]
    voice = np.zeros(total)
    for k in range(1, 25):
        gain = sum(np.exp(-(((k * tones - places[:, j]) / 150) ** 2)) / (j + 1) for j in range(3))
        voice += np.where(k * tones < 7000, gain, 0) * np.sin(k * phase)
    return loud(voice) + rng.uniform(0, 1) * loud(band(rng, seconds))


def engine(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """An engine that speeds up and slows down, or a siren."""
    time = np.arange(int(seconds * RATE)) / RATE
    slow = np.sin(2 * np.pi * rng.uniform(0.1, 0.5) * time + rng.uniform(0, 6))
    if rng.random() < 0.3:
        hertz = rng.uniform(500, 900) * (1 + 0.35 * np.sin(2 * np.pi * rng.uniform(0.3, 3) * time))
        phase = 2 * np.pi * np.cumsum(hertz) / RATE
        return np.sin(phase) + 0.4 * np.sin(3 * phase)
    hertz = rng.uniform(20, 110) * (1 + rng.uniform(0.05, 0.4) * slow)
    phase = np.cumsum(hertz) / RATE
    bursts = np.exp(-rng.uniform(2, 8) * (phase % 1))
    rumble = np.convolve(rng.standard_normal(len(time)), np.ones(12) / 12, "same")
    return bursts * (np.sin(2 * np.pi * 3 * phase) + rng.uniform(0.5, 2) * rumble) + 0.2 * rumble


def noise(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """White to brown noise."""
    spectrum = np.fft.rfft(rng.standard_normal(int(seconds * RATE)))
    return np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)), 20) ** rng.uniform(0, 1))


def loud(sound: np.ndarray) -> np.ndarray:
    """Scaled to a root mean square of one."""
    return sound / (np.sqrt(np.mean(sound**2)) + 1e-9)


def stretch(rng: np.random.Generator, sound: np.ndarray, seconds: float) -> np.ndarray:
    """A piece of a sound, as long as it is or is asked for."""
    room = len(sound) - int(seconds * RATE)
    first = int(rng.integers(room)) if room > 0 else 0
    return sound[first : first + int(seconds * RATE)]


def bed(make: Maker, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Music or noise to lay under a narrator, as long as asked for and as loud."""
    return loud(make(rng, samples / RATE + 0.1))[:samples]
