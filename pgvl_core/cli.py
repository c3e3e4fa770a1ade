"""The `pgvl` command."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from pgvl_core import assets


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
    for command in (fetch, doctor):
        command.add_argument("--profile", choices=assets.PROFILES, default="pocket")

    workbook = commands.add_parser("workbook", help="run the notebooks into build/")
    workbook.add_argument("notebooks", nargs="*", help="names without suffix; all of them if none")
    workbook.set_defaults(run=_workbook)
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
