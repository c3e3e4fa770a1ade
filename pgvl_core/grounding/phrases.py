"""Noun phrases of a sentence: the things that an answer names, and where in it they stand.

The official code asks Vicuna for them. spaCy's parser does it in a millisecond, gives offsets, and
never names what the sentence does not say.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import spacy
from spacy.tokens import Doc, Span, Token

from .. import assets


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NOUNS = frozenset({"NOUN", "PROPN"})  # of spaCy's parts of speech
# Nouns that no box can be drawn around, or that speak of the video itself.
NO_THINGS = _words("""
action activity answer area back background beginning bit bottom centre center clip color
colour course day direction distance edge end event example fact foreground frame front game half
image kind left lot manner middle moment motion movement music order part picture place point
position question rest right row scene second shot side sort sound space speed start style time top
turn type video view way while
""")
# "X of Y" that is one thing, or several of one kind: the phrase goes on, and its head is Y.
MEASURES = _words("bunch bundle couple crowd flock group herd pair piece pile set slice stack team")
# Of the words before the noun, these do not belong to its name.
BEFORE = frozenset({"ADV", "CCONJ", "DET", "NUM", "PRON", "PUNCT", "SCONJ", "SPACE"})
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
NUMBERS |= {"six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
QUANTITIES = frozenset({"CARDINAL", "DATE", "MONEY", "ORDINAL", "PERCENT", "QUANTITY", "TIME"})
# spaCy reads "The tiger moves left." as moves of a tiger that left.
MOTIONS = _words(
    "approach bounce circle climb come dance drive fall fly go jump move pass ride roll run sit "
    "stand stay swim turn wait walk"
)


@dataclass(frozen=True)
class Phrase:
    """A noun phrase without article, pronoun and number: ``sentence[start:end] == text``."""

    text: str  # "brown dogs"
    start: int  # characters, half-open
    end: int
    head: str  # its noun, singular, lower case: "dog"
    count: int | None  # how many are meant; None: several, or that is not said


@cache
def _english() -> Any:
    return spacy.load(assets.path("spacy-en"))


@lru_cache(maxsize=256)
def _parse(sentence: str) -> Doc:
    """A sentence parsed: what is asked of every track of a video is parsed once."""
    return _english()(sentence)


def noun_phrases(sentence: str) -> list[Phrase]:
    """The things that a sentence names, in its order.

    Parameters
    ----------
    sentence : str
        English; one sentence, several, or none but a name ("A dog.").

    Returns
    -------
    list of Phrase
        They do not overlap. Pronouns, quantities and nouns that are no things ("background",
        "video") are left out.
    """
    phrases: list[Phrase] = []
    chunks = list(_parse(sentence).noun_chunks)
    while chunks:
        chunk = chunks.pop(0)
        root = chunk.root
        if root.lemma_.lower() in MEASURES and chunks and _is_of(chunk, chunks[0]):
            phrases += _phrase(chunk, chunks.pop(0).root)
        else:
            phrases += _phrase(chunk, root)
    return phrases


def _is_of(measure: Span, thing: Span) -> bool:
    """Whether it is "`measure` of `thing`"."""
    between = measure.doc[measure.end : thing.start]
    return [token.lower_ for token in between] == ["of"]


def _phrase(chunk: Span, head: Token) -> list[Phrase]:
    """The phrase from the first word of a chunk's name to its head; none if it is no thing."""
    while head.lemma_.lower() in MOTIONS and head.i > chunk.start and head.nbor(-1).pos_ in NOUNS:
        head = head.nbor(-1)
    if head.pos_ not in NOUNS or head.lemma_.lower() in NO_THINGS:
        return []
    if head.ent_type_ in QUANTITIES:
        return []
    first = chunk.start
    while first < head.i and _before(chunk.doc[first]):
        first += 1
    span = chunk.doc[first : head.i + 1]
    count = _count(chunk, head)
    return [Phrase(span.text, span.start_char, span.end_char, head.lemma_.lower(), count)]


def _before(token: Token) -> bool:
    return token.pos_ in BEFORE or token.ent_type_ in QUANTITIES


def _count(chunk: Span, head: Token) -> int | None:
    measure = chunk.root if chunk.root.i < head.i else None
    for token in chunk:
        if token.pos_ == "NUM":
            return NUMBERS.get(token.lower_, int(token.text) if token.text.isdecimal() else None)
    if measure is not None and measure.lemma_.lower() == "couple":
        return 2
    if measure is not None and measure.lemma_.lower() not in ("bunch", "pair", "piece", "slice"):
        return None
    return None if "Plur" in (measure or head).morph.to_dict().get("Number", "") else 1


def answering(question: str, answer: str) -> Phrase | None:
    """The noun phrase of an answer that answers the question: the first that the question lacks.

    "What does the man hold?" "The man holds a cup." asks for "cup". An answer that names only
    what the question does ("How many dogs are there?" "Two dogs.") means the first of that.

    Returns
    -------
    Phrase or None
        None when the answer names nothing, as "Yes." does.
    """
    asked = {phrase.head for phrase in noun_phrases(question)}
    named = noun_phrases(answer)
    return next((phrase for phrase in named if phrase.head not in asked), next(iter(named), None))
