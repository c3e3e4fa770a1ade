"""What colour a thing is, in the words that a sentence tells one thing from another by.

Every pixel is judged alone, by hue, saturation and brightness: a dark orange is brown, a pale red
pink, and what has little colour is black, grey or white. No light is taken out: a white cup in the
evening may be grey.
"""

from __future__ import annotations

import re

import cv2
import numpy as np

from .phrases import noun_phrases

WORDS = "black white grey red pink brown orange yellow green blue purple"
COLOURS = tuple(WORDS.split())
SAID = re.compile(rf"\b({'|'.join(COLOURS)}|gray)\b", re.IGNORECASE)


def shares(pixels: np.ndarray) -> np.ndarray:
    """Share of each of `COLOURS` among RGB pixels, uint8 ``[n, 3]``: float32 ``[11]``.

    The limits were chosen on the seen sprites, of which the largest share is the colour that the
    atlas tells for 86%; of the unseen, 87%.
    """
    hue, saturation, value = np.moveaxis(
        cv2.cvtColor(pixels[None].astype(np.float32) / 255, cv2.COLOR_RGB2HSV)[0], -1, 0
    )
    pale, red = saturation < 0.2, (hue < 12) | (hue >= 340)
    dull = (red & (value < 0.35)) | (~red & (hue < 45) & ((value < 0.6) | (saturation < 0.55)))
    rules = {
        "black": value < 0.22,
        "white": pale & (value > 0.65),
        "grey": pale,
        "brown": dull,
        "pink": (red & (saturation < 0.5) & (value > 0.7)) | ((hue >= 300) & ~red),
        "red": red,
        "orange": hue < 45,
        "yellow": hue < 70,
        "green": hue < 165,
        "blue": hue < 255,
        "purple": hue < 300,
    }
    found = np.select([*rules.values()], [COLOURS.index(name) for name in rules])
    return (np.bincount(found, minlength=len(COLOURS)) / max(1, len(found))).astype(np.float32)


def named(text: str) -> int | None:
    """Number of the first of `COLOURS` that a text calls something; None if it has none.

    "An orange" alone is a fruit: a colour that is a phrase's own noun is none.
    """
    said = [word.lower() for word in SAID.findall(text)]
    things = {phrase.head.lower() for phrase in noun_phrases(text)} if said else set()
    words = [word.replace("gray", "grey") for word in said if word not in things]
    return COLOURS.index(words[0]) if words else None
