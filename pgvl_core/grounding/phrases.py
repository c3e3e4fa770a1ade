"""Noun phrases of a sentence: the things that an answer names, and where in it they stand.

The official code asks Vicuna for them, and so can the larger profiles (`llm_phrases`). spaCy's
parser does it in a millisecond, gives offsets, and never names what the sentence does not say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
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


def first_new(asked: Iterable[Phrase], named: Sequence[Phrase]) -> Phrase | None:
    """The first phrase of an answer that its question lacks, or else its first; None of none."""
    heads = {phrase.head for phrase in asked}
    return next((phrase for phrase in named if phrase.head not in heads), next(iter(named), None))


def answering(question: str, answer: str) -> Phrase | None:
    """The noun phrase of an answer that answers the question: the first that the question lacks.

    "What does the man hold?" "The man holds a cup." asks for "cup". An answer that names only
    what the question does ("How many dogs are there?" "Two dogs.") means the first of that.

    Returns
    -------
    Phrase or None
        None when the answer names nothing, as "Yes." does.
    """
    return first_new(noun_phrases(question), noun_phrases(answer))


# ------------------------------------------------------------------------------- the paper's way
REQUEST = (
    "Which things does this sentence name? Write their names as they stand in it, separated by "
    "commas, and nothing else. Sentence: "
)


def llm_phrases(ask: Callable[[str], str], sentence: str) -> list[Phrase]:
    """The things that a sentence names, by a language model: the paper's way.

    What it names is looked up in the sentence (`located`), for a language model also names what is
    not said there, and then the official code points at it.

    Parameters
    ----------
    ask : callable
        Gives the language model's reply to a question.
    sentence : str

    Returns
    -------
    list of Phrase
        As `noun_phrases` gives them.
    """
    return located(sentence, re.split(r"[,;\n]|\band\b", ask(f"{REQUEST}{sentence}")))


def located(sentence: str, names: Iterable[str]) -> list[Phrase]:
    """Names of things as phrases of the sentence, wherever they stand in it; the others go.

    A noun phrase that a name touches is taken whole, with its adjectives and its count; what spaCy
    holds for no noun is taken as it is named. Pronouns and what is no thing ("video") go.
    """
    plain = (name.strip(" .\t\"'*-").lower() for name in names)
    wanted = {re.sub(r"^(an?|the|some) ", "", name) for name in plain} - {""}
    places = [
        place.span()
        for name in sorted(wanted)
        for place in re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", sentence, re.IGNORECASE)
    ]
    nouns = noun_phrases(sentence)
    found = [p for p in nouns if any(p.start < end and start < p.end for start, end in places)]
    taken = [(phrase.start, phrase.end) for phrase in nouns]
    parsed = _parse(sentence)
    for start, end in sorted(places, key=lambda place: place[0] - place[1]):  # the longest first
        span: Any = parsed.char_span(start, end, alignment_mode="expand")
        if any(start < other and first < end for first, other in taken):
            continue
        taken.append((start, end))
        while len(span) > 1 and _before(span[0]):
            span = span[1:]
        head = span.root.lemma_.lower()
        if not _before(span[0]) and head not in NO_THINGS:
            found.append(Phrase(span.text, span.start_char, span.end_char, head, None))
    return sorted(found, key=lambda phrase: phrase.start)
