"""What a narrator says of a clip's objects that no picture shows, and what can be asked of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pgvl_core.toyworld_text import NUMBERS

# Names that speech recognition spells in one way.
# fmt: off
PETS = (
    "Max", "Lucky", "Rocky", "Bella", "Charlie", "Coco", "Daisy", "Buddy", "Pepper", "Ginger",
    "Oscar", "Molly",
)
PEOPLE = (
    "Peter", "Anna", "Robert", "Susan", "David", "Julia", "Martin", "Helen", "Daniel", "Alice",
    "Thomas", "Laura", "Henry", "Emma", "Richard", "Linda", "George", "Maria", "Andrew", "Victoria",
    "Paul", "Nancy", "Edward", "Rosa",
)
# fmt: on
REASONS = (
    "it is hungry",
    "it is lost",
    "it is tired",
    "it is new",
    "it is for sale",
    "it is a present",
    "it is waiting for a friend",
    "it likes the music",
    "it is very old",
    "somebody left it here",
    "it is raining at home",
    "it won a prize",
)
TENS = {20: "twenty", 30: "thirty", 40: "forty", 50: "fifty", 60: "sixty", 70: "seventy",
        80: "eighty", 90: "ninety"}  # fmt: skip
SMALL = {**{i: NUMBERS[i] for i in range(2, 6)}, 6: "six", 7: "seven", 8: "eight", 9: "nine",
         10: "ten", 11: "eleven", 12: "twelve", 15: "fifteen"}  # fmt: skip
PRICES = SMALL | TENS
CHATTER = (
    "Hello and welcome.",
    "Look at this.",
    "Here we are again.",
    "Let me tell you something.",
    "That is all for today.",
    "Thank you for watching.",
    "Isn't this nice?",
    "I could watch this all day.",
)


@dataclass(frozen=True)
class Narration:
    """What is said, and questions that only the sound answers."""

    sentences: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        return " ".join(self.sentences)


KINDS = ("name", "owner", "price", "reason")


def _fact(kind: str, noun: str, rng: np.random.Generator) -> tuple[str, list[tuple[str, str]]]:
    """A sentence about a thing, and questions with their answer."""
    if kind == "name":
        name = str(rng.choice(PETS))
        said = (f"The {noun} is called {name}.", f"The name of the {noun} is {name}.")
        asked: tuple[str, ...] = (f"What is the {noun} called?", f"What is the name of the {noun}?")
        answer = f"{name}."
    elif kind == "owner":
        name = str(rng.choice(PEOPLE))
        said = (f"The {noun} belongs to {name}.", f"{name} owns the {noun}.")
        asked = (f"Who owns the {noun}?", f"Whose {noun} is it?")
        answer = f"{name}."
    elif kind == "price":
        price = PRICES[int(rng.choice(list(PRICES)))]
        cost = f"{price} dollars"
        said = (f"The {noun} costs {cost}.", f"You can buy the {noun} for {cost}.")
        asked = (f"How much does the {noun} cost?", f"What is the price of the {noun}?")
        answer = f"{cost.capitalize()}."
    else:
        because = str(rng.choice(REASONS))
        said = (f"The {noun} is here because {because}.",) * 2
        asked = (f"Why is the {noun} here?",) * 2
        answer = f"Because {because}."
    return said[rng.integers(2)], [(question, answer) for question in dict.fromkeys(asked)]


def narrate(nouns: Sequence[str], rng: np.random.Generator, absent: str = "") -> Narration:
    """One or two facts about each thing that is shown once, in any order, with some chatter.

    With `absent`, the narrator also claims to see a thing that the picture does not show.
    """
    told: list[tuple[str, list[tuple[str, str]]]] = []
    for noun in nouns:
        kinds = rng.permutation(KINDS)[: rng.integers(1, 3)]
        told += [_fact(str(kind), noun, rng) for kind in kinds]
    told += [(str(said), []) for said in rng.choice(CHATTER, rng.integers(0, 3), replace=False)]
    if absent:
        told.append((f"And there you can see the {absent}.", []))
    order = rng.permutation(len(told))
    pairs = [pair for i in order for pair in told[i][1]]
    return Narration(tuple(told[i][0] for i in order), tuple(pairs))


UNSAID = "It is not said."


def unsaid(
    nouns: Sequence[str], told: Narration, rng: np.random.Generator
) -> list[tuple[str, str]]:
    """A question or none about what the narrator does not tell, and that it is not said."""
    asked = [pair for noun in nouns for kind in KINDS for pair in _fact(kind, noun, rng)[1]]
    left = [question for question, _ in asked if question not in dict(told.pairs)]
    return [(str(rng.choice(left)), UNSAID)] if left and rng.random() < 0.4 else []


def misheard(text: str, rng: np.random.Generator) -> str:
    """A text as speech recognition might write it: prices in digits, a small word lost or wrong."""
    if rng.random() < 0.6:
        for number, word in sorted(PRICES.items(), key=lambda item: -len(item[1])):
            text = text.replace(f"{word} dollars", f"${number}")
    words = text.split()
    for i, word in enumerate(words):
        if rng.random() < 0.03 and word in ("the", "and", "there", "you", "can"):
            words[i] = "" if rng.random() < 0.5 else str(rng.choice(["a", "the", "and", "is"]))
    return " ".join(filter(None, words))
