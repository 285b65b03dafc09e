"""What goes wrong with one source at present, and since when: logged when it begins, and when it is over."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from ..errors import SagalogError
from ..logs import about, log


class SourceTrouble:
    """The trouble of one source; `text` is empty while there is none."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.text: str = ""
        self._since = 0.0

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return time.monotonic() - self._since if self.text else 0.0

    def is_(self, error: BaseException) -> None:
        """Note what the broker, or its source, has raised."""
        said = str(error) if isinstance(error, SagalogError) else f"it raised {type(error).__name__}"
        if not self.text:
            self._since = time.monotonic()
            log.warning("source %s: %s; it is tried again", self._name, said, extra=about())
        self.text = said

    def is_over(self) -> None:
        """Note that the broker answers."""
        if self.text:
            log.warning("source %s: it goes on, after %.1f s", self._name, self.seconds, extra=about())
            self.text = ""

    @staticmethod
    def seconds_since(at: datetime | None) -> float | None:
        """Return how long ago that was."""
        return None if at is None else max(0.0, (datetime.now(UTC) - at).total_seconds())
