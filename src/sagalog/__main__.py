"""`python -m sagalog` is the command `sagalog`."""

from .cli import main

main()
