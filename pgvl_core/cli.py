"""The `pgvl` command."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pgvl_core import assets

if TYPE_CHECKING:
    from pgvl_core.chat import Conversation


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    logging.basicConfig(format="%(message)s")
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except ValueError as error:  # each error of ours about what was asked for is one
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what was finished is kept", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pgvl", description="The PG-Video-LLaVA workbook.")
    commands = parser.add_subparsers(required=True, metavar="command")

    fetch = commands.add_parser("fetch", help="fetch the weights and sample videos of a profile")
    fetch.add_argument("--to", metavar="DIR", help="make a bundle that PGVL_HOME=DIR uses offline")
    fetch.set_defaults(run=_fetch)

    doctor = commands.add_parser("doctor", help="show what this machine has and what is amiss")
    doctor.set_defaults(run=_doctor)

    ask = commands.add_parser("ask", help="answer a question about a video")
    ask.add_argument("video")
    ask.add_argument("question")
    ask.add_argument("--json", action="store_true", help="print the answer and what it took")
    ask.set_defaults(run=_ask)

    ground = commands.add_parser("ground", help="answer a question and mark what the answer names")
    ground.add_argument("video")
    ground.add_argument("question")
    ground.add_argument("-o", "--output", metavar="FILE.mp4", help="write the marked video")
    ground.add_argument(
        "--json", metavar="FILE.json", help="write boxes and masks (.coco.json too)"
    )
    ground.set_defaults(run=_ground)

    chat = commands.add_parser("chat", help="talk about a video")
    chat.add_argument("video")
    chat.set_defaults(run=_chat)
    for command in (ask, ground, chat):
        command.add_argument("--mute", action="store_true", help="do not listen to the video")
    for command in (fetch, doctor, ask, ground, chat):
        command.add_argument("--profile", choices=assets.PROFILES, default="pocket")

    workbook = commands.add_parser("workbook", help="run the notebooks into build/")
    workbook.add_argument("notebooks", nargs="*", help="names without suffix; all of them if none")
    workbook.set_defaults(run=_workbook)

    run = commands.add_parser("run", help="run one notebook with parameters of your own")
    run.add_argument("notebook", help="its name without suffix")
    run.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter of its second cell",
    )
    run.add_argument("-o", "--output", metavar="DIR", help="where to, if not build/run")
    run.set_defaults(run=_run)

    sweep = commands.add_parser("sweep", help="run a notebook over a grid of its parameters")
    sweep.add_argument("file", metavar="SWEEP.yaml")
    sweep.add_argument("-o", "--output", metavar="DIR", help="where to, if not build/sweeps")
    sweep.set_defaults(run=_sweep)

    claims = commands.add_parser("claims", help="write CLAIMS.md from data/claims.yaml")
    claims.set_defaults(run=_claims)
    return parser


def _fetch(options: argparse.Namespace) -> int:
    store = assets.fetch(options.profile, options.to)
    hint = f"; use it with PGVL_HOME={store}" if options.to else ""
    print(f"The {options.profile} assets are in {store}{hint}")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from pgvl_core.doctor import doctor

    report = doctor(options.profile)
    print(report)
    return 0 if report.ok else 1


def _workbook(options: argparse.Namespace) -> int:
    from pgvl_core.workbook import run_workbook

    return 1 if run_workbook(names=options.notebooks) else 0


def _run(options: argparse.Namespace) -> int:
    from pgvl_core.workbook import BUILD, notebooks, read_parameters, run_notebook, table

    (path,) = notebooks([options.notebook])
    parameters = read_parameters(path, dict(options.parameters))
    # Not where `pgvl workbook` writes: these numbers are not the notebook's own.
    output = Path(options.output or BUILD / "run")
    results = run_notebook(path, output, parameters)
    print(table([{"number": name, "value": n} for name, n in results["numbers"].items()]))
    print(f"\nExecuted: {output / path.name}; numbers: {output / path.stem / 'results.json'}")
    return 0


def _sweep(options: argparse.Namespace) -> int:
    from pgvl_core.sweep import run_sweep

    return 1 if run_sweep(options.file, options.output) else 0


def _claims(options: argparse.Namespace) -> int:
    from pgvl_core.claims import write_claims

    write_claims()
    return 0


def _ask(options: argparse.Namespace) -> int:
    conversation = _conversation(options)
    answer = conversation.ask(options.question)
    said = {"transcript": conversation.transcript}
    print(json.dumps(asdict(answer) | said) if options.json else answer)
    return 0


def _ground(options: argparse.Namespace) -> int:
    from pgvl_core import profiles
    from pgvl_core.chat import Conversation

    for path, suffix in ((options.output, ".mp4"), (options.json, ".json")):  # before the work
        if path and not (path.endswith(suffix) and Path(path).absolute().parent.is_dir()):
            raise ValueError(f"{path}: give a {suffix} file in a folder that is there")
    conversation = _conversation(options)
    said = conversation.ask(options.question)

    def ask(question: str) -> str:
        return Conversation(conversation.model).ask(question, max_new_tokens=64).text

    grounded = profiles.grounder(options.profile, ask=ask).ground(
        options.video, said.text, options.question, conversation.transcript
    )
    print(said)
    for span in grounded.spans:
        where = ", ".join(f"#{i}" for i in span.tracks)
        print(f"  {span.phrase.text}: {'; '.join(filter(None, (where, span.note)))}")
    if options.output:
        grounded.write_video(options.output)
    if options.json:
        grounded.save(options.json)
    return 0


def _chat(options: argparse.Namespace) -> int:
    conversation = _conversation(options)
    if conversation.transcript:
        print(f'Said in it: "{conversation.transcript}"')
    print(f"{conversation.name}: ask something; /clear begins anew, an empty line ends.")
    while question := _read("> "):
        if question == "/clear":
            conversation.clear()
            continue
        try:
            for piece in conversation.stream(question):
                print(piece, end="", flush=True)
        except KeyboardInterrupt:  # ends the answer, not the conversation
            pass
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            continue
        notes = [note for answer in conversation.answers[-1:] for note in answer.notes]
        print("".join(f" [{note}]" for note in notes))
    return 0


def _read(prompt: str) -> str:
    try:
        return input(prompt).strip()
    except EOFError:
        return ""


def _conversation(options: argparse.Namespace) -> Conversation:
    from pgvl_core import profiles
    from pgvl_core.chat import Conversation
    from pgvl_core.video import Video

    video = Video(options.video)  # before the model is loaded: a wrong path is told at once
    said = "" if options.mute else profiles.listener(options.profile).listen(video).prompt()
    return Conversation(profiles.load(options.profile), video, said)
