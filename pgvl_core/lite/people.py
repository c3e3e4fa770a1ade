"""Whether a box holds a person: what ImageNet has no class for, BlazePose was made to find.

The trunk was taught a thousand kinds of things, and people are none of them, so no text vector
points at one reliably. BlazePose's detector (Bazarevsky et al., 2020; MediaPipe, Apache-2.0) is a
network of 7 MB that finds people in pictures of 224 x 224 pixels. It runs on the boxes that
LiteDetector found, and only how sure it is is used: its own boxes are of faces.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter

from .. import assets
from ..video import resize

SIDE = 224
SURE = 0.6  # from here on it is a person: no dog, bicycle or car tried came as high, a gorilla did

# Nouns, singular, that a person can be called by.
NOUNS = """
adult athlete baby biker boy bride bystander chef child clown cowboy cyclist dancer doctor
driver farmer female firefighter friend gentleman girl groom guest guitarist guy human
individual kid lady male man motorcyclist musician officer passenger passerby pedestrian
people person photographer player policeman rider runner singer skater skier soldier
spectator student surfer swimmer teacher teenager toddler tourist walker wife woman worker
"""
WORDS = frozenset(NOUNS.split())
IRREGULAR = {"children": "child", "ladies": "lady", "babies": "baby", "wives": "wife"}


def means_person(phrase: str) -> bool:
    """Whether a noun phrase ("two young women") is about people, by its last word."""
    last = phrase.lower().split()[-1] if phrase.strip() else ""
    if last.endswith("men"):
        last = last.removesuffix("men") + "man"
    return not WORDS.isdisjoint((last, last.removesuffix("s"), IRREGULAR.get(last, last)))


def square(image: np.ndarray, box: np.ndarray, grow: float = 0.1) -> np.ndarray:
    """What is in a box, in the middle of a square of 224 pixels; uint8 ``[224, 224, 3]``.

    The square is as long as the box's longer side, and `grow` of it more on each side, and shows
    what is around the box; beyond the image it is black.
    """
    height, width = image.shape[:2]
    centre = (box[:2] + box[2:]) / 2
    half = max(1.0, (0.5 + grow) * float((box[2:] - box[:2]).max()))
    left, top = np.floor(centre - half).astype(int)
    right, bottom = np.ceil(centre + half).astype(int)
    inside = image[max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
    room = ((max(-top, 0), max(bottom - height, 0)), (max(-left, 0), max(right - width, 0)), (0, 0))
    return resize(np.pad(inside, room)[None], SIDE, SIDE)[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing that a library in C writes to standard error, past Python, is seen."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class PersonTest:
    """BlazePose's detector, asked about boxes."""

    def __init__(self) -> None:
        with quiet():  # it tells every time by which of its routes it computes
            self.network = Interpreter(
                model_path=str(assets.path("blazepose")), num_threads=torch.get_num_threads()
            )
            self.network.allocate_tensors()
        self.input = self.network.get_input_details()[0]["index"]
        outputs = self.network.get_output_details()
        # One output holds boxes and keypoints of its 2,254 anchors, the other how sure each is.
        self.logits = next(each["index"] for each in outputs if each["shape"][-1] == 1)

    def __call__(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """How surely a person is in each box, from 0 to 1: float32 ``[N]``.

        Parameters
        ----------
        image : uint8 array ``[H, W, 3]``
            RGB.
        boxes : float array ``[N, 4]``
            xyxy in pixels.
        """
        found = np.zeros(len(boxes), np.float32)
        # All squares first: torch's threads, which resize, and the network's would wait for each
        # other at every box.
        squares = [square(image, box) for box in boxes]
        for i, inside in enumerate(squares):
            pixels = inside.astype(np.float32) / 127.5 - 1
            self.network.set_tensor(self.input, pixels[None])
            self.network.invoke()
            found[i] = 1 / (1 + np.exp(-self.network.get_tensor(self.logits).max()))
        return found
