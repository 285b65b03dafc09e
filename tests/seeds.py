"""The seed of what tests draw by lot. It follows from the sources: one commit meets the same one everywhere."""

from __future__ import annotations

import hashlib
from pathlib import Path

import sagalog


def _of_sources() -> int:
    found = hashlib.sha256()
    root = Path(sagalog.__file__).parent
    for path in sorted(root.rglob("*.py")):
        found.update(path.relative_to(root).as_posix().encode())
        found.update(path.read_bytes())
    return int.from_bytes(found.digest()[:8], "big") % 10**6


SEED = _of_sources()
