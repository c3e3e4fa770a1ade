"""What can be said of a toyworld clip: captions, referring expressions, questions and answers.

Every sentence rests on facts read off the tracks, each of which holds, does not hold, or is too
close to call. A sentence needs a fact that holds; a referring expression also needs that it does
not hold of any other object of the clip. What is too close to call is never said.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pgvl_core.toyworld import Track

MOTION = {
    "left": "moves to the left",
    "right": "moves to the right",
    "up": "moves up",
    "down": "moves down",
    "still": "stays still",
    "approach": "comes closer",
    "circle": "moves in a circle",
    "bounce": "bounces up and down",
}
PLACE = {  # phrase, axis and sign of the side of the frame
    "at_left": ("on the left", 0, -1),
    "at_right": ("on the right", 0, 1),
    "at_top": ("at the top", 1, -1),
    "at_bottom": ("at the bottom", 1, 1),
}
BESIDE = {  # to another object; above and beneath, in_front_of and behind are VidOR's names
    "left_of": ("to the left of", 0, -1),
    "right_of": ("to the right of", 0, 1),
    "above": ("above", 1, -1),
    "beneath": ("below", 1, 1),
}
DEPTH = {"in_front_of": "in front of", "behind": "behind"}
CHOICES = {
    ("left_of", "right_of"): "to the left or to the right of",
    ("above", "beneath"): "above or below",
    ("in_front_of", "behind"): "in front of or behind",
}
PHRASE = {name: phrase for name, (phrase, *_) in (PLACE | BESIDE).items()} | DEPTH
NUMBERS = ("none", "one", "two", "three", "four", "five")
PLURALS = {
    "bunch of grapes": "bunches of grapes",
    "goose": "geese",
    "mango": "mangoes",
    "mouse": "mice",
    "potato": "potatoes",
    "tomato": "tomatoes",
    "woodlouse": "woodlice",
}
UNCHANGED = {"bison", "deer", "elk", "fish", "lionfish", "reindeer", "sheep", "shrimp"}

CLEAR = 0.5  # visibility from which an object's place is judged
LONG_ENOUGH = 8  # clear frames from which its motion is


@dataclass(frozen=True)
class Expression:
    """A referring expression that fits exactly one object of its clip."""

    text: str  # "the dog that moves up", "what is in front of the car?"
    type: str  # "declarative" or "interrogative"
    target_id: int
    relation: tuple[str, int] | None = None  # ("in_front_of", id of the other object)


@dataclass(frozen=True)
class Question:
    """A question about a clip and its answer."""

    kind: str  # object, count, order, direction, relation or colour
    question: str
    answer: str


# A fact's key is (track id, name) or (track id, name, other's id); its value True, False or None.
Key = tuple[int, str] | tuple[int, str, int]
Facts = dict[Key, bool | None]


def _side(offsets: np.ndarray, margin: float) -> bool | None:
    """Whether offsets [n] are all beyond a margin (True), or none is beyond zero (False)."""
    if not len(offsets):
        return None
    return True if offsets.min() > margin else False if offsets.max() < 0 else None


def _covers(near: Track, far: Track) -> bool | None:
    """Whether one object hides a good part of another at some time."""
    if near.depth < far.depth or near.shot != far.shot:
        return False
    both = np.nonzero((near.visibility > 0) & far.full.any((1, 2)))[0]
    if not len(both):
        return False
    when = slice(both[0], both[-1] + 1)
    hidden = np.count_nonzero(near.visible[when] & far.full[when], axis=(1, 2))
    most = (hidden / np.maximum(np.count_nonzero(far.full[when], axis=(1, 2)), 1)).max()
    return True if most > 0.25 else False if most == 0 else None


def facts(tracks: Sequence[Track]) -> Facts:
    """Motions, places and relations of the objects of a clip: True, False or None (unclear)."""
    known: Facts = {}
    size = np.array(tracks[0].full.shape[:0:-1])
    clear = [track.visibility > CLEAR for track in tracks]
    centres = [(track.boxes[:, :2] + track.boxes[:, 2:]) / 2 / size for track in tracks]
    for i, track in enumerate(tracks):
        for motion in MOTION:
            long = clear[i].sum() >= LONG_ENOUGH
            known[i, motion] = track.motion == motion if long else None
        for name, (_, axis, sign) in PLACE.items():
            known[i, name] = _side(sign * (centres[i][clear[i], axis] - 0.5), 0.05)
    for i, j in itertools.permutations(range(len(tracks)), 2):
        a, b = tracks[i], tracks[j]
        both = clear[i] & clear[j]
        enough = both.sum() > 0.5 * min(clear[i].sum(), clear[j].sum())
        for name, (_, axis, sign) in BESIDE.items():
            offsets = sign * (centres[i] - centres[j])[both, axis]
            known[i, name, j] = a.shot == b.shot and (_side(offsets, 0.1) if enough else None)
        known[i, "in_front_of", j] = known[j, "behind", i] = _covers(a, b)
    return known


# ------------------------------------------------------------------------------------ descriptions
@dataclass(frozen=True)
class _Description:
    """What an expression says of its target; what is None is left unsaid."""

    category: str | None = None
    colour: str | None = None
    fact: tuple[str] | tuple[str, int] | None = None

    def of(self, track: Track, known: Facts) -> bool | None:
        """Whether it is true of an object."""
        parts: list[bool | None] = [True]
        if self.category is not None:
            parts.append(track.category == self.category)
        if self.colour is not None:
            parts.append(None if track.colour is None else track.colour == self.colour)
        if self.fact is not None:
            parts.append(known.get((track.id, *self.fact), False))
        return False if False in parts else None if None in parts else True

    def only(self, target: Track, tracks: Sequence[Track], known: Facts) -> bool:
        """Whether it is true of the target and of no other object."""
        return all(self.of(track, known) is (track is target) for track in tracks)

    def phrase(self, tracks: Sequence[Track]) -> str:
        """As a noun phrase: "the dog that moves up", "the red apple on the left"."""
        noun = f"the {self.colour} {self.category}" if self.colour else f"the {self.category}"
        if self.fact is None:
            return noun
        clause = _clause(self.fact, tracks)
        return f"{noun} {clause[3:]}" if clause.startswith("is ") else f"{noun} that {clause}"


def _clause(fact: tuple[str] | tuple[str, int], tracks: Sequence[Track]) -> str:
    """A fact with its verb: "moves up", "is on the left", "is above the car"."""
    name, *other = fact
    if name in MOTION:
        return MOTION[name]
    return f"is {PHRASE[name]}" + "".join(f" the {tracks[i].category}" for i in other)


def _descriptions(target: Track, tracks: Sequence[Track], known: Facts) -> list[_Description]:
    """Every description that fits the target alone, plain ones first."""
    counts = Counter(track.category for track in tracks)
    named = [track.id for track in tracks if counts[track.category] == 1]
    candidates = [_Description(target.category)]
    if target.colour:
        candidates += [
            _Description(category, target.colour) for category in (target.category, None)
        ]
    said: list[tuple[str] | tuple[str, int]] = [(name,) for name in (*PLACE, *MOTION)]
    said += [(name, i) for name in (*BESIDE, *DEPTH) for i in named if i != target.id]
    candidates += [
        _Description(category, None, fact) for fact in said for category in (target.category, None)
    ]
    return [each for each in candidates if each.only(target, tracks, known)]


def expressions(tracks: Sequence[Track], known: Facts) -> list[Expression]:
    """Referring expressions in the two forms of VidSTG, each of which fits one object alone."""
    found = []
    counts = Counter(track.category for track in tracks)
    for track in tracks:
        for each in _descriptions(track, tracks, known):
            relation = each.fact if each.fact and len(each.fact) == 2 else None
            clause = _clause(each.fact, tracks) if each.fact else f"is {each.colour}"
            if each.category is None:
                texts = {"interrogative": f"what {clause}?"}
            else:
                texts = {"declarative": each.phrase(tracks)}
                if each.fact and counts[each.category] > 1:
                    texts["interrogative"] = f"which {each.category} {clause}?"
            found += [Expression(text, form, track.id, relation) for form, text in texts.items()]
    return found


# ---------------------------------------------------------------------------------------- captions
def with_article(noun: str) -> str:
    """A category in the singular: "a dog", "an eel"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def plural(noun: str) -> str:
    """A category in the plural: "geese", "pairs of shoes"."""
    if noun in PLURALS or noun in UNCHANGED:
        return PLURALS.get(noun, noun)
    if noun.startswith("pair of "):
        return noun.replace("pair", "pairs", 1)
    if noun.endswith(("s", "sh", "ch", "x")):
        return noun + "es"
    return noun[:-1] + "ies" if noun[-1] == "y" and noun[-2] not in "aeiou" else noun + "s"


def _and(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1])] * (len(parts) > 1) + [parts[-1]])


def listing(nouns: Sequence[str]) -> str:
    """What is there in this order, those of one category together: "two dogs and a car"."""
    counts = Counter(nouns)
    return _and(
        [with_article(n) if k == 1 else f"{NUMBERS[k]} {plural(n)}" for n, k in counts.items()]
    )


def sentence(text: str) -> str:
    """With a capital letter, and a full stop unless it is a question."""
    return text[0].upper() + text[1:] + ("" if text.endswith("?") else ".")


def captions(tracks: Sequence[Track], known: Facts) -> list[str]:
    """A caption that tells what moves how, shot after shot, and one that lists the objects."""
    shots = [list(shot) for _, shot in itertools.groupby(tracks, key=lambda track: track.shot)]
    told = []
    for i, shot in enumerate(shots):
        nouns = [f"{track.colour or ''} {track.category}".strip() for track in shot]
        if all(known[track.id, track.motion] for track in shot):
            text = _and(
                [f"{with_article(n)} {MOTION[t.motion]}" for n, t in zip(nouns, shot, strict=True)]
            )
        else:
            text = f"there is {_and([with_article(noun) for noun in nouns])}"
        lead = "" if len(shots) == 1 else "first " if i == 0 else "then "
        told.append(sentence(lead + text))
    return [
        " ".join(told),
        sentence(f"a video of {listing([track.category for track in tracks])}"),
    ]


# --------------------------------------------------------------------------------------- questions
def _name(target: Track, tracks: Sequence[Track], known: Facts, colour: bool = True) -> str | None:
    """A noun phrase for one object alone, without its motion and, unless allowed, its colour."""
    for each in _descriptions(target, tracks, known):
        plain = each.fact is None or each.fact[0] in PLACE
        if each.category and plain and (colour or not each.colour):
            return each.phrase(tracks)
    return None


def _order(tracks: Sequence[Track], fps: float) -> list[Track] | None:
    """Objects in the order they appear in; None when two appear within a quarter of a second."""
    first = [int(np.argmax(track.visibility > 0)) for track in tracks]
    ids = np.argsort(first, kind="stable")
    gaps = np.diff(np.sort(first))
    return [tracks[i] for i in ids] if len(gaps) and gaps.min() >= max(2, fps / 4) else None


def questions(tracks: Sequence[Track], known: Facts, fps: float, absent: str) -> list[Question]:
    """Question/answer pairs of each kind the truth allows; `absent` is a category not shown."""
    counts = Counter(track.category for track in tracks)
    # Ids are dealt at random within a shot; an answer that is to be learned needs a rule.
    by_rule = sorted(tracks, key=lambda track: (track.shot, track.category))
    asked = [
        ("object", "What is in the video?", listing([track.category for track in by_rule])),
        ("object", f"Is there {with_article(absent)} in the video?", "no"),
        ("count", "How many objects are there in the video?", NUMBERS[len(tracks)]),
    ]
    for category, count in counts.items():
        asked.append(("object", f"Is there {with_article(category)} in the video?", "yes"))
        asked.append(("count", f"How many {plural(category)} are there?", NUMBERS[count]))
    order = _order(tracks, fps)
    if order:
        nouns = [with_article(track.category) for track in order]
        asked.append(("order", "Which objects appear, in order?", ", then ".join(nouns)))
        asked.append(("order", "What is the first object to appear?", nouns[0]))
        asked.append(("order", "What is the last object to appear?", nouns[-1]))
        for before, after in itertools.pairwise(order):
            if counts[before.category] == 1:
                question = f"What appears right after the {before.category}?"
                asked.append(("order", question, with_article(after.category)))
    for track in tracks:
        name, colourless = (_name(track, tracks, known, colour) for colour in (True, False))
        if name and known[track.id, track.motion]:
            asked.append(("direction", f"What does {name} do?", f"it {MOTION[track.motion]}"))
            if track.motion in ("left", "right", "up", "down"):
                way = MOTION[track.motion].removeprefix("moves ")
                asked.append(("direction", f"Which way does {name} move?", way))
        if colourless and track.colour:
            asked.append(("colour", f"What colour is {colourless}?", track.colour))
    for a, b in itertools.combinations([t for t in tracks if counts[t.category] == 1], 2):
        for pair, choice in CHOICES.items():
            for fact in pair:
                if known[a.id, fact, b.id]:
                    question = f"Is the {a.category} {choice} the {b.category}?"
                    asked.append(("relation", question, PHRASE[fact].removesuffix(" of")))
    for each in expressions(tracks, known):
        if each.type == "interrogative" and each.text.startswith("what"):
            kind = "relation" if each.relation else "object"
            asked.append((kind, sentence(each.text), with_article(tracks[each.target_id].category)))
    return [Question(kind, question, sentence(answer)) for kind, question, answer in asked]


def topic(question: Question) -> str:
    """What a question asks for, finer than its kind: the names under which answers are counted."""
    text = question.question
    if text == "What is in the video?":
        return "all objects"
    if text == "Which objects appear, in order?":
        return "all objects in order"
    if text.startswith("Is there"):
        return "is there a ...?"
    if question.kind == "count" and not text.startswith("How many objects"):
        return "count of one kind"
    return {"object": "what is ...?", "order": "first, last, next"}.get(
        question.kind, question.kind
    )
