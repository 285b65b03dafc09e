"""The command `sagalog`. Its libraries are the extra `cli`; without them it says how to install them."""

from __future__ import annotations

import errno
import os
import sys


def main() -> None:
    """Run the command line."""
    _stand_in_for_closed_streams()
    try:
        import click  # noqa: F401
    except ImportError:
        print("the command line needs its extra: pip install 'sagalog[cli]'", file=sys.stderr)
        sys.exit(2)
    from ..text import line
    from .group import sagalog

    try:
        sagalog(prog_name="sagalog")
    except OSError as error:  # a full disk, mostly: of standard output or of a file
        where = f" ({line(str(error.filename))})" if error.filename is not None else ""
        closed = error.errno == errno.EBADF and error.filename is None
        why = "standard output is closed" if closed else error.strerror or type(error).__name__
        _last_word(f"Error: {why}{where}")
        sys.exit(1)
    finally:
        _let_go_of_stdout()


def _stand_in_for_closed_streams() -> None:
    """Let each of the three streams be one, so that no file that is opened takes its number.

    From a closed one nothing is read, and what is written to it fails, as in other programs.
    """
    if sys.stdin is None:
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY))
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


def _last_word(text: str) -> None:
    try:
        print(text, file=sys.stderr)
    except OSError:
        pass  # it is full, too


def _let_go_of_stdout() -> None:
    """Write what is left, or drop it: otherwise Python tries once more at its end, fails, and says so at length."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
