"""Keeping in a file what a repair replaces and cannot bring back."""

from __future__ import annotations

import re
import tempfile

import click

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")
_MAX_CHARACTERS = 60  # characters


def keep(payload: bytes, saga: str, version: int) -> str:
    """Write a record into a new file in the working directory, which only its owner can read; return the file's name.

    Raises ClickException where that cannot be done: then nothing may be replaced.
    """
    name = _UNSAFE.sub("_", saga)[:_MAX_CHARACTERS]  # a journal may hold any
    try:
        with tempfile.NamedTemporaryFile(
            "wb", prefix=f"sagalog-{name}-{version}-", suffix=".record", dir=".", delete=False
        ) as file:
            file.write(payload)
            return file.name
    except OSError as error:
        raise click.ClickException(
            f"the old record cannot be kept in a file here ({error.strerror}); nothing was changed"
        ) from error
