import sys
from types import SimpleNamespace

import pytest
import torch

from pgvl_core import assets, audio, temporal
from pgvl_core.encoder import LiteCLIPEncoder
from pgvl_core.grounding import deva, ram
from pgvl_core.lite.audio_tags import LiteTagger
from pgvl_core.profiles import PROFILES, grounder, listener, load, profile

# Small models of the repository, and a package that brings its own.
SHIPPED = {"liteclip", "litedetector", "litesam", "litetagger", "propagation", "whisper-at", "llm"}


@pytest.mark.parametrize("name", ["pocket", "laptop", "paper"])
def test_a_profile_names_checkpoints_that_its_fetch_brings(name):
    row = profile(name)
    assert row.name == name
    named = set(row.parts.values()) - SHIPPED
    assert named <= set(assets.needs(name))
    # And nothing is fetched but what the small models are built on, and the samples.
    rest = {"efficientnet-lite2", "minilm", "blazepose", "spacy-en", "whisper-tiny.en"}
    samples = {"bikes", "bigbuckbunny", "conversation", "song"}
    assert set(assets.needs(name)) - named <= rest | samples


def test_the_profiles_grow():
    pocket, laptop, paper = (PROFILES[name] for name in ("pocket", "laptop", "paper"))
    assert pocket.ram < laptop.ram < paper.ram
    assert pocket.disk < laptop.disk < paper.disk
    assert (pocket.gpu, laptop.gpu) == (0, 0)
    assert paper.gpu == 24


def test_an_unknown_profile_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match=r"'desktop'.*pocket, laptop, paper"):
        profile("desktop")


def test_pocket_listens_with_its_own_whisper_and_tagger():
    found = listener("pocket")
    assert found.name == "whisper-tiny.en"
    assert isinstance(found.tagger, LiteTagger)
    assert {audio.MUSIC, audio.FOREIGN} <= set(found.tagger.names)
    assert set(audio.SPEECH) & set(found.tagger.names)


@pytest.mark.parametrize("installed", [False, True])
def test_paper_tags_with_whisper_at_where_it_is_installed(installed, monkeypatch):
    named = []
    monkeypatch.setattr(audio, "WhisperAT", lambda name: named.append(name) or "whisper-at")
    monkeypatch.setattr(audio, "Listener", lambda *given: SimpleNamespace(given=given))
    package = SimpleNamespace(__spec__=object(), __name__="whisper_at") if installed else None
    monkeypatch.setitem(sys.modules, "whisper_at", package)
    if not installed:
        monkeypatch.delitem(sys.modules, "whisper_at")
    speech, tagger, _ = listener("paper").given
    assert speech == "whisper-large-v2"
    assert named == (["large-v1"] if installed else [])
    assert (tagger == "whisper-at") == installed


@pytest.mark.parametrize("own", [deva, ram], ids=["deva", "ram"])
def test_paper_points_with_a_package_of_its_own_where_it_is_installed(own, tmp_path, monkeypatch):
    """And says at once which file it wants; without the packages, see test_ground."""
    monkeypatch.setenv("PGVL_HOME", str(tmp_path))
    monkeypatch.setattr(deva, "installed", lambda: own is deva)
    monkeypatch.setattr(ram, "installed", lambda: own is ram)
    with pytest.raises(assets.AssetError, match=f"{own.WEIGHTS}: no such file.*{own.SOURCE} to"):
        grounder("paper")
    assert [row.name for row in PROFILES.values() if row.own] == ["paper"]


@pytest.mark.parametrize("own", [deva, ram], ids=["deva", "ram"])
def test_another_package_of_that_name_is_not_taken_for_it(own, tmp_path, monkeypatch):
    name = own.__name__.split(".")[-1]
    monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("raise RuntimeError('it was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert not own.installed()


@pytest.mark.parametrize(
    ("name", "pooling", "there"),
    [("pocket", "max", r"\['average', 'conv3d'\]"), ("laptop", "conv3d", r"\['average'\]")],
)
def test_an_unknown_pooling_is_answered_with_those_there_are(name, pooling, there):
    with pytest.raises(ValueError, match=f"{name} has no pooling '{pooling}'; it has {there}"):
        load(name, pooling=pooling)


def test_what_is_shipped_reads_pockets_features():
    """And its tokens differ for the same frames backwards."""
    file = assets.DATA / "weights" / PROFILES["pocket"].temporal
    found = temporal.read(file, LiteCLIPEncoder.dim).model.eval()
    features = torch.rand(16, 49, LiteCLIPEncoder.dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        forwards, backwards = found(features), found(features.flip(0))
    assert forwards.shape == (temporal.SLOTS, LiteCLIPEncoder.dim)
    assert (forwards - backwards.flip(0)).abs().max() > 1e-3
