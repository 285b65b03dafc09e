"""Which worker may deliver the commands of an outbox, and until when.

    deliver, attempt ─► [lease] ─► journal (a later `due_at`), queue (a claim, a renewal)

Every record that is written leases its outbox to the worker that writes it. While a command handler takes long, or an
attempt has to wait, the lease is prolonged by moving `due_at` alone, without a record. If another worker has changed the
instance meanwhile, or a timer is due before the lease ends, the lease is written into the record for others to see.
"""

from __future__ import annotations

import asyncio

from ..decision.entries import Command
from ..errors import JournalUnavailableError
from ..journal import Journal
from ..journal.protocol import MovedDue
from .commit import due_moments
from .engine import Engine
from .envelope import Envelope, Maintenance
from .failures import passes_through
from .instance import Instance

_FIRST_LOOK = 1 / 256  # of a lease: 20 ms of the default
MAX_LEASES = 12  # up to which a lease in the record grows, because each renewal is a write
_MAX_MOVES = 500  # of one call
_PROLONGING = "prolonging leases"
_MAX_ALIKE = 100  # due ids that begin with the id of an instance


class Leases:
    """The leases of this worker, and those of others that it waits for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept: dict[Instance, None] = {}  # instances with a command under way
        self._to_move: list[Instance] = []
        self._tick: asyncio.TimerHandle | None = None

    def check(self, instance: Instance) -> None:
        """Give up the outbox if our lease on it has ended: this process was frozen, and another may be delivering.

        Otherwise a worker that wakes up would deliver everything it still has in memory again, out of order.
        """
        end = instance.deliveries.lease_end
        if end is None or self._engine.alone or self._engine.now() <= end:
            return
        instance.deliveries.disown_all()
        instance.read_again()
        instance.poke(Envelope(Maintenance.RECORD))

    def keep(self, instance: Instance) -> None:
        """Keep prolonging the lease of an instance until `let_go`."""
        self._kept[instance] = None
        if self._tick is None and not self._engine.alone:
            self._tick = self._engine.loop.call_later(self._engine.seconds.lease / 4, self._renew)

    def let_go(self, instance: Instance) -> None:
        """Stop prolonging the lease of an instance, unless one of its commands is still carried out."""
        if instance.deliveries.carries_out:
            return
        self._kept.pop(instance, None)
        instance.deliveries.lease_seconds, instance.deliveries.contested = 0.0, False

    def _renew(self) -> None:
        self._tick = None
        engine = self._engine
        lease = engine.seconds.lease
        for instance in self._kept:
            ours = instance.deliveries
            left = lease if ours.lease_end is None else (ours.lease_end - engine.now()).total_seconds()
            if left > max(lease, ours.lease_seconds) * 0.55:
                continue
            if ours.contested:
                ours.lease_seconds = min(2 * max(ours.lease_seconds, lease / 2), MAX_LEASES * lease)
                instance.poke(Envelope(Maintenance.RENEW))
            else:
                self._move_soon(instance)
        if self._kept:
            self._tick = engine.loop.call_later(lease / 4, self._renew)

    def prolong(self, instance: Instance) -> None:
        """Keep others from taking over before our next attempt, at `next_attempt_at`."""
        if self._engine.alone:
            return
        if instance.deliveries.contested:
            instance.poke(Envelope(Maintenance.RENEW))
        else:
            self._move_soon(instance)

    def _move_soon(self, instance: Instance) -> None:
        """Prolong its lease, together with all others that ask before the event loop turns."""
        self._to_move.append(instance)
        if len(self._to_move) == 1:
            self._engine.spawn(self._move_all())

    async def _move_all(self) -> None:
        instances, self._to_move = self._to_move, []
        by_journal: dict[Journal, list[tuple[Instance, MovedDue]]] = {}
        for instance in instances:
            if instance.under_way:
                continue  # what it writes begins a new lease; if it writes nothing, the next check comes in time
            move = self._move_of(instance)
            if move is None or instance.runtime.journal is None:
                instance.poke(Envelope(Maintenance.RENEW))
            else:
                by_journal.setdefault(instance.runtime.journal, []).append((instance, move))
        for journal, moves in by_journal.items():
            for first in range(0, len(moves), _MAX_MOVES):
                await self._move(journal, moves[first : first + _MAX_MOVES])

    def _move_of(self, instance: Instance) -> MovedDue | None:
        """Return how to move `due_at`. None: the lease has to be written into the record."""
        record = instance.cached.record
        if record is None or not instance.cached.loaded or not record.owes_delivery:
            return None
        lease_end, due_at = due_moments(instance, record, self._engine.now())
        return MovedDue(instance.persistence_id, instance.cached.version, due_at) if due_at == lease_end else None

    async def _move(self, journal: Journal, moves: list[tuple[Instance, MovedDue]]) -> None:
        try:
            moved = await journal.move_due([move for _, move in moves])
            if len(moved) != len(moves):
                raise JournalUnavailableError(f"{len(moved)} answers for {len(moves)} moves")
        except BaseException as error:  # the move is tried again well before the lease ends
            if passes_through(error):
                raise
            self._engine.complain(_PROLONGING, error)
            return
        self._engine.succeeded(_PROLONGING)
        for (instance, move), done in zip(moves, moved, strict=True):
            if not done and instance.cached.version == move.sequence_nr:
                instance.deliveries.contested = True  # another worker has changed it
                instance.read_again()
                instance.poke(Envelope(Maintenance.RENEW))
            elif done and instance.cached.version == move.sequence_nr:
                instance.deliveries.leased_until(move.due_at)

    def watch(self, instance: Instance, entry: Command) -> None:
        """Wait for the worker that saved `entry`; claim it once its lease must have ended.

        That is one lease after we first saw it, or later if the record says so: a worker that renews, or waits for
        its next attempt, is alive.
        """
        engine = self._engine
        if engine.alone:  # the entry is from an earlier run
            instance.poke(Envelope(Maintenance.TAKE_OVER))
            return
        now, lease = engine.loop.time(), engine.seconds.lease
        deliveries = instance.deliveries
        if deliveries.foreign is None or deliveries.foreign[0] != entry.id:
            deliveries.foreign = (entry.id, now + lease)
        until = instance.cached.record.leased_until if instance.cached.record is not None else None
        if until is not None:
            renewed = now + (until - engine.now()).total_seconds()
            deliveries.foreign = (entry.id, max(deliveries.foreign[1], renewed))
        left = deliveries.foreign[1] - now
        waited = max(0.0, lease - left)
        # Soon, because other commands wait behind it; less and less often, because each costs a load.
        pause = max(0.0, min(left, max(lease * _FIRST_LOOK, waited)))
        deliveries.wait(engine.loop.call_later(pause, self._look_at_foreign, instance))

    def _look_at_foreign(self, instance: Instance) -> None:
        """Claim an entry of another worker if its lease must have ended; otherwise see what has become of it."""
        deliveries = instance.deliveries
        deliveries.look()
        if self._engine.stopping.is_set():
            return
        if deliveries.foreign is not None and self._engine.loop.time() < deliveries.foreign[1]:
            instance.read_again()  # the command may be accepted and recorded by now
            instance.poke(Envelope(Maintenance.RECORD))
        elif instance.runtime.journal is None or instance.cached.version == instance.cached.written:
            instance.read_again()  # the record may hold a lease by now, so what is stored decides
            instance.poke(Envelope(Maintenance.TAKE_OVER))
        else:
            self._engine.spawn(self._claim_if_due(instance, instance.runtime.journal))

    async def _claim_if_due(self, instance: Instance, journal: Journal) -> None:
        """Claim an entry whose lease must have ended, unless its worker has moved the lease: then it is alive."""
        engine = self._engine
        try:
            due = await journal.due_ids(instance.persistence_id, engine.now(), limit=_MAX_ALIKE)
        except BaseException as error:
            if passes_through(error):
                raise
            due = []  # looked at again
        instance.read_again()
        if any(persistence_id == instance.persistence_id for persistence_id, _ in due):
            instance.poke(Envelope(Maintenance.TAKE_OVER))
            return
        deliveries = instance.deliveries
        if deliveries.foreign is not None:
            deliveries.foreign = (
                deliveries.foreign[0],
                engine.loop.time() + engine.seconds.lease / 2,
            )
        instance.poke(Envelope(Maintenance.RECORD))

    def stop(self) -> None:
        """Stop prolonging all leases."""
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        self._kept.clear()
