"""One answer for several workers on one machine: each listens at a socket of its own, and is asked when somebody asks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from ..runner import Health
from .http import Address, Answer, ask
from .probes import NO_METRICS, Route, routes

if TYPE_CHECKING:
    from prometheus_client import Metric

# Longer than a worker takes to give up on its journal, shorter than probes are usually patient.
_PATIENCE = 3.0


class Fleet(msgspec.Struct, frozen=True):
    """The health of all: live if no running worker is stuck or broken, ready if every one is."""

    live: bool
    ready: bool
    reasons: tuple[str, ...]
    workers: tuple[Health | None, ...]  # None: it does not answer


def probes_of_all(workers: Sequence[Address], *, patience_seconds: float = _PATIENCE) -> dict[str, Route]:
    """Return the routes that answer for workers at these addresses, numbered from 1 in this order."""

    async def everyone(path: str) -> list[Answer | OSError | TimeoutError]:
        return await asyncio.gather(*(_asked(one, path, patience_seconds) for one in workers))

    async def together() -> Fleet:
        return _together(await everyone("/ready"))

    async def live() -> Answer:
        return _said((health := await together()), yes=health.live)

    async def ready() -> Answer:
        return _said((health := await together()), yes=health.ready)

    async def metrics() -> Answer:
        answers = await everyone("/metrics")
        told = [(n, answer) for n, answer in enumerate(answers, 1) if isinstance(answer, Answer)]
        if told and all(answer.status == 404 for _, answer in told):
            return NO_METRICS
        return _merged((n, answer.body.decode()) for n, answer in told if answer.status == 200)

    return routes(live, ready, metrics)


async def _asked(worker: Address, path: str, patience_seconds: float) -> Answer | OSError | TimeoutError:
    try:
        return await ask(worker, path, timeout_seconds=patience_seconds)
    except (OSError, TimeoutError) as error:
        return error


def _together(answers: Sequence[Answer | OSError | TimeoutError]) -> Fleet:
    found: list[Health | None] = []
    reasons: list[str] = []
    stuck = False
    for number, answer in enumerate(answers, 1):
        if isinstance(answer, Answer) and answer.status in (200, 503):
            health = msgspec.json.decode(answer.body, type=Health)
            found.append(health)
            reasons.extend(f"worker {number}: {reason}" for reason in health.reasons)
            continue
        found.append(None)
        # A worker that is away is being started again, which is no reason to stop the others; one that holds its socket
        # and says nothing (or something is wrong with its answer) is stuck. A TimeoutError is an OSError, too.
        silent = isinstance(answer, (TimeoutError, Answer))
        stuck = stuck or silent
        reasons.append(f"worker {number} {'does not answer: it is stuck' if silent else 'is not running yet'}")
    live = not stuck and all(health is None or health.live for health in found)
    ready = all(health is not None and health.ready for health in found)
    return Fleet(live, ready, tuple(reasons), tuple(found))


def _said(health: Fleet, *, yes: bool) -> Answer:
    return Answer(200 if yes else 503, msgspec.json.encode(health) + b"\n", "application/json")


def _merged(texts: Iterable[tuple[int, str]]) -> Answer:
    """Return the metrics of all workers, told apart by the label `worker`."""
    from prometheus_client import CONTENT_TYPE_LATEST, Metric, generate_latest
    from prometheus_client.parser import text_string_to_metric_families

    families: dict[str, Metric] = {}
    for number, text in texts:
        for family in text_string_to_metric_families(text):
            whole = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                whole.samples.append(sample._replace(labels={**sample.labels, "worker": str(number)}))

    class All:
        def collect(self) -> Iterator[Metric]:
            yield from families.values()

    return Answer(200, generate_latest(All()), CONTENT_TYPE_LATEST)
