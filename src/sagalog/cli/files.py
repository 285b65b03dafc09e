"""Files that a command writes: whatever it was told to overwrite, no journal."""

from __future__ import annotations

from pathlib import Path

import click

from .text import clean

_SQLITE = b"SQLite format 3\0"
_BESIDE = ("-wal", "-shm", "-journal")  # what SQLite keeps beside a database, and may need to read it


def refuse_database(path: Path) -> None:
    """Raise ClickException if `path` is an SQLite file, such as the very journal that is exported, or its log.

    Call it before anything opens a journal in this process: closing a file drops the locks that SQLite has on it.
    """
    for beside in ("", *_BESIDE):
        if path.name.endswith(beside) and _is_database(Path(str(path).removesuffix(beside))):
            raise click.ClickException(clean(f"{path} is a database, and is not overwritten: choose another file"))


def _is_database(path: Path) -> bool:
    try:
        if not path.is_file():  # a pipe would wait for its other end
            return False
        with path.open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except (OSError, ValueError):
        return False  # it cannot be written either, or that fails by itself
