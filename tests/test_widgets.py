import io
import threading
import time
import wave
from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path

import ipywidgets
import nbformat
import numpy as np
import pytest
import tiny
from nbclient import NotebookClient
from nbconvert import HTMLExporter

from pgvl_core import plots
from pgvl_core.assets import sample_video
from pgvl_core.audio import Segment, Transcript
from pgvl_core.chat import Conversation
from pgvl_core.video import SAMPLE_RATE, audio_blocks, write_video
from pgvl_core.widgets import ChatPanel, Explorer, ListenPanel, quiz

OPTIONS = [
    ("100", False, "that counts the frames <only>"),
    ("676", True, "100 + 576"),
    ("57600", False, "nothing is pooled"),
]


class Outline(HTMLParser):
    """Tags and texts in order, and a check that every tag is closed."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.texts = [], set(), []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert attrs == []  # no script, style or handler that a sanitiser would take out
        self.open.append(tag)
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1], data))


def test_each_option_unfolds_to_its_verdict():
    page = Outline(quiz("How many tokens?", OPTIONS)._repr_html_())
    assert page.tags == {"div", "p", "b", "details", "summary"}
    assert page.texts == [
        ("b", "How many tokens?"),
        ("summary", "100"),
        ("b", "Not this one."),
        ("p", " that counts the frames <only>"),
        ("summary", "676"),
        ("b", "Right."),
        ("p", " 100 + 576"),
        ("summary", "57600"),
        ("b", "Not this one."),
        ("p", " nothing is pooled"),
    ]


def test_text_form_holds_the_same():
    lines = repr(quiz("How many tokens?", OPTIONS)).splitlines()
    assert lines[0] == "Quiz: How many tokens?"
    assert lines[3:5] == ["  B. 676", "     Right: 100 + 576"]


@pytest.mark.parametrize(("right", "count"), [((False, False), 0), ((True, True), 2)])
def test_quiz_needs_exactly_one_right_option(right, count):
    with pytest.raises(ValueError, match=f"exactly one right option, not {count}: 'Which\\?'"):
        quiz("Which?", [("a", right[0], ""), ("b", right[1], "")])


def test_quiz_needs_a_choice():
    with pytest.raises(ValueError, match="2 to 8 options, not 1"):
        quiz("Which?", [("a", True, "")])


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for name in ("first", "second"):
        images = rng.integers(0, 256, (6, 16, 16, 3), np.uint8)
        write_video(folder / f"{name}.mp4", images, fps=2)
    (folder / "broken.mp4").write_bytes(b"no video <at all>")
    return {path.stem: path for path in sorted(folder.iterdir(), reverse=True)}


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.fixture
def panel(model, videos):
    return ChatPanel(model, {"first": videos["first"], "second": videos["second"]}, "laptop")


class Page(HTMLParser):
    """The texts and the pictures' descriptions of a piece of HTML."""

    def __init__(self, html):
        super().__init__()
        self.texts, self.alts, self.tags = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.alts += [value for name, value in attrs if name == "alt"]

    def handle_data(self, data):
        self.texts.append(data)


def test_a_slider_moves_the_picture():
    drawn = []

    def draw(value):
        drawn.append(value)
        return plots.bars(["a"], [value], "how many")

    slider = ipywidgets.IntSlider(1, min=1, max=9)
    explorer = Explorer(slider, draw, alt="A bar as high as the <slider> says.")
    before = explorer._repr_mimebundle_()
    slider.value = 8
    after = explorer._repr_mimebundle_()
    assert drawn == [1, 8]
    assert before["text/html"] != after["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in after
    assert after["text/plain"] == "A bar as high as the <slider> says."
    page = Page(after["text/html"])
    assert page.alts == ["A bar as high as the <slider> says."]


def test_a_slider_does_not_make_who_runs_a_notebook_answer_the_kernel():
    """What nbclient answers an output widget makes it miss the reply to the cell, now and then."""
    source = """
import ipywidgets
from pgvl_core import plots
from pgvl_core.widgets import Explorer
Explorer(ipywidgets.IntSlider(), lambda n: plots.bars(["a"], [n], "n"), alt="A bar.")
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    client = NotebookClient(notebook, timeout=120)
    client.execute()
    assert notebook.cells[0].outputs[0].data["text/plain"] == "A bar."
    assert client.widget_state
    assert not client.comm_objects  # its own output widgets


def shown(panel):
    return Page(panel._repr_mimebundle_()["text/html"])


def finished(panel):
    """Wait until the panel has nothing more to do."""
    end = time.monotonic() + 60
    while panel.buttons["Ask"].disabled or panel._working.locked():
        assert time.monotonic() < end
        time.sleep(0.01)


def press_enter(panel):
    panel.question._handle_custom_msg({"event": "submit"}, [])  # as the browser's message does


def upload(panel, name, content):
    file = {"name": name, "type": "video/mp4", "size": len(content), "content": memoryview(content)}
    panel.uploader.value = ({**file, "last_modified": datetime.now(timezone.utc)},)
    finished(panel)


def test_ask_answers_as_a_conversation_and_shows_it(panel, model, videos):
    expected = Conversation(model, videos["first"])
    for question in ("What?", "And then?"):
        answer = panel.ask(question)
        assert answer.text == expected.ask(question).text
        assert "cut after 256 tokens" in str(answer)
        assert {question, str(answer)} <= set(shown(panel).texts)
    assert [answer.question for answer in panel.conversation.answers] == ["What?", "And then?"]


def test_the_panel_shows_who_answers_and_the_frames_that_the_model_sees(panel):
    page = shown(panel)
    assert page.texts[0] == "ChatPanel: first, laptop"
    assert page.alts == [f"frame {i} at {i / 2:.2f} s" for i in (0, 1, 3, 4)]


def test_picking_another_video_begins_a_conversation_about_it(panel, model, videos):
    panel.ask("What?")
    panel.picker.value = "second"
    finished(panel)
    assert panel.conversation.answers == []
    assert "What?" not in shown(panel).texts
    tokens = Conversation(model, videos["second"]).tokens
    assert panel.conversation.tokens.equal(tokens)
    assert not tokens.equal(Conversation(model, videos["first"]).tokens)


def test_ask_and_enter_take_the_question_from_the_text_box(panel):
    for question, act in (
        ("What?", panel.buttons["Ask"].click),
        ("Why?", lambda: press_enter(panel)),
    ):
        panel.question.value = question
        act()
        finished(panel)
        assert panel.question.value == ""
    assert [answer.question for answer in panel.conversation.answers] == ["What?", "Why?"]


class Slow:
    """Lets a model's tokens through one at a time, when told to."""

    def __init__(self, model, monkeypatch):
        self.go, stream = threading.Semaphore(0), model.stream

        def slow(*arguments):
            for token in stream(*arguments):
                assert self.go.acquire(timeout=60)
                yield token

        monkeypatch.setattr(model, "stream", slow)

    def let(self, panel, tokens):
        """Let so many through, and wait until the panel shows them."""
        before = shown(panel).texts
        self.go.release(tokens)
        end = time.monotonic() + 60
        while shown(panel).texts == before:
            assert time.monotonic() < end
            time.sleep(0.01)
        time.sleep(0.05)
        return shown(panel).texts[-1]


def test_an_answer_grows_and_stops_when_told_to(panel, model, monkeypatch):
    slow = Slow(model, monkeypatch)
    panel.question.value = "What?"
    panel.buttons["Ask"].click()
    first = slow.let(panel, 5)
    longer = slow.let(panel, 5)
    assert longer.startswith(first)
    assert len(longer) > len(first)
    busy = {name: button.disabled for name, button in panel.buttons.items()}
    assert busy == {"Ask": True, "Stop": False, "Clear": True}
    assert (panel.picker.disabled, panel.uploader.disabled) == (True, True)
    panel.question.value = "The next one"
    press_enter(panel)  # not heard
    panel.buttons["Stop"].click()
    slow.go.release(2)
    finished(panel)
    (answer,) = panel.conversation.answers
    assert answer.notes == ("stopped",)
    assert answer.text.startswith(longer.strip())
    assert str(answer) in shown(panel).texts
    assert panel.question.value == "The next one"
    idle = {name: button.disabled for name, button in panel.buttons.items()}
    assert idle == {"Ask": False, "Stop": True, "Clear": False}


def test_clear_begins_anew_with_the_same_video(panel):
    first = panel.ask("What?")
    panel.buttons["Clear"].click()
    finished(panel)
    assert panel.conversation.answers == []
    assert "What?" not in shown(panel).texts
    assert shown(panel).alts
    assert panel.ask("What?").text == first.text


def test_an_uploaded_video_is_asked_about(panel, model, videos):
    upload(panel, "mine.mp4", videos["second"].read_bytes())
    assert panel.picker.value == "mine.mp4"
    assert panel.picker.options == ("first", "second", "mine.mp4")
    assert panel.conversation.tokens.equal(Conversation(model, videos["second"]).tokens)
    upload(panel, "mine.mp4", videos["first"].read_bytes())  # another of the same name
    assert panel.picker.options == ("first", "second", "mine.mp4")
    assert panel.conversation.tokens.equal(Conversation(model, videos["first"]).tokens)
    assert panel.uploader.value == ()


def test_an_upload_lives_as_long_as_the_panel(model, videos):
    panel = ChatPanel(model, {})
    upload(panel, "../../mine.mp4", videos["first"].read_bytes())
    path = Path(panel.videos["mine.mp4"])
    assert path.exists()
    folder = panel._folder
    assert path.parent == Path(folder.name)
    folder.cleanup()
    assert not path.exists()


def test_a_broken_upload_is_told_in_words(panel, videos):
    panel.ask("What?")
    upload(panel, "broken.mp4", videos["broken"].read_bytes())
    page = shown(panel)
    assert page.texts[-1].startswith("broken.mp4: cannot be read as a video")
    assert page.alts == []
    with pytest.raises(ValueError, match="pick or upload one"):
        panel.ask("What?")
    panel.picker.value = "first"
    finished(panel)
    assert "broken.mp4" not in "".join(shown(panel).texts)
    assert panel.ask("What?").text


def test_a_video_that_is_not_there_is_told_at_once(model, tmp_path):
    panel = ChatPanel(model, {"gone": tmp_path / "gone.mp4"})
    assert shown(panel).texts[-1].endswith("gone.mp4: there is no such file")


@pytest.mark.parametrize(
    ("question", "message"), [("", "no question"), ("<b>why</b> " * 200, "question is too long")]
)
def test_a_question_that_cannot_be_asked_is_told_and_kept(panel, question, message, capfd):
    panel.question.value = question
    panel.buttons["Ask"].click()
    finished(panel)
    assert message in shown(panel).texts[-1]
    assert panel.question.value == question
    assert panel.conversation.answers == []
    with pytest.raises(ValueError, match=message):
        panel.ask(question)
    panel.ask("Why?")
    assert message not in "".join(shown(panel).texts)
    assert "Traceback" not in capfd.readouterr().err


def test_what_is_said_is_text_and_not_html(panel, model, monkeypatch):
    said = "<img src=x onerror=alert(1)> & </p><script>"
    tokens = model.tokenizer(said, add_special_tokens=False).input_ids
    monkeypatch.setattr(model, "stream", lambda *_: iter(tokens))
    asked = "<script>alert('you')</script>"
    tags = set(shown(panel).tags)
    panel.ask(asked)
    page = shown(panel)
    assert {asked, said} <= set(page.texts)
    assert set(page.tags) - tags == {"b"}


def test_a_page_without_widgets_shows_frames_and_history(panel):
    """nbconvert takes the widget only where its state was saved, and else the HTML."""
    answer = panel.ask("What is it?")
    bundle = panel._repr_mimebundle_(include=None, exclude=None)
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"] == f"ChatPanel: first, laptop\n  What is it?\n    {answer}"
    output = nbformat.v4.new_output("execute_result", bundle)
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("panel", outputs=[output])]
    )
    page = Page(HTMLExporter().from_notebook_node(notebook)[0])
    assert page.alts == shown(panel).alts
    assert len(page.alts) == 4
    assert {"What is it?", str(answer)} <= set(page.texts)


class Ear:
    """A listener that tells how long a sound is."""

    def listen(self, path):
        samples = sum(len(block) for block in audio_blocks(path))
        text = f"<{samples / SAMPLE_RATE:.1f} seconds>"
        segments = (Segment(0, 1, text, (), {}, ""),) if samples else ()
        return Transcript(segments, "en", samples / SAMPLE_RATE, ())


def test_what_is_said_is_shown_and_told_to_the_model(model, videos):
    mute = ChatPanel(model, {"first": videos["first"]}, listener=Ear())
    assert "What is said: (nobody speaks)" in shown(mute).texts
    assert mute.conversation.transcript == ""
    spoken = ChatPanel(model, {"dog": sample_video("crossing")}, listener=Ear())
    assert "What is said: <6.0 seconds>" in shown(spoken).texts
    assert spoken.conversation.transcript == "<6.0 seconds>"


@pytest.fixture
def ear():
    return ListenPanel(Ear())


def texts(panel):
    return Page(panel._shown.value).texts


def wav(seconds):
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, 8000, 0, "NONE", ""))
        out.writeframes(bytes(int(seconds * 16000)))
    return file.getvalue()


def test_a_sound_is_uploaded_and_read(ear):
    assert "nothing heard yet" in repr(ear)
    for seconds in (2, 3):
        content = wav(seconds)
        file = {"name": "../me.wav", "type": "audio/wav", "size": len(content)}
        file |= {"content": memoryview(content), "last_modified": datetime.now(timezone.utc)}
        ear.uploader.value = (file,)
        assert f"<{seconds}.0 seconds>" in texts(ear)
        assert ear.uploader.value == ()
    assert repr(ear) == "ListenPanel: <3.0 seconds>"
    assert "&lt;3.0 seconds&gt;" in ear._repr_mimebundle_()["text/html"]


def test_a_recording_is_read(ear):
    ear.recorder.sound = memoryview(wav(1.5))
    assert "<1.5 seconds>" in texts(ear)


def test_what_cannot_be_read_or_recorded_is_told_in_words(ear):
    ear.hear("me.wav", b"no sound")
    (told,) = texts(ear)
    assert told.startswith("me.wav: cannot be read as a video or sound (")
    ear.recorder.trouble = "There is no microphone here: <denied>"
    assert texts(ear) == ["There is no microphone here: <denied>"]
    assert ear.transcript is None
