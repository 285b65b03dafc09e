"""A real runner whose clock moves when told, and whose commands are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, Self

from ..definition.saga import Saga
from ..runner import CommandContext, ManualClock, Receipt, RunnerSettings, SagaRunner


class VirtualRunner:
    """`async with saga_runner([OrderSaga]) as runner`: `handle`, `after`, `sent`, and the `runner` itself.

    `dispatch` answers commands; without one, each is accepted. `sent` has every command that reached it, in order.
    """

    def __init__(
        self,
        journal: str,
        sagas: Iterable[Saga[Any] | type[Saga[Any]]],
        dispatch: Callable[[Any], Any] | None,
        settings: RunnerSettings | None,
    ) -> None:
        self.clock: ManualClock = ManualClock()
        self.sent: list[Any] = []
        self._dispatch = dispatch
        self.runner: SagaRunner = SagaRunner(
            journal, sagas=sagas, dispatch=self._answer, clock=self.clock, settings=settings
        )

    def __repr__(self) -> str:
        return f"<VirtualRunner of {self.runner!r} at {self.clock.now().isoformat()}>"

    def _answer(self, command: Any, context: CommandContext) -> Any:
        self.sent.append(command)
        return None if self._dispatch is None else self._dispatch(command)

    async def handle(self, event: Any, *, message_id: str | None = None) -> Receipt:
        """Handle an event, and do all there is to do now."""
        receipt = await self.runner.handle(event, message_id=message_id)
        await self.runner.settle()
        return receipt

    async def after(self, passed: timedelta) -> None:
        """Let time pass at once, and do what falls due; a timer that is set meanwhile counts from the end."""
        self.clock.advance(passed)
        await self.runner.settle()

    async def __aenter__(self) -> Self:
        await self.runner.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.runner.stop()
