"""The state in a record, as the saga's code reads it."""

from __future__ import annotations

from typing import Any

from ..definition.saga import Saga
from ..errors import CodecError
from .record import SagaRecord


class UnreadableStateError(CodecError):
    """The stored state, or phase, cannot be read by this code: parked in memory, the journal is left as it is."""


def decode_state(saga: Saga[Any], record: SagaRecord) -> Any:
    """Return the state, upcast if an older version is stored. Raises UnreadableStateError, which names no values."""
    was = ""
    try:
        payload = record.state_bytes()
        if record.state_version != saga.state_version():
            payload = saga.upcast_state(payload, record.state_version)
            was = f"upcast from schema version {record.state_version}: "
        return saga.decode_state(payload)
    except CodecError as error:
        raise UnreadableStateError(f"{was}{error}") from error
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the user's own decoder; its message may quote the state
        raise UnreadableStateError(f"{was}decode_state raised {type(error).__name__}") from error
