"""The chat panel as a reader meets it: JupyterLab's own server and page, in a headless browser."""

import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
import wave
from pathlib import Path

import nbformat
import numpy as np
import pytest
import tiny
from jupyter_server.serverapp import list_running_servers

from pgvl_core.chat import Conversation
from pgvl_core.video import write_video

playwright = pytest.importorskip("playwright.sync_api", reason="needs the playwright package")
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, as from apt-get install chromium"),
    pytest.mark.xdist_group("panel"),  # one server
]

PATIENCE = 240  # seconds; on a machine with nothing else to do no step takes ten
CELL = """import time
from pathlib import Path

import tiny
from pgvl_core.widgets import ChatPanel

model = tiny.model()
stream = model.stream

def slowly(*arguments):
    for token in stream(*arguments):
        time.sleep(0 if Path("hurry").exists() else 0.3)
        yield token

model.stream = slowly
ChatPanel(model, {})"""
LISTEN = """import numpy as np

from pgvl_core.audio import Segment, Transcript
from pgvl_core.video import read_audio
from pgvl_core.widgets import ListenPanel

class Ear:
    def listen(self, path):
        sound = read_audio(path)
        length = len(sound) / 16000
        spectrum = np.abs(np.fft.rfft(sound))
        text = f"{spectrum.argmax() / length:.0f} hertz"
        return Transcript((Segment(0, length, text, (), {}, ""),), "en", length, ())

ListenPanel(Ear())"""
TONE = 440  # hertz, of the microphone that Chromium is given


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="module")
def lab(folder):
    """Address of a JupyterLab of this test's own, a notebook with the panel's cell in it."""
    (folder / "root").mkdir()
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [nbformat.v4.new_code_cell(source) for source in (CELL, LISTEN)]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, folder / "root" / "panel.ipynb")
    kinds = ("CONFIG", "DATA", "RUNTIME")
    own = {f"JUPYTER_{kind}_DIR": str(folder / kind.lower()) for kind in kinds}
    own |= {"IPYTHONDIR": str(folder / "ipython"), "PYTHONPATH": str(Path(__file__).parent)}
    token = secrets.token_hex()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder / 'root'}"]
    command += ["--ServerApp.port=0", "--ServerApp.ip=127.0.0.1"]
    recipe = (Path(__file__).parent.parent / "Makefile").read_text(encoding="utf-8")
    command += shlex.split(next(iter(re.findall("^UPLOADS := (.*)$", recipe, re.MULTILINE))))
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log)
    try:
        end = time.monotonic() + PATIENCE
        while not (running := list(list_running_servers(folder / "runtime"))):
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.2)
        yield f"{running[0]['url']}lab/tree/panel.ipynb?token={token}"
    finally:
        server.terminate()
        server.wait(PATIENCE)


@pytest.fixture(scope="module")
def panel(lab, folder):
    """The panel on the page, its cell having been run."""
    with wave.open(str(folder / "tone.wav"), "wb") as out:
        out.setparams((1, 2, 48_000, 0, "NONE", ""))
        tone = 8000 * np.sin(2 * np.pi * TONE * np.arange(96_000) / 48_000)
        out.writeframes(tone.astype("<i2").tobytes())
    with playwright.sync_playwright() as driver:
        options = ["--no-sandbox"]  # which refuses to work for root, who tests in a container
        options += ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
        options += [f"--use-file-for-fake-audio-capture={folder / 'tone.wav'}"]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        page = browser.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        playwright.expect.set_options(PATIENCE * 1000)
        page.goto(lab)
        sessions = lab.replace("lab/tree/panel.ipynb", "api/sessions")
        wait_until(lambda: "idle" in page.request.get(sessions).text())  # the kernel
        page.locator(".jp-CodeCell .cm-content").first.click()
        page.keyboard.press("Shift+Enter")
        shown = page.locator(".jp-OutputArea-output", has=page.get_by_placeholder("Ask about"))
        shown.wait_for()
        yield shown
        browser.close()


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "noise.mp4"
    write_video(path, np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8), fps=2)
    return path


def upload(panel, path):
    with panel.page.expect_file_chooser() as chooser:
        panel.get_by_role("button", name="Upload").click()
    chooser.value.set_files(path)


def answer(panel):
    """The text of the last answer, as it stands."""
    return panel.locator("p[style*=pre-wrap]").last.text_content()


def wait_until(holds):
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_video_is_uploaded_and_a_question_answered_as_one_reads(panel, video, folder):
    upload(panel, video)
    playwright.expect(panel.get_by_role("img")).to_have_count(4)
    playwright.expect(panel.get_by_role("button", name="Ask")).to_be_enabled()
    assert panel.get_by_role("img").first.get_attribute("alt") == "frame 0 at 0.00 s"
    assert panel.get_by_label("Video").input_value() == "noise.mp4"

    panel.get_by_placeholder("Ask about").fill("What is <it>?")
    panel.page.keyboard.press("Enter")
    panel.get_by_text("What is <it>?", exact=True).wait_for()
    begun = answer(panel)
    wait_until(lambda: answer(panel) != begun)
    playwright.expect(panel.get_by_role("button", name="Ask")).to_be_disabled()
    assert answer(panel).startswith(begun)
    (folder / "root" / "hurry").touch()
    playwright.expect(panel.get_by_role("button", name="Ask")).to_be_enabled()
    expected = str(Conversation(tiny.model(), video).ask("What is <it>?"))
    assert answer(panel).split() == expected.split()  # a page writes some blanks in its own way


def test_stop_is_heard_while_an_answer_is_made(panel, video, folder, tmp_path):
    # Under a new name, by which one sees that it is open: what is asked before that is not heard.
    upload(panel, shutil.copy(video, tmp_path / "again.mp4"))
    (folder / "root" / "hurry").unlink(missing_ok=True)
    playwright.expect(panel.get_by_label("Video")).to_have_value("again.mp4")
    playwright.expect(panel.get_by_role("button", name="Ask")).to_be_enabled()
    panel.get_by_placeholder("Ask about").fill("And this?")
    panel.get_by_role("button", name="Ask").click()
    panel.get_by_text("And this?", exact=True).wait_for()
    panel.get_by_role("button", name="Stop").click()
    playwright.expect(panel.get_by_role("button", name="Ask")).to_be_enabled()
    assert answer(panel).endswith(" [stopped]")
    panel.get_by_role("button", name="Clear").click()
    playwright.expect(panel.get_by_text("And this?", exact=True)).to_have_count(0)


def test_a_broken_upload_is_told_in_words(panel, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    upload(panel, tmp_path / "broken.mp4")
    told = panel.get_by_role("alert")
    told.wait_for()
    assert told.text_content().startswith("broken.mp4: cannot be read as a video")
    assert "Traceback" not in panel.page.content()


def test_an_upload_longer_than_a_server_takes_by_itself_arrives(panel, video, tmp_path):
    size = 30_000_000  # of an empty box, which an mp4 may end with
    box = size.to_bytes(4, "big") + b"free" + bytes(size - 8)
    (tmp_path / "long.mp4").write_bytes(video.read_bytes() + box)
    upload(panel, tmp_path / "long.mp4")
    playwright.expect(panel.get_by_label("Video")).to_have_value("long.mp4")
    playwright.expect(panel.get_by_role("img")).to_have_count(4)


def test_the_microphone_is_recorded_and_heard(panel):
    page = panel.page
    page.locator(".jp-CodeCell .cm-content").nth(1).click()
    page.keyboard.press("Shift+Enter")
    page.get_by_role("button", name="Record", exact=True).click()
    page.get_by_role("button", name="Stop recording").wait_for()
    page.wait_for_timeout(1500)  # it records as long as somebody speaks
    page.get_by_role("button", name="Stop recording").click()
    heard = page.get_by_text(re.compile(r"^\d+ hertz$"))
    heard.last.wait_for()
    assert abs(int(heard.last.text_content().split()[0]) - TONE) <= 2
