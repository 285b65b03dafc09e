"""What a worker answers over HTTP: `/live` and `/ready` as JSON, and `/metrics` where the extra `prometheus` is there.

200: yes; 503: no, and `reasons` say why.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from ..errors import MissingExtraError
from ..runner import Health, SagaRunner
from .http import Address, Answer, HttpServer

if TYPE_CHECKING:
    from .prometheus import PrometheusHook

_JSON = "application/json"
NO_METRICS = Answer(404, b"metrics need the package prometheus_client: pip install 'sagalog[prometheus]'\n")


def with_metrics(runner: SagaRunner) -> SagaRunner:
    """Return the runner with a PrometheusHook, its own or a new one on the default registry; as it is without the extra."""
    hook = _prometheus()
    if hook is None or _hook_of(runner) is not None:
        return runner
    return runner.using(hooks=[hook()], sources=True)


def probes(runner: SagaRunner, address: str | Address) -> HttpServer:
    """Return a server, to be entered with `async with`, that answers for this runner while it starts, runs and stops.

    Raises DefinitionError for an address that is none, and (when entered) for one that is taken.
    """
    where = address if isinstance(address, Address) else Address.parse(address)

    async def live() -> Answer:
        return _said((health := await runner.health()), yes=health.live)

    async def ready() -> Answer:
        return _said((health := await runner.health()), yes=health.ready)

    async def metrics() -> Answer:
        hook = _hook_of(runner)
        if hook is None:
            return NO_METRICS
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return Answer(200, generate_latest(hook.registry), CONTENT_TYPE_LATEST)

    return HttpServer(where, routes(live, ready, metrics))


Route = Callable[[], Awaitable[Answer]]


def routes(live: Route, ready: Route, metrics: Route) -> dict[str, Route]:
    """Return the three paths."""
    return {"/live": live, "/ready": ready, "/metrics": metrics}


def _said(health: Health, *, yes: bool) -> Answer:
    return Answer(200 if yes else 503, msgspec.json.encode(health) + b"\n", _JSON)


def _prometheus() -> type[PrometheusHook] | None:
    try:
        from .prometheus import PrometheusHook
    except MissingExtraError:
        return None
    return PrometheusHook


def _hook_of(runner: SagaRunner) -> PrometheusHook | None:
    kind = _prometheus()
    return None if kind is None else next((hook for hook in runner.hooks if isinstance(hook, kind)), None)
