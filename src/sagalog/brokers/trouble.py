"""What goes wrong with one source at present, and since when: logged when it begins, and when it is over."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from ..errors import SagalogError
from ..logs import about, log, trace_of


class SourceTrouble:
    """The troubles of one source: one thing may fail while others go well. `text` is of the oldest."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._begun: dict[str, tuple[float, str]] = {}  # what is asked -> since when it fails, and how

    @property
    def text(self) -> str:
        """What goes wrong; empty while nothing does."""
        return min(self._begun.values(), default=(0.0, ""))[1]

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return time.monotonic() - min(self._begun.values())[0] if self._begun else 0.0

    def has(self, what: str) -> bool:
        """The broker does not answer to that at present."""
        return what in self._begun

    def is_(self, error: BaseException, what: str, since: float | None = None) -> None:
        """Note what the broker, or its source, has raised; `since`: when it was asked, by the monotonic clock."""
        ours = isinstance(error, SagalogError)
        said = str(error) if ours else f"{what} raised {type(error).__name__}; the log says where"
        if what not in self._begun:
            log.warning(
                "source %s: %s; it is tried again",
                self._name,
                said,
                exc_info=trace_of(error) if not ours else None,  # such as of options that the client does not know
                extra=about(),
            )
        begun, _ = self._begun.get(what, (time.monotonic() if since is None else since, ""))
        self._begun[what] = (begun, said)

    def is_over(self, what: str) -> None:
        """Note that the broker answers to that."""
        if found := self._begun.pop(what, None):
            lasted = time.monotonic() - found[0]
            log.warning("source %s: %s works again, after %.1f s", self._name, what, lasted, extra=about())

    @staticmethod
    def seconds_since(at: datetime | None) -> float | None:
        """Return how long ago that was."""
        return None if at is None else max(0.0, (datetime.now(UTC) - at).total_seconds())
