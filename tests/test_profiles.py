import pytest

from pgvl_core import assets
from pgvl_core.profiles import PROFILES, profile

SHIPPED = {"liteclip", "litedetector", "litesam", "propagation"}  # small models of the repository


@pytest.mark.parametrize("name", ["pocket", "laptop", "paper"])
def test_a_profile_names_checkpoints_that_its_fetch_brings(name):
    row = profile(name)
    assert row.name == name
    named = set(row.parts.values()) - SHIPPED
    assert named <= set(assets.needs(name))
    # And nothing is fetched but what the small models are built on, and what all profiles share.
    rest = {"efficientnet-lite2", "minilm", "blazepose", "spacy-en"}
    rest |= {"bikes", "bigbuckbunny", "conversation"}
    assert set(assets.needs(name)) - named <= rest


def test_the_profiles_grow():
    pocket, laptop, paper = (PROFILES[name] for name in ("pocket", "laptop", "paper"))
    assert pocket.ram < laptop.ram < paper.ram
    assert pocket.disk < laptop.disk < paper.disk
    assert (pocket.gpu, laptop.gpu) == (0, 0)
    assert paper.gpu == 24


def test_an_unknown_profile_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match=r"'desktop'.*pocket, laptop, paper"):
        profile("desktop")
