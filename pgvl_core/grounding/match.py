"""Phrases to tracks: which of the things that were followed a sentence means.

Two questions are asked of every track. What is it: its views, with all else greyed, are named by
the frame encoder against the words of the tag list, and the detector's own label counts as well.
And is it where, has it the colour, and does it do what the sentence says: "on the left", "red",
"that moves up", "in front of the car". The official code stops at the first question, and cannot
tell two dogs apart.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..encoder import FrameEncoder
from ..evaluation.boxes import from_rle
from ..lite.people import means_person
from . import colour as colours
from .phrases import Phrase, first_new, noun_phrases
from .tags import shares, tag_list
from .track import Track

PROBABLE, COSINE = 0.1, 0.2  # the official gate: a name's share of the softmax, and its cosine
SAME_WORD = 0.9  # cosine of two names' directions from which they mean one thing
PRIOR = 0.2  # how well a name fits that the gate refuses, where the question tells more than names
DOUBT = 0.05  # the least that a wrong place, colour or motion leaves of a fit
TINGED = 0.3  # of a thing's pixels: from here on, it may be called by their colour
MOVED = 0.1  # of the frame's side: from here on, a thing has moved

PLACES = {  # words -> axis and sign of the side of the frame
    r"(on|at|to) the (far )?left\b(?! of)": (0, -1),
    r"(on|at|to) the (far )?right\b(?! of)": (0, 1),
    r"(at|on) the top\b(?! of)": (1, -1),
    r"(at|on) the bottom\b(?! of)": (1, 1),
}
GOES = r"\b(mov|go|walk|run|driv|rid|fly|fall|ris|roll|swim|travel|com)(e|es|s|ing|ves)?\b"
MOTIONS = {
    "left": GOES + r" (off )?((to|towards?) the )?left\b(?! of)",
    "right": GOES + r" (off )?((to|towards?) the )?right\b(?! of)",
    "up": GOES + r" up(wards?)?\b(?! and down)",
    "down": GOES + r" down(wards?)?\b",
    "still": r"\b(stays?|stands?|sits?|staying|standing|is) still\b|\b(does|is) not mov|parked",
    "approach": r"\bcom(es|ing) closer\b|\bapproach",
    "circle": r"\bin (a )?circles?\b|\bcircl(es|ing)\b",
    "bounce": r"\bbounc(es|ing)\b|\bup and down\b",
    "moves": GOES,
}
RELATIONS = {  # words -> axis and sign from the other thing; None: depth
    r"to the left of": (0, -1),
    r"to the right of": (0, 1),
    r"\babove\b|on top of": (1, -1),
    r"\bbelow\b|\bbeneath\b|\bunder\b": (1, 1),
    r"in front of": (None, 1),
    r"\bbehind\b": (None, -1),
}
RELATION = re.compile("|".join(f"(?:{pattern})" for pattern in RELATIONS), re.IGNORECASE)


@dataclass(frozen=True)
class Span:
    """A phrase of the answer and the tracks that it means."""

    phrase: Phrase
    tracks: tuple[int, ...]  # ids; none: it was not found
    fit: float  # of the best of them, from 0 to 1
    note: str = ""  # what is to be said of it: not found, or fewer than were named


def name_fit(encoder: FrameEncoder, track: Track, names: Sequence[str]) -> np.ndarray:
    """How well each name fits a track, from 0 to 1; 0 where the gate refuses it.

    The larger of two: the name's share of the softmax of the views' mean cosines over the name and
    the tag list's other words, through the official gate; and how surely the detector called it so.
    """
    words = encoder.encode_text([*names])
    fits = np.zeros(len(names))
    if track.votes:
        alike = words @ encoder.encode_text(list(track.votes)).T >= SAME_WORD
        votes = np.array([track.vote(label) for label in track.votes])
        human = np.array(
            [
                [means_person(name) and means_person(label) for label in track.votes]
                for name in names
            ]
        )
        fits = np.where(alike.numpy() | human, votes, 0.0).max(axis=1)
    if track.gist is not None:
        seen = track.gist[None]
        cosines = (seen @ words.T)[0].numpy()
        chance = shares(encoder, seen, list(names), tag_list())[0].numpy()
        allowed = (chance > PROBABLE) & (cosines >= COSINE)
        fits = np.maximum(fits, np.where(allowed, chance, 0.0))
    return fits


def gist(encoder: FrameEncoder, views: Sequence[np.ndarray]) -> torch.Tensor | None:
    """Unit vector ``[E]`` of what a thing's views show, comparable with words; None of none."""
    if not views:
        return None
    features = encoder.encode(np.stack(views)).mean(dim=1)
    return torch.nn.functional.normalize(encoder.project(features).mean(dim=0), dim=0)


# ------------------------------------------------------------------------------- what tracks do
def _sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-np.clip(x, -30, 30))))


def _centres(track: Track, size: tuple[int, int]) -> np.ndarray:
    boxes = np.stack(track.boxes)
    return (boxes[:, :2] + boxes[:, 2:]) / 2 / np.array(size)


def _motion(track: Track, size: tuple[int, int], name: str) -> float:
    """How surely a track moves so, from 0 to 1. The camera is taken to stand still."""
    centres = _centres(track, size)
    if len(centres) < 3:
        return 0.5
    # Travel is the line through its places, and what is left of them is to and fro.
    when = np.array(track.frames, float)
    when = (when - when[0]) / (when[-1] - when[0])
    boxes = np.stack(track.boxes)
    sides = np.log((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)) / 2
    (slope_x, slope_y, grown), start = np.polyfit(when, np.column_stack([centres, sides]), 1)
    dx, dy = float(slope_x), float(slope_y)
    left_over = (centres - np.outer(when, [dx, dy]) - start[:2]).std(axis=0)
    spread, net = centres.std(axis=0), float(np.hypot(dx, dy))
    go = {"left": -dx - abs(dy), "right": dx - abs(dy), "up": -dy - abs(dx), "down": dy - abs(dx)}
    if name in go:
        return _sigmoid((go[name] - MOVED / 2) / (MOVED / 3))
    evidence = {
        "still": MOVED / 3 - spread.max() - 0.2 * max(0.0, grown),
        "moves": spread.max() - MOVED / 3,
        "approach": 0.3 * (grown - 0.25) - 0.3 * net,
        "circle": left_over.min() - MOVED / 4,
        "bounce": left_over[1] - 2 * left_over[0] - MOVED / 4,
    }
    return _sigmoid(evidence[name] / (MOVED / 5))


def _relation(
    track: Track, other: Track, size: tuple[int, int], axis: int | None, sign: int
) -> float:
    """How surely a track is on a side of another, or before or behind it, from 0 to 1."""
    shared, mine, yours = np.intersect1d(track.frames, other.frames, True, return_indices=True)
    if not len(shared):
        return DOUBT
    if axis is None:
        # Who is before the other is whole where their boxes meet; who is behind it lacks a piece.
        return _sigmoid(sign * _depth(track, other, mine, yours))
    a, b = (
        (boxes[:, axis] + boxes[:, axis + 2]) / 2
        for boxes in (np.stack(track.boxes)[mine], np.stack(other.boxes)[yours])
    )
    return _sigmoid(sign * float((a - b).mean()) / size[axis] / 0.05)


def _beside(
    track: Track,
    named: list[tuple[Track, float]],
    size: tuple[int, int],
    axis: int | None,
    sign: int,
) -> float:
    """How surely a track is on a side of what a noun names, which may be any other track."""
    own, surest = max(named, key=lambda pair: pair[1])
    if surest > 0 and own is track:
        return 0.0  # it is the noun's own thing
    holds = [
        max(fit, PRIOR) / max(surest, PRIOR) * _relation(track, other, size, axis, sign)
        for other, fit in named
        if other is not track
    ]
    return max(holds, default=1.0)  # with nothing to compare it with, nothing is said


def _depth(track: Track, other: Track, mine: np.ndarray, yours: np.ndarray) -> float:
    """Above 0 if a track hides another where they meet, below if it is hidden by it.

    `mine` and `yours` say which of each one's frames are the same.
    """
    signs = 0.0
    a, b = np.stack(track.boxes)[mine], np.stack(other.boxes)[yours]
    low = np.maximum(a[:, :2], b[:, :2]).astype(int)
    high = np.minimum(a[:, 2:], b[:, 2:]).astype(int)
    for n in np.nonzero((low < high).all(axis=1))[0]:
        (x0, y0), (x1, y1) = low[n], high[n]
        own, others = from_rle([track.masks[mine[n]], other.masks[yours[n]]])
        both = own[y0:y1, x0:x1].sum() - others[y0:y1, x0:x1].sum()
        signs += float(both) / ((y1 - y0) * (x1 - x0))
    return 4 * signs


def _coloured(track: Track, colour: int) -> float:
    """How surely a track has a colour, a number of `colour.COLOURS`, from 0 to 1."""
    if not track.colours:
        return 0.5
    return _sigmoid((float(np.mean(track.colours, axis=0)[colour]) - TINGED) / (TINGED / 3))


Company = dict[str, list[tuple[Track, float]]]  # a noun -> how well it names each track


def described(clause: str, track: Track, size: tuple[int, int], company: Company) -> float:
    """How well what a clause says of place, colour, motion and company holds of a track: 0 to 1.

    Parameters
    ----------
    clause : str
        "which dog is on the left?", "the car that moves up", "what is above the cup?"
    size : (width, height) of the frames in pixels
    company : dict
        Head of a noun of the clause -> each track and how well the noun names it. A relation holds
        as far as it does to any other track, and as that one is likely to be meant.
    """
    text, fit = clause.lower(), 1.0
    colour = colours.named(RELATION.split(text)[0])  # beyond, it is the company's
    if colour is not None:
        fit *= max(DOUBT, _coloured(track, colour))
    for pattern, (axis, sign) in PLACES.items():
        if re.search(pattern, text) and not re.search(GOES + r" (to )?the (left|right)", text):
            side = sign * (_centres(track, size)[:, axis].mean() - 0.5)
            fit *= max(DOUBT, _sigmoid(side / 0.05))
    for name, pattern in MOTIONS.items():
        if re.search(pattern, text):
            fit *= max(DOUBT, _motion(track, size, name))
            break
    for pattern, (along, sign) in RELATIONS.items():
        found = re.search(pattern, text)
        after = noun_phrases(text[found.end() :])[:1] if found else []
        if after and (named := company.get(after[0].head)):
            fit *= max(DOUBT, _beside(track, named, size, along, sign))
    return fit


# --------------------------------------------------------------------------------- the assignment
def clauses(text: str, phrases: Sequence[Phrase]) -> list[str]:
    """What a sentence says of each phrase: from it to the next one that is not its company.

    "A dog on the left and a car above the cup." gives "dog on the left and a " and "car above the
    cup", since the cup only tells where the car is.
    """
    told = []
    for i, phrase in enumerate(phrases):
        end = phrase.end
        for following in phrases[i + 1 :]:
            between = text[end : following.start]
            if re.search(r"[.!?;]", between) or not RELATION.search(between):
                end += len(re.split(r"[.!?;]", between)[0])
                break
            end = following.end
        else:
            end += len(re.split(r"[.!?;]", text[end:])[0])
        told.append(text[phrase.start : end])
    return told


def match(
    encoder: FrameEncoder,
    text: str,
    tracks: Sequence[Track],
    size: tuple[int, int],
    question: str = "",
    phrases: Sequence[Phrase] | None = None,
) -> tuple[list[Span], Span | None]:
    """Which tracks the phrases of an answer mean, and which one answers the question.

    Parameters
    ----------
    encoder : FrameEncoder
        With words.
    text : str
        The answer, or a description.
    tracks : sequence of Track
    size : (width, height) of the frames in pixels
    question : str
        What was asked; its words tell more of the thing that is meant ("what moves up?").
    phrases : sequence of Phrase
        Of the text; those that spaCy finds if None.

    Returns
    -------
    spans : list of Span
        One for each noun phrase of the text, in its order. Where the question tells more than a
        name, the single thing that it asks for is the target.
    target : Span or None
        The thing asked for: of the question's own noun in "which dog ...?", or else of the phrase
        that answers it. Without a question, the first thing of the text. None when no track can be
        meant: nothing fits, or the answer names nothing ("It is not said.") and the question tells
        no place or motion either.
    """
    phrases = noun_phrases(text) if phrases is None else phrases
    asked = noun_phrases(question) if question else []
    fit_of = _fits(encoder, tracks, [*phrases, *asked])
    company = {
        phrase.head: list(zip(tracks, fit_of[phrase].tolist(), strict=True))
        for phrase in [*phrases, *asked]
    }
    spans = []
    for phrase, clause in zip(phrases, clauses(text, phrases), strict=True):
        fits = fit_of[phrase]
        rivals = [fit_of[other] for other in phrases if other.head != phrase.head]
        if rivals:  # a thing that another phrase names better is that
            fits = np.where(fits >= np.max(rivals, axis=0), fits, 0.0)
        scores = _scores(fits, clause, tracks, size, company)
        spans.append(_span(phrase, scores, tracks))
    if not question:
        return spans, next(iter(spans), None)
    named = _asked_for(question, asked) or first_new(asked, phrases)
    fits = fit_of[named] if named else np.zeros(len(tracks))
    told = [described(question, track, size, company) for track in tracks]
    more = bool(told) and min(told) < 1  # the question says more than a name
    scores = np.maximum(fits, PRIOR if more else 0.0) * np.array(told)
    # What is there for more of the time is more likely spoken of than what was glimpsed.
    seen = np.array([len(track.frames) for track in tracks])
    scores *= np.sqrt(seen / seen.max(initial=1))
    best = int(np.argmax(scores)) if len(tracks) else -1
    if best < 0 or scores[best] < PRIOR / 4:
        return spans, None
    passes = fits[best] > 0
    note = "" if passes else "told by the question's other words alone"
    phrase = named or Phrase("", 0, 0, "", 1)
    target = Span(phrase, (tracks[best].id,), float(scores[best]), note)
    if more and passes:
        spans = _answered(spans, target)
    return spans, target


def _answered(spans: list[Span], target: Span) -> list[Span]:
    """The spans, of which the one that names the thing asked for means that thing.

    "A dog." says no more than a name; which of two dogs it is, "which dog moves up?" tells.
    """
    own = [span for span in spans if span.phrase.head == target.phrase.head]
    if len(own) != 1 or own[0].phrase.count != 1:
        return spans
    return [replace(target, phrase=span.phrase) if span is own[0] else span for span in spans]


def _asked_for(question: str, asked: Sequence[Phrase]) -> Phrase | None:
    """The noun that "which" or "what" stands before: "dog" in "which dog moves up?"."""
    first = next(iter(asked), None)
    between = question[: first.start].lower().split() if first else []
    return first if between in (["which"], ["what"]) else None


def _fits(
    encoder: FrameEncoder, tracks: Sequence[Track], phrases: Sequence[Phrase]
) -> dict[Phrase, np.ndarray]:
    """How well each phrase names each track: the whole phrase, or its noun if that fits more."""
    names = sorted({name for phrase in phrases for name in (phrase.text, phrase.head)})
    if not names:
        return {}
    fits = np.array([name_fit(encoder, track, names) for track in tracks])
    fits = fits.reshape(len(tracks), len(names))
    at = {name: i for i, name in enumerate(names)}
    return {
        phrase: np.maximum(fits[:, at[phrase.text]], fits[:, at[phrase.head]]) for phrase in phrases
    }


def _scores(
    fits: np.ndarray,
    clause: str,
    tracks: Sequence[Track],
    size: tuple[int, int],
    company: Company,
) -> np.ndarray:
    told = [described(clause, track, size, company) for track in tracks]
    return fits * np.array(told).reshape(len(tracks))


def _span(phrase: Phrase, scores: np.ndarray, tracks: Sequence[Track]) -> Span:
    """The tracks that a phrase means: as many as it counts, or all that fit half as well."""
    order = [int(i) for i in np.argsort(-scores, kind="stable") if scores[i] > 0]
    if not order:
        return Span(phrase, (), 0.0, f"no {phrase.head} was found")
    best = float(scores[order[0]])
    chosen = order[: phrase.count] if phrase.count else order
    chosen = [i for i in chosen if scores[i] >= best / 2] if phrase.count != 1 else chosen
    lacking = (phrase.count or 0) - len(chosen)
    note = f"{len(chosen)} of {phrase.count} found" if lacking > 0 else ""
    return Span(phrase, tuple(tracks[i].id for i in chosen), best, note)
