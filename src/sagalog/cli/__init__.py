"""The command `sagalog`. Its libraries are the extra `cli`; without them it says how to install them."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    try:
        import click  # noqa: F401
    except ImportError:
        print("the command line needs its extra: pip install 'sagalog[cli]'", file=sys.stderr)
        sys.exit(2)
    from .group import sagalog

    sagalog(prog_name="sagalog")
