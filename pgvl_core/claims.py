"""The claim ledger: what the paper says, what the notebooks measured, and whether the two agree.

``data/claims.yaml`` is written by hand; ``CLAIMS.md`` and a part of the README are made from it and
from the results that are stamped into the committed notebooks. A claim says what would have to
hold (``with > without``), its status is written down, and `complaints` finds where the status, the
numbers and the notebooks part ways.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import yaml

from pgvl_core import workbook
from pgvl_core.evaluation.intervals import wilson
from pgvl_core.files import write_text

LEDGER = workbook.ROOT / "data" / "claims.yaml"
PAGE = workbook.ROOT / "CLAIMS.md"
README = workbook.ROOT / "README.md"
MARKS = "<!-- claims: made by `pgvl claims` -->", "<!-- end of claims -->"
STATUSES = {  # measured ones first; what each says of its claim
    "reproduced": "reproduced at this size: what was to hold does, beyond the intervals",
    "undecided": "measured, but the intervals leave it open",
    "differs": "at this size it is not so, beyond the intervals",
    "cited": "cited only: it cannot be measured here",
    "not attempted": "could be measured here and has not been, for the reason given",
}
MEASURED = ("reproduced", "undecided", "differs")
KINDS = (
    "result",
    "mechanism",
    "assumption",
    "break condition",
    "architecture",
    "trade-off",
    "failure signature",
    "limitation",
    "open question",
    "next check",
    "first experiment",
    "official code",
)
MASS = ("architecture", "official code")  # kinds without a plural
COMPARISON = re.compile(r"(.+) ([<>]) (.+)")


@dataclass(frozen=True)
class Measure:
    """A number of the ledger: a notebook's result, or one result minus another.

    Attributes
    ----------
    result : str, the key in the notebook's results
    value : float, as it was when the status was written down
    of : int, for a share: of how many. Its 95% interval is Wilson's
    interval : (low, high), each a number that the notebook prints or the key of a result; or a text
        that says why there is none
    minus : str, the key of what is taken from it: a paired difference
    """

    result: str
    value: float
    of: int | None = None
    interval: list[float | str] | str = ""
    minus: str = ""


@dataclass(frozen=True)
class Claim:
    """A row of the ledger; what is measured has all fields, what is not has no notebook's results.

    Attributes
    ----------
    claim : str, what the paper says, in our words
    paper : str, where
    status : one of `STATUSES`
    shows : str, what our number does and does not say; why there is none
    notebook : str, where it is measured, or would be
    profile, tolerance : of the run, and how far (relative) its numbers may move
    results : name -> `Measure`
    holds : such as "with > without" or "share < 0.5", each in names of results and numbers
    main : whether the README shows it
    """

    id: str
    kind: str
    claim: str
    paper: str
    status: str
    shows: str
    notebook: str = ""
    profile: str = ""
    tolerance: float = 0.0
    results: Mapping[str, Measure] = field(default_factory=dict)
    holds: Sequence[str] = ()
    main: bool = False


@dataclass(frozen=True)
class Stamp:
    """What a committed notebook measured, and all that it prints."""

    profile: str
    numbers: Mapping[str, float]
    printed: str


def read_claims(path: Path = LEDGER) -> list[Claim]:
    """The ledger's rows.

    Raises
    ------
    ValueError
        When a row has a field that is none, or lacks one that every row has.
    """
    rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    claims = []
    for number, row in enumerate(rows):
        try:
            results = {name: Measure(**each) for name, each in row.get("results", {}).items()}
            claims.append(Claim(**{**row, "results": results}))
        except (TypeError, AttributeError) as error:
            raise ValueError(f"{path}: row {number}, {str(row)[:40]}...: {error}") from error
    return claims


@lru_cache
def stamp(notebook: str) -> Stamp | None:
    """The results stamped into a committed notebook; None where there is no such notebook."""
    import nbformat

    path = workbook.NOTEBOOKS / f"{notebook}.ipynb"
    if not path.exists():
        return None
    read = nbformat.read(path, as_version=4)
    outputs = [o for cell in read.cells if cell.cell_type == "code" for o in cell.outputs]
    texts = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs]
    return Stamp(read.metadata.pgvl["profile"], read.metadata.pgvl["numbers"], "\n".join(texts))


# -------------------------------------------------------------------------------------- judgement
def measured(measure: Measure, numbers: Mapping[str, float]) -> tuple[float, float, float]:
    """A measure's value and the ends of its interval, which are the value where it has none.

    Raises
    ------
    KeyError
        When a result is not there.
    """
    value = numbers[measure.result] - (numbers[measure.minus] if measure.minus else 0)
    if measure.of:
        return value, *wilson(round(value * measure.of), measure.of)
    if isinstance(measure.interval, str):
        return value, value, value
    low, high = (numbers[end] if isinstance(end, str) else end for end in measure.interval)
    return value, low, high


def verdict(claim: Claim, numbers: Mapping[str, float]) -> str:
    """The status that the numbers give a claim: by every comparison, and by intervals throughout.

    Raises
    ------
    KeyError
        When a result, or a name in a comparison, is not there.
    """
    sure, refuted = True, False
    for comparison in claim.holds:
        left, sign, right = _comparison(comparison)
        (_, low, high), (_, other_low, other_high) = (
            measured(claim.results[name], numbers) if name in claim.results else _number(name)
            for name in (left, right)
        )
        if sign == "<":
            low, high, other_low, other_high = other_low, other_high, low, high
        sure &= low > other_high
        refuted |= high < other_low
    return "differs" if refuted else "reproduced" if sure else "undecided"


def _comparison(text: str) -> tuple[str, str, str]:
    found = COMPARISON.fullmatch(text)
    if not found:
        raise KeyError(f"{text!r} is no comparison such as 'with > without'")
    return found[1], found[2], found[3]


def _number(text: str) -> tuple[float, float, float]:
    try:
        return (float(text),) * 3
    except ValueError:
        raise KeyError(f"{text!r} is neither a number nor one of its results") from None


def complaints(claim: Claim, stamped: Stamp | None) -> Iterator[str]:
    """What is wrong with a row, given its notebook's stamp (None: there is no such notebook)."""
    for name in ("id", "kind", "claim", "paper", "status", "shows"):
        if not str(getattr(claim, name)).strip():
            yield f"{name} is empty"
    if claim.kind not in KINDS or claim.status not in STATUSES:
        yield f"its kind is {claim.kind!r} and its status {claim.status!r}"
    if claim.status not in MEASURED:
        if claim.results or claim.holds:
            yield f"it is {claim.status!r} and yet has results"
        return
    if not (claim.results and claim.holds and claim.tolerance > 0):
        yield f"it is {claim.status!r}, but has no results, nothing that holds, or no tolerance"
    elif stamped is None:
        yield f"there is no notebook {claim.notebook!r}"
    else:
        try:
            yield from _against(claim, stamped)
        except KeyError as error:
            yield f"{claim.notebook} has no result {error}"


def _against(claim: Claim, stamped: Stamp) -> Iterator[str]:
    """What is wrong with the numbers of a row."""
    if claim.profile != stamped.profile:
        yield f"its profile is {claim.profile!r}, and {stamped.profile!r} was run"
    for name, each in claim.results.items():
        value, low, high = measured(each, stamped.numbers)
        if not math.isclose(value, each.value, rel_tol=claim.tolerance, abs_tol=1e-3):
            yield f"{name} is {value:.4g}, no longer {each.value:.4g}"
        if not (each.of or each.interval):
            yield f"{name} has no interval, and no reason for that"
        if each.of and not math.isclose(value * each.of, round(value * each.of), abs_tol=1e-4):
            yield f"{name}: {value:.4g} is no share of {each.of}"
        if not low <= value <= high:
            yield f"{name} is {value:.4g}, outside its interval from {low} to {high}"
        for end in each.interval if isinstance(each.interval, list) else ():
            if isinstance(end, str):
                continue
            if not re.search(rf"(?<![\d.]){re.escape(str(end))}0*(?!\d)", stamped.printed):
                yield f"{name}: the notebook does not print its interval's end {end}"
    found = verdict(claim, stamped.numbers)
    if found != claim.status:
        yield f"its status is {claim.status!r}, and its numbers say {found!r}"


# ------------------------------------------------------------------------------------------ pages
def page(claims: Sequence[Claim]) -> str:
    """CLAIMS.md."""
    kinds = [kind for kind in KINDS if any(claim.kind == kind for claim in claims)]
    parts = [
        "# What the paper says, and what was measured here",
        "Made by `pgvl claims` from `data/claims.yaml` and the numbers stamped into the notebooks; "
        "not edited by hand. Every number is of the profile named with it: `pocket` is smaller "
        "than the paper's system by a factor of fifty, and its videos are procedural, so that a "
        "claim reproduced here is one that holds *at this size*, and one that differs here may "
        "well hold at the paper's. Intervals are 95%.",
        _counts(claims),
    ]
    for kind in kinds:
        parts.append(f"## {kind.capitalize()}{'' if kind in MASS else 's'}")
        parts += [_block(claim) for claim in claims if claim.kind == kind]
    return "\n\n".join(parts) + "\n"


def _counts(claims: Sequence[Claim]) -> str:
    counts = Counter(claim.status for claim in claims)
    rows = [f"| {s} | {counts[s]} | {meaning} |" for s, meaning in STATUSES.items() if counts[s]]
    return "\n".join(["| status | claims | which says |", "|---|---|---|", *rows])


def _block(claim: Claim) -> str:
    lines = [f"### {claim.id}: {claim.status}", f"{claim.claim.strip()} *({claim.paper})*"]
    if claim.results:
        rows = [f"| {name} | {_measure(claim, name)} |" for name in claim.results]
        head = "| measured | value and interval | tolerance |\n|---|---|---|\n"
        lines.append(head + "\n".join(row + f" {_tolerance(claim)} |" for row in rows))
        needed = ", and ".join(f"`{each}`" for each in claim.holds)
        lines.append(f"To hold: {needed}. {_link(claim)}, `{claim.profile}`.")
    elif claim.notebook and stamp(claim.notebook):
        lines.append(f"See {_link(claim)}.")
    return "\n\n".join([*lines, claim.shows.strip()])


def _measure(claim: Claim, name: str) -> str:
    each, stamped = claim.results[name], stamp(claim.notebook)
    assert stamped is not None  # complaints() has seen to it
    value, low, high = measured(each, stamped.numbers)
    if isinstance(each.interval, str) and not each.of:
        return f"{value:.3g} (no interval: {each.interval})"
    return f"{value:.3g}, {low:.3g} to {high:.3g}" + (f" (of {each.of})" if each.of else "")


def _tolerance(claim: Claim) -> str:
    return "any" if math.isinf(claim.tolerance) else f"{claim.tolerance:.0%}"


def _link(claim: Claim) -> str:
    return f"[{claim.notebook}](notebooks/{claim.notebook}.ipynb)"


def summary(claims: Sequence[Claim]) -> str:
    """The README's part: how many claims have which status, and the main rows."""
    rows = []
    for claim in claims:
        if claim.main:
            first = f"{next(iter(claim.results))}: " if claim.results else ""
            number = first + _measure(claim, next(iter(claim.results))) if claim.results else ""
            rows.append(f"| {claim.claim.strip()} | {claim.status} | {number or 'none'} |")
    head = ["| the paper says | here | measured |", "|---|---|---|"]
    return "\n\n".join([_counts(claims), "\n".join([*head, *rows])])


def with_summary(readme: str, text: str) -> str:
    """A README with what stands between its two marks replaced.

    Raises
    ------
    ValueError
        When it has not each mark once, in their order.
    """
    begin, end = MARKS
    before, found, rest = readme.partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended) or readme.count(begin) + readme.count(end) != 2:
        raise ValueError(f"{README.name} needs the lines {begin} and {end}, once each")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def write_claims() -> None:
    """Write CLAIMS.md and the README's part, if there is nothing to complain of.

    Raises
    ------
    ValueError
        Says what is wrong, row by row; nothing is written then.
    """
    claims = read_claims()
    wrong = [f"{c.id}: {each}" for c in claims for each in complaints(c, stamp(c.notebook))]
    if wrong:
        raise ValueError("\n".join([f"{LEDGER.name} and the notebooks disagree:", *wrong]))
    readme = with_summary(README.read_text(encoding="utf-8"), summary(claims))
    write_text(PAGE, page(claims))
    write_text(README, readme)
