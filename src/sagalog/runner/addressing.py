"""Which instances an event is for: the sagas that take it, and the correlation ids or keys that they find in it.

receive ─► [addressing] ─► receive, by_key
"""

from __future__ import annotations

from typing import Any, TypeAlias

from ..definition.saga import may_take
from ..errors import InvalidEventError, SagalogError
from .by_key import ByKey
from .cache import InstanceCache
from .failures import ends_program

Targets: TypeAlias = list[tuple[InstanceCache, str]]


class Addresses:
    """Finds the instances of an event, among the sagas of a runner."""

    def __init__(self, caches: list[InstanceCache]) -> None:
        self._caches = caches
        self._takers: dict[type, tuple[InstanceCache, ...]] = {}

    def of(self, event: Any) -> Targets:
        """Return each saga that takes the event, with the correlation id that it is for there.

        Raises InvalidEventError where no saga of this runner handles events of this type, or one finds no id in it.
        """
        found = self._takers.get(type(event))
        if found is None:
            found = self._takers[type(event)] = self._asked(type(event))
        if not found:
            names = ", ".join(cache.runtime.name for cache in self._caches)
            raise InvalidEventError(
                f"no saga of this runner handles {type(event).__name__} (sagas: {names}); nothing was stored"
            )
        targets = []
        for cache in found:
            runtime = cache.runtime
            try:
                correlation_id = runtime.saga.correlation_id(event)
            except BaseException as error:
                if isinstance(error, SagalogError) or ends_program(error):
                    raise
                raise InvalidEventError(
                    f"saga {runtime.name!r}: correlation_id raised {type(error).__name__} for {type(event).__name__}; "
                    "nothing was stored"
                ) from error
            if correlation_id is None:
                continue
            if type(correlation_id) is not str or not correlation_id:
                raise InvalidEventError(
                    f"saga {runtime.name!r}: correlation_id must return a string that is not empty, or None, but returned "
                    f"{'an empty one' if correlation_id == '' else type(correlation_id).__name__} for "
                    f"{type(event).__name__}; nothing was stored"
                )
            if not correlation_id.isascii():
                check_unicode(correlation_id, "a correlation id")
            targets.append((cache, correlation_id))
        return targets

    def keyed(self, event: Any) -> list[ByKey]:
        """Return the sagas whose instances the event reaches by a key, and by which value of it; to be asked after `of`."""
        found = []
        for cache in self._takers[type(event)]:
            if cache.runtime.saga.keys and (by := cache.runtime.saga.key_of(event)) is not None:
                found.append(ByKey(cache, by[0].name, by[1], by[0].unique))
        return found

    def _asked(self, event: type) -> tuple[InstanceCache, ...]:
        return tuple(cache for cache in self._caches if may_take(type(cache.runtime.saga), event))


def check_unicode(text: str, what: str) -> None:
    """Raise InvalidEventError for a text that has no UTF-8 form."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidEventError(
            f"{what} contains a lone surrogate, which is not valid Unicode; nothing was stored"
        ) from None
