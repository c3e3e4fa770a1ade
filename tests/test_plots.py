import base64
import io
import re

import matplotlib
import numpy as np
import pytest
from PIL import Image

from pgvl_core import plots

matplotlib.use("Agg")


def test_show_gives_the_picture_with_its_alt_text(monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "display", lambda data, raw: shown.append(data))
    plots.show(plots.bars(["a", "b"], [1, 2], "seconds"), alt='bars "a" < "b"')
    tag = shown[0]["text/html"]
    assert 'alt="bars &quot;a&quot; &lt; &quot;b&quot;"' in tag
    assert shown[0]["text/plain"] == 'bars "a" < "b"'
    picture = Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", tag)[1])))
    assert np.asarray(picture.convert("L")).std() > 5  # something is drawn on it
    assert matplotlib.pyplot.get_fignums() == []


def test_overlay_is_grey_below_and_painted_above():
    frame = np.zeros((40, 80, 3), np.uint8)
    frame[..., 0] = 90  # red, whose grey is 30
    heat = np.array([[0.1, 0.1, 0.9, 0.9]])
    painted = plots.overlay(frame, heat, low=0.2, high=0.8)
    assert painted.dtype == np.uint8
    assert (painted[:, :8] == 30).all()
    expected = 0.25 * 30 + 0.75 * 255 * np.array(matplotlib.colormaps["inferno"](1.0)[:3])
    assert np.abs(painted[20, -1] - expected).max() <= 1


def test_frame_grid_shows_every_picture_under_its_title():
    images = [np.full((4, 6, 3), value, np.uint8) for value in (10, 20, 30, 40)]
    figure = plots.frame_grid(images, ["a", "b", "c", "d"], columns=3)
    used = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in used] == ["a", "b", "c", "d"]
    assert [axis.images[0].get_array()[0, 0, 0] for axis in used] == [10, 20, 30, 40]
    rows = {round(axis.get_subplotspec().rowspan.start) for axis in used}
    assert rows == {0, 1}


def test_flow_chart_has_each_arrow_once():
    boxes = {"video": (0, 0), "two words": (1, 0), "answer": (2, 1)}
    chains = [["video", "two words", "answer"], ["video", "two words"]]
    axis = plots.flow_chart(boxes, chains, filled={"video"}).axes[0]
    arrows = [text for text in axis.texts if getattr(text, "arrow_patch", None)]
    assert len(arrows) == 2
    labels = {text.get_text(): text.get_bbox_patch() for text in axis.texts if text.get_text()}
    assert set(labels) == {"video", "two\nwords", "answer"}
    assert labels["video"].get_facecolor() != labels["answer"].get_facecolor()


def test_sound_track_shows_what_falls_into_its_stretch():
    sound = np.sin(np.arange(4 * 1000) / 10)
    lanes = {"words": [(0.2, 0.5, "early"), (1.5, 2.0, "here"), (3.5, 3.9, "late")], "tags": []}
    figure = plots.sound_track(sound, 1000, [(1.4, 2.1)], lanes, begin=1, end=3)
    wave, words, tags = figure.axes
    assert wave.get_xlim() == (1, 3)
    assert wave.lines[0].get_xdata()[[0, -1]] == pytest.approx([1, 3], abs=0.01)
    assert [text.get_text() for text in words.texts] == ["here"]
    assert (words.get_ylabel(), tags.get_ylabel()) == ("words", "tags")
    (shaded,) = wave.patches
    assert (shaded.get_x(), shaded.get_x() + shaded.get_width()) == pytest.approx((1.4, 2.1))
