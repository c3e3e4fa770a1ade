"""Read files of annotations, whose every fault is told by file and record."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .samples import AnnotationError

PathLike = str | os.PathLike[str]
CONTAINERS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")


def load_json(path: PathLike) -> Any:
    """The content of a JSON file; AnnotationError when it has none."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AnnotationError(f"{path}: not a readable JSON file ({error})") from error


@contextmanager
def naming(path: Path, record: str) -> Iterator[None]:
    """Whatever a record lacks becomes an error that names the file and the record."""
    try:
        yield
    except AnnotationError:
        raise
    except KeyError as error:
        raise AnnotationError(f"{path}: {record} has no {error}, or refers to none") from error
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise AnnotationError(f"{path}: {record} is malformed: {error}") from error


def finder(folder: PathLike) -> Callable[[str], Path]:
    """Where a file of a folder is: at the path given, or wherever its name is found."""
    named: dict[str, list[Path]] = {}
    for each in Path(folder).rglob("*.*"):
        named.setdefault(each.name, []).append(each)

    def find(path: str) -> Path:
        here = Path(folder, path)
        others = named.get(here.name, [])
        if here in others or not others:
            return here
        if len(others) > 1:  # one of them would be the wrong video
            raise ValueError(f"{here.name} is in several folders of {folder}, and not at {path}")
        return others[0]

    return find


def video_finder(folder: PathLike) -> Callable[..., Path]:
    """Where a video is: the official container first, then any other."""
    find = finder(folder)

    def video(name: str, official: str = CONTAINERS[0]) -> Path:
        places = [find(name + suffix) for suffix in dict.fromkeys((official, *CONTAINERS))]
        return next((path for path in places if path.is_file()), places[0])

    return video
