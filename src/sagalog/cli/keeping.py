"""Keeping in a file what a repair replaces and cannot bring back."""

from __future__ import annotations

import tempfile

import click


def keep(payload: bytes, saga: str, version: int) -> str:
    """Write a record into a new file in the working directory, which only its owner can read; return the file's name.

    Raises ClickException where that cannot be done: then nothing may be replaced.
    """
    try:
        with tempfile.NamedTemporaryFile(
            "wb", prefix=f"sagalog-{saga}-{version}-", suffix=".record", dir=".", delete=False
        ) as file:
            file.write(payload)
            return file.name
    except OSError as error:
        raise click.ClickException(
            f"the old record cannot be kept in a file here ({error.strerror}); nothing was changed"
        ) from error
