"""What a runner reads from a source, and what becomes of messages that lead to no step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ..errors import DefinitionError
from ..text import given
from .protocol import Source
from .reading import Decoder


class Policy(StrEnum):
    """What happens to a message that leads to no step. Each is counted."""

    DEAD_LETTER = "dead-letter"  # it goes to the dead letters with the reason, and the next one is handled
    IGNORE = "ignore"  # it is accepted, and the next one is handled
    STOP = "stop"  # it stays where it is, nothing more is received from its source, and the worker is not ready


@dataclass(frozen=True, slots=True)
class Subscription:
    """A source, and how it is read: `SagaRunner(..., sources=[Subscription(NatsSource(...), unreadable="stop")])`.

    `types`: event classes by the `type` of a CloudEvent, beside the stored names of what the sagas handle. `decode`:
    reads the messages instead, for another envelope.

    `unreadable`: what becomes of a message that no event can be made of. `untaken`: of an event that no saga takes, or
    that is refused for good. `prefetch`: how many messages are at work at once. `most_deliveries`: a message
    that was delivered so often is tried alone, and one that comes again after that goes to the dead letters untried,
    because it is what kills its worker; None: never.
    """

    source: Source
    types: Mapping[str, type] = field(default_factory=dict)
    decode: Decoder | None = None
    unreadable: Policy | str = Policy.DEAD_LETTER
    untaken: Policy | str = Policy.DEAD_LETTER
    prefetch: int = 1024
    most_deliveries: int | None = 20

    def __post_init__(self) -> None:
        if isinstance(self.source, type) or not isinstance(self.source, Source):
            shown = self.source.__name__ if isinstance(self.source, type) else f"a {type(self.source).__name__}"
            raise DefinitionError(
                f"a source needs the methods of sagalog.brokers.Source (open, receive, accept, ...), which {shown} lacks"
            )
        for name in ("unreadable", "untaken"):
            policy = getattr(self, name)
            if not isinstance(policy, str) or policy not in tuple(Policy):
                raise DefinitionError(
                    f"{name}= of a subscription must be one of {', '.join(Policy)}, not {given(policy)}"
                )
            object.__setattr__(self, name, Policy(policy))
        if type(self.prefetch) is not int or self.prefetch < 1:
            raise DefinitionError(
                f"prefetch= of a subscription must be a whole number of at least 1, not {given(self.prefetch)}"
            )
        most = self.most_deliveries
        if most is not None and (type(most) is not int or most < 1):
            raise DefinitionError(f"most_deliveries= must be a whole number of at least 1, or None, not {given(most)}")
        if self.decode is not None and not callable(self.decode):
            raise DefinitionError(f"decode= takes a function, not {type(self.decode).__name__}")
        if not isinstance(self.types, Mapping) or not all(isinstance(one, type) for one in self.types.values()):
            raise DefinitionError("types= takes a mapping from the types of CloudEvents to event classes")


def subscriptions_of(sources: object) -> list[Subscription]:
    """Return what `sources=` of a runner names. Raises DefinitionError."""
    if isinstance(sources, (str, bytes, Mapping)) or not hasattr(sources, "__iter__"):
        raise DefinitionError(f"sources= takes a list of sources, not {type(sources).__name__}")
    found = [one if isinstance(one, Subscription) else Subscription(one) for one in sources]
    names: set[str] = set()
    for one in found:
        if one.source.name in names:
            raise DefinitionError(f"two sources are named {one.source.name!r}; give one of them another name=")
        names.add(one.source.name)
    return found
