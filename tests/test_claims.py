"""The claim ledger: the repository's own is sound, and each fault that one can have is found."""

from collections import Counter
from dataclasses import replace

import pytest

from pgvl_core import claims, cli
from pgvl_core.claims import Claim, Measure, Stamp

LEDGER = claims.read_claims()
each_claim = pytest.mark.parametrize("claim", LEDGER, ids=[claim.id for claim in LEDGER])


@each_claim
def test_status_and_numbers_are_those_of_the_notebooks(claim):
    assert list(claims.complaints(claim, claims.stamp(claim.notebook))) == []


@pytest.mark.parametrize("path", [claims.PAGE, claims.README], ids=lambda path: path.name)
def test_page_is_what_pgvl_claims_would_write(path):
    """Run `pgvl claims` when this fails."""
    is_there = path.read_text(encoding="utf-8")
    made = claims.page(LEDGER)
    if path == claims.README:
        made = claims.with_summary(is_there, claims.summary(LEDGER))
    assert is_there == made


def test_ids_are_unique():
    assert max(Counter(claim.id for claim in LEDGER).values()) == 1


def test_what_the_paper_leaves_open_is_all_there():
    """Three mechanisms, each with what it assumes and when it breaks, and three of each to do."""
    kinds = Counter(claim.kind for claim in LEDGER)
    for kind in ("open question", "next check", "first experiment", "break condition"):
        assert kinds[kind] == 3, kind
    assert kinds["mechanism"] >= 3
    assert kinds["assumption"] >= 3
    assert kinds.keys() <= set(claims.KINDS)


def test_every_notebook_named_is_there_or_is_said_not_to_have_been_run():
    for claim in LEDGER:
        if claim.notebook and not claims.stamp(claim.notebook):
            assert claim.status == "not attempted", claim.id


# ---------------------------------------------------------------------------- faults, one at a time
STAMP = Stamp(
    "pocket",
    {"with": 0.6, "without": 0.2, "gain": 0.3, "gain low": 0.1, "gain high": 0.4},
    "with the sound: 0.6, from 0.45 to 0.730",
)
GOOD = Claim(
    id="sound",
    kind="mechanism",
    claim="Sound helps.",
    paper="section 3.2",
    status="reproduced",
    shows="It does.",
    notebook="04_audio_prompting",
    profile="pocket",
    tolerance=0.1,
    results={
        "with": Measure("with", 0.6, interval=[0.45, 0.73]),
        "without": Measure("without", 0.2, of=50),
        "gain": Measure("gain", 0.3, interval=["gain low", "gain high"]),
        "difference": Measure("with", 0.4, minus="without", interval="paired"),
    },
    holds=["with > without", "gain > 0", "without < 0.5", "difference > 0.3"],
)


def complaint(claim, stamp=STAMP):
    return "; ".join(claims.complaints(claim, stamp))


def test_good_row_has_no_fault():
    assert complaint(GOOD) == ""


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"shows": " "}, "shows is empty"),
        ({"paper": ""}, "paper is empty"),
        ({"kind": "hunch"}, "its kind is 'hunch'"),
        ({"status": "proven"}, "its status 'proven'"),
        ({"status": "cited"}, "it is 'cited' and yet has results"),
        ({"status": "not attempted"}, "it is 'not attempted' and yet has results"),
        ({"results": {}}, "has no results"),
        ({"holds": []}, "nothing that holds"),
        ({"tolerance": 0}, "or no tolerance"),
        ({"profile": "paper"}, "its profile is 'paper', and 'pocket' was run"),
        ({"status": "differs"}, "its status is 'differs', and its numbers say 'reproduced'"),
        ({"status": "undecided"}, "its numbers say 'reproduced'"),
        ({"holds": ["without > with"]}, "its numbers say 'differs'"),
        ({"holds": ["with > 0.5"]}, "its numbers say 'undecided'"),
        ({"holds": ["with > 0.5", "without > 0.5"]}, "its numbers say 'differs'"),
        ({"holds": ["with > withuot"]}, "'withuot' is neither a number nor one of its results"),
        ({"holds": ["with is more"]}, "is no comparison"),
    ],
)
def test_fault_of_a_row_is_told(change, told):
    assert told in complaint(replace(GOOD, **change))


@pytest.mark.parametrize(
    ("measure", "told"),
    [
        (Measure("wiht", 0.6, interval="one run"), "04_audio_prompting has no result 'wiht'"),
        (Measure("with", 0.6, minus="x", interval="paired"), "has no result 'x'"),
        (Measure("with", 0.7, interval=[0.45, 0.73]), "with is 0.6, no longer 0.7"),
        (Measure("with", 0.6), "with has no interval, and no reason for that"),
        (Measure("with", 0.6, of=7), "0.6 is no share of 7"),
        (Measure("with", 0.6, interval=[0.45, 0.55]), "outside its interval"),
        (Measure("with", 0.6, interval=[0.4, 0.73]), "does not print its interval's end 0.4"),
        (Measure("with", 0.6, interval=["no low", 0.73]), "has no result 'no low'"),
    ],
)
def test_fault_of_a_number_is_told(measure, told):
    results = {**GOOD.results, "with": measure}
    assert told in complaint(replace(GOOD, results=results))


def test_drift_beyond_the_tolerance_is_told_and_within_it_is_not():
    drifted = replace(STAMP, numbers={**STAMP.numbers, "with": 0.65})
    assert complaint(replace(GOOD, tolerance=0.2), drifted) == ""
    told = complaint(replace(GOOD, tolerance=0.05), drifted)
    assert "with is 0.65, no longer 0.6" in told


def test_measured_row_without_its_notebook_is_told():
    assert complaint(GOOD, None) == "there is no notebook '04_audio_prompting'"
    cited = replace(GOOD, status="cited", results={}, holds=())
    assert complaint(cited, None) == ""


def test_share_is_judged_by_its_interval():
    """Wilson's for 10 of 50 is 11.2% to 33.0% (R: binom.confint(10, 50, methods = "wilson"))."""
    for bound, status in (("0.11", "reproduced"), ("0.12", "undecided"), ("0.34", "differs")):
        found = claims.verdict(replace(GOOD, holds=[f"without > {bound}"]), STAMP.numbers)
        assert found == status, bound
    for bound, status in (("0.34", "reproduced"), ("0.32", "undecided"), ("0.11", "differs")):
        found = claims.verdict(replace(GOOD, holds=[f"without < {bound}"]), STAMP.numbers)
        assert found == status, bound


# -------------------------------------------------------------------------------------- the command
@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A ledger of two rows, a README, and no page yet; the notebook's numbers are STAMP's."""
    monkeypatch.setattr(claims, "PAGE", tmp_path / "CLAIMS.md")
    monkeypatch.setattr(claims, "README", tmp_path / "README.md")
    monkeypatch.setattr(claims, "stamp", lambda notebook: STAMP if notebook else None)
    rows = [GOOD, Claim("far", "result", "35.1 IoU.", "table 2", "cited", "No data.", main=True)]
    monkeypatch.setattr(claims, "read_claims", lambda: rows)
    (tmp_path / "README.md").write_text("# Title\n\n" + "\nold\n".join(claims.MARKS) + "\n\nend\n")
    return rows


def test_command_writes_the_page_and_the_readme_between_its_marks(checkout):
    assert cli.main(["claims"]) == 0
    page = claims.PAGE.read_text()
    assert "### sound: reproduced" in page
    assert "| with | 0.6, 0.45 to 0.73 | 10% |" in page
    assert "| without | 0.2, 0.112 to 0.33 (of 50) | 10% |" in page
    assert "| gain | 0.3, 0.1 to 0.4 | 10% |" in page
    assert "| difference | 0.4 (no interval: paired) | 10% |" in page
    assert "[04_audio_prompting](notebooks/04_audio_prompting.ipynb)" in page
    assert "| reproduced | 1 |" in page
    readme = claims.README.read_text()
    assert readme.startswith(f"# Title\n\n{claims.MARKS[0]}\n")
    assert readme.endswith(f"{claims.MARKS[1]}\n\nend\n")
    assert "\nold\n" not in readme
    assert "35.1 IoU." in readme
    assert "Sound helps." not in readme
    assert cli.main(["claims"]) == 0
    assert claims.README.read_text() == readme


def test_command_writes_nothing_while_anything_is_wrong(checkout, capsys):
    checkout[0] = replace(GOOD, status="differs")
    before = claims.README.read_text()
    assert cli.main(["claims"]) == 1
    assert "sound: its status is 'differs'" in capsys.readouterr().err
    assert not claims.PAGE.exists()
    assert claims.README.read_text() == before


@pytest.mark.parametrize("text", ["", claims.MARKS[0], "".join(claims.MARKS[::-1])])
def test_readme_without_its_marks_is_told(checkout, capsys, text):
    claims.README.write_text(text)
    assert cli.main(["claims"]) == 1
    assert "README.md needs the lines" in capsys.readouterr().err
    assert not claims.PAGE.exists()


@pytest.mark.parametrize("row", ["{id: x, value: 3}", "{id: x, results: {a: {valeu: 3}}}", "x"])
def test_row_with_a_strange_field_is_told(tmp_path, row):
    (tmp_path / "claims.yaml").write_text(f"- {row}")
    with pytest.raises(ValueError, match=r"claims\.yaml: row 0"):
        claims.read_claims(tmp_path / "claims.yaml")
