"""Writes without an answer that may still land, although they were not there when they were read back.

    round ─► [landing] ─► load finds what landed ─► deliver

The commands in such a record are ours once it is stored, but reading it back at once may be too early: a journal goes on
with the write of a caller that was cancelled, and a server with one whose connection broke. So we look again, until the
lease with which it was written ends.
"""

from __future__ import annotations

from ..errors import JournalUnavailableError, RunnerStoppedError, SagalogError
from ..waiting import Attempts, Waiting
from .envelope import Envelope, Maintenance
from .instance import Instance, Unanswered


def look_for(instance: Instance, entry: Unanswered) -> None:
    """Let each read compare what is stored with a write without an answer, and read now and then for its sake."""
    instance.may_land = (*instance.may_land, entry)
    instance.runtime.engine.spawn(_look_until_landed(instance, entry))


async def _look_until_landed(instance: Instance, entry: Unanswered) -> None:
    """Look until it, or another in its place, is stored. After the lease it is due anyway."""
    engine = instance.runtime.engine
    looks = Attempts(Waiting(first=0.005, most=1.0, seconds=engine.seconds.lease), clock=engine.loop.time)
    try:
        while instance.cached.version < entry.version and (pause := looks.failed()) is not None:
            await engine.back_off(pause)
            instance.read_again()
            try:
                await instance.submit(Envelope(Maintenance.RECORD))
            except (JournalUnavailableError, RunnerStoppedError):
                continue
            except SagalogError:  # it cannot be read, which its next event is told
                return
    except RunnerStoppedError:
        return
    finally:
        instance.may_land = tuple(other for other in instance.may_land if other is not entry)
