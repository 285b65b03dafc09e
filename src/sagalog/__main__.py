"""`python -m sagalog` is the command `sagalog`."""

from .cli import main

if __name__ == "__main__":  # processes that `sagalog simulate` starts import this, too
    main()
