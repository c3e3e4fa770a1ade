"""What a reader does inside a notebook: answer a quick question, move a slider, talk, be heard."""

from __future__ import annotations

import html
import os
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import ipywidgets
import traitlets
from matplotlib.figure import Figure

from . import plots

if TYPE_CHECKING:
    from pgvl_core.audio import Listener, Transcript
    from pgvl_core.chat import Answer, Conversation
    from pgvl_core.model import PGVideoLLaVA

# A notebook server drops a longer message, and neither the page nor the kernel is told.
UPLOADS = "of up to 10 MB, or 500 MB in a JupyterLab from make lab"


@dataclass(frozen=True)
class Quiz:
    """A question and its options, each a (text, is it right, why); see `quiz`."""

    question: str
    options: tuple[tuple[str, bool, str], ...]

    def __repr__(self) -> str:
        lines = [f"Quiz: {self.question}"]
        for letter, (text, right, why) in zip("ABCDEFGH", self.options, strict=False):
            lines += [f"  {letter}. {text}", f"     {_verdict(right)}: {why}"]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        # <details> opens without a script, so it works in JupyterLab, on a page and where scripts
        # are taken out.
        folds = "".join(
            f"<details><summary>{html.escape(text)}</summary>"
            f"<p><b>{_verdict(right)}.</b> {html.escape(why)}</p></details>"
            for text, right, why in self.options
        )
        return f"<div><p><b>{html.escape(self.question)}</b></p>{folds}</div>"


def quiz(question: str, options: Sequence[tuple[str, bool, str]]) -> Quiz:
    """A multiple-choice question whose options unfold to say whether they are right, and why.

    Parameters
    ----------
    question : plain text
    options : 2 to 8 of (text of the option, is it right, why), in plain text

    Raises
    ------
    ValueError : not exactly one option is right, or their number is out of range
    """
    if not 2 <= len(options) <= 8:
        raise ValueError(f"a quiz needs 2 to 8 options, not {len(options)}: {question!r}")
    if (right := sum(is_right for _, is_right, _ in options)) != 1:
        raise ValueError(f"a quiz needs exactly one right option, not {right}: {question!r}")
    return Quiz(question, tuple(options))


def _verdict(right: bool) -> str:
    return "Right" if right else "Not this one"


class Recorder(anywidget.AnyWidget):
    """A button that records the reader's microphone, in the browser.

    Attributes
    ----------
    sound : bytes
        The last recording, as the browser packs it (WebM or MP4).
    trouble : str
        Why there is none: a browser asks its user first, and gives no microphone to a page that
        came over plain HTTP from another machine.
    """

    sound = traitlets.Any(b"").tag(sync=True)  # a memoryview, when it comes from the browser
    trouble = traitlets.Unicode().tag(sync=True)
    _esm = """
    async function render({ model, el }) {
      const button = document.createElement("button");
      button.className = "jupyter-button";
      button.textContent = "Record";
      el.append(button);
      let recorder = null;
      button.onclick = async () => {
        if (recorder) return recorder.stop();
        try {
          const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
          const pieces = [];
          recorder = new MediaRecorder(stream);
          recorder.ondataavailable = (event) => pieces.push(event.data);
          recorder.onstop = async () => {
            stream.getTracks().forEach((track) => track.stop());
            const packed = await new Blob(pieces).arrayBuffer();
            recorder = null;
            button.textContent = "Record";
            model.set("sound", new DataView(packed));
            model.save_changes();
          };
          recorder.start();
          button.textContent = "Stop recording";
        } catch (error) {
          recorder = null;
          model.set("trouble", `There is no microphone here: ${error.message}`);
          model.save_changes();
        }
      };
    }
    export default { render };
    """


class ListenPanel:
    """Upload a sound or a video, or record one, and read what is said in it.

    Parameters
    ----------
    listener : Listener

    Attributes
    ----------
    transcript : Transcript or None
        Of the last sound that could be read.
    """

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.transcript: Transcript | None = None
        self.uploader = ipywidgets.FileUpload(accept="audio/*,video/*")
        self.recorder = Recorder()
        self._shown = ipywidgets.HTML()
        about = ipywidgets.Label(UPLOADS)
        self.widget = ipywidgets.VBox(
            [ipywidgets.HBox([self.uploader, about, self.recorder]), self._shown]
        )
        self.uploader.observe(lambda change: self._take(*change.new), "value")
        self.recorder.observe(lambda change: self.hear("recording", change.new), "sound")
        self.recorder.observe(lambda change: self._tell(change.new), "trouble")

    def hear(self, name: str, content: bytes) -> None:
        """Write down what is said in a file's content, and show it."""
        self._shown.value = "<p>Listening ...</p>"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            path.write_bytes(content)
            try:
                self.transcript = self.listener.listen(path)
            except ValueError as error:
                return self._tell(str(error).replace(folder + os.sep, ""))
        self._shown.value = self.transcript._repr_html_()

    def _take(self, file: dict[str, Any] | None = None) -> None:
        if file is not None:
            self.uploader.value = ()  # the same file can be uploaded again
            self.hear(file["name"], file["content"])

    def _tell(self, trouble: str) -> None:
        self._shown.value = _alert(trouble)

    def __repr__(self) -> str:
        return f"ListenPanel: {self.transcript or 'nothing heard yet'}"

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        page = f"<div><p>{html.escape(repr(self))}</p></div>"
        return {**self.widget._repr_mimebundle_(), "text/plain": repr(self), "text/html": page}


class Explorer:
    """A picture that a slider moves; where widgets cannot live, the picture as it was last drawn.

    `ipywidgets.interact` would need an output widget, and that now and then makes whoever runs a
    notebook without a page (nbclient, so papermill and nbconvert too) wait for a reply that is
    there already, until the time is out (jupyter/nbclient#312).

    Parameters
    ----------
    slider : widget
        Whatever has a `value`.
    draw : callable
        Gives the figure for a value.
    alt : str
        The sentence that stands for it where it cannot be seen.
    """

    def __init__(
        self, slider: ipywidgets.ValueWidget, draw: Callable[[Any], Figure], alt: str
    ) -> None:
        self.slider, self._draw, self._alt = slider, draw, alt
        self._picture = ipywidgets.HTML()
        self.widget = ipywidgets.VBox([slider, self._picture])
        slider.observe(lambda _: self._redraw(), "value")
        self._redraw()

    def _redraw(self) -> None:
        self._picture.value = plots.bundle(self._draw(self.slider.value), self._alt)["text/html"]

    def __repr__(self) -> str:
        return self._alt

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        page = self._picture.value
        return {**self.widget._repr_mimebundle_(), "text/plain": repr(self), "text/html": page}


class ChatPanel:
    """Talk about a video: pick or upload one, ask, and read the answer as it is made.

    Without a browser `ask` does the same, and where widgets cannot live (a page, a notebook whose
    kernel is gone) the panel is the frames and what was said, as HTML.

    Parameters
    ----------
    model : PGVideoLLaVA
    videos : name -> path
        To pick from; the first is opened at once. There may be none: a video can be uploaded.
    profile : str
        Shown, so that a reader knows who answers.
    listener : Listener or None
        Writes down what is said in a video, which the model then knows; None: it is deaf.

    Attributes
    ----------
    conversation : Conversation or None
        None when the video chosen cannot be read.
    """

    def __init__(
        self,
        model: PGVideoLLaVA,
        videos: Mapping[str, str | Path],
        profile: str = "pocket",
        listener: Listener | None = None,
    ) -> None:
        self.model, self.videos, self.profile = model, dict(videos), profile
        self.listener = listener
        self.conversation: Conversation | None = None
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # for uploads
        self._working = threading.Lock()  # held while a video is read or an answer made

        self.picker = ipywidgets.Dropdown(options=list(self.videos), description="Video")
        self.uploader = ipywidgets.FileUpload(accept="video/*")
        about = ipywidgets.Label(f"{UPLOADS}. Profile: {profile}")
        self.question = ipywidgets.Text(placeholder="Ask about the video")
        self.buttons = {
            name: ipywidgets.Button(description=name, disabled=name == "Stop")
            for name in ("Ask", "Stop", "Clear")
        }
        self._strip, self._history, self._error = (ipywidgets.HTML() for _ in range(3))
        self.widget = ipywidgets.VBox(
            [
                ipywidgets.HBox([self.picker, self.uploader, about]),
                self._strip,
                self._history,
                self._error,
                ipywidgets.HBox([self.question, *self.buttons.values()]),
            ]
        )
        self.picker.observe(lambda change: self._begin(self._open, change.new), "value")
        self.uploader.observe(lambda change: self._begin(self._take, *change.new), "value")
        self.question.on_msg(self._entered)
        self.buttons["Ask"].on_click(lambda _: self._begin(self._answer, self.question.value))
        self.buttons["Stop"].on_click(lambda _: self.conversation and self.conversation.stop())
        self.buttons["Clear"].on_click(lambda _: self._begin(self._clear))
        if self.videos:
            with self._working, suppress(ValueError):
                self._do(self._open, self.picker.value)

    def ask(self, question: str) -> Answer:
        """The answer, when it is complete; the panel shows it like any other.

        Raises
        ------
        ValueError
            When there is no video, no question, or the question is too long.
        """
        with self._working:
            self._do(self._answer, question)
        assert self.conversation is not None
        return self.conversation.answers[-1]

    def __repr__(self) -> str:
        lines = [f"ChatPanel: {self.picker.value or 'no video'}, {self.profile}"]
        for answer in self.conversation.answers if self.conversation else []:
            lines += [f"  {answer.question}", f"    {answer}"]
        return "\n".join(lines)

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        plain = self._strip.value + self._history.value + self._error.value
        page = f"<div><p>{html.escape(repr(self).splitlines()[0])}</p>{plain}</div>"
        return {**self.widget._repr_mimebundle_(), "text/plain": repr(self), "text/html": page}

    # ------------------------------------------------------------------------ what the user does
    def _begin(self, job: Callable[..., None], *arguments: Any) -> None:
        """Do a job beside the kernel, which goes on hearing Stop; nothing while one is done."""
        if not self._working.acquire(blocking=False):
            return

        def work() -> None:
            try:
                self._do(job, *arguments)
            except ValueError:
                pass  # it is on the panel
            finally:
                self._working.release()

        threading.Thread(target=work, daemon=True).start()

    def _do(self, job: Callable[..., None], *arguments: Any) -> None:
        self._error.value = ""
        self._enable(False)
        try:
            job(*arguments)
        except Exception as error:
            text = str(error).replace(self._folder.name + os.sep, "")
            self._error.value = _alert(text)
            raise
        finally:
            self._enable(True)

    def _enable(self, idle: bool) -> None:
        for control in (self.picker, self.uploader, self.buttons["Ask"], self.buttons["Clear"]):
            control.disabled = not idle
        self.buttons["Stop"].disabled = idle

    def _entered(self, _: object, content: dict[str, str], __: object) -> None:
        if content.get("event") == "submit":  # Enter
            self._begin(self._answer, self.question.value)

    # ------------------------------------------------------------------------------- what is done
    def _open(self, name: str) -> None:
        from pgvl_core.chat import Conversation  # a quiz does not wait for it

        self.conversation, self._strip.value, self._history.value = None, "", ""
        heard = self.listener.listen(self.videos[name]) if self.listener else None
        said = heard.prompt() if heard else ""
        self.conversation = Conversation(self.model, self.videos[name], said)
        if self.conversation.frames is not None:
            self._strip.value = self.conversation.frames._repr_html_()
        if heard:
            self._strip.value += f"<p>What is said: {html.escape(str(heard))}</p>"

    def _take(self, file: dict[str, Any]) -> None:
        name = Path(file["name"]).name
        path = self.videos[name] = Path(self._folder.name) / name
        path.write_bytes(file["content"])
        # These tell of each change, but are not heard while a job is done.
        self.uploader.value = ()  # the same file can be uploaded again
        self.picker.options = list(self.videos)
        self.picker.value = name
        self._open(name)

    def _answer(self, question: str) -> None:
        if self.conversation is None:
            raise ValueError("there is no video to ask about: pick or upload one")
        before, said = self._history.value, ""
        for piece in self.conversation.stream(question):
            said += piece
            self._history.value = before + _turn(question, said)
        answer = self.conversation.answers[-1]
        self._history.value = before + _turn(question, str(answer))
        if self.question.value == question:  # and not the next one already
            self.question.value = ""

    def _clear(self) -> None:
        if self.conversation is not None:
            self.conversation.clear()
        self._history.value = ""


def _alert(text: str) -> str:
    return f'<p role="alert" style="color: firebrick">{html.escape(text)}</p>'


def _turn(question: str, answer: str) -> str:
    return (
        f"<p><b>{html.escape(question)}</b></p>"
        f'<p style="white-space: pre-wrap">{html.escape(answer)}</p>'
    )
