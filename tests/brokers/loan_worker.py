"""One of several workers on the loan log in a broker: `python -m tests.brokers.loan_worker KIND JOURNAL URL NAME`.

A line `end <moment>` on standard input lets it handle what is left, fire the timers up to there, and print the report.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import datetime, timedelta

from examples.loans import carry_out, read, report, runner
from sagalog import EventClock, SagaRunner
from sagalog.brokers import Decoded, Source, SourceMessage, Subscription


def decode(message: SourceMessage) -> Decoded:
    incoming = read(json.loads(message.body))
    return Decoded(incoming.event, incoming.message_id or "", at=incoming.at)


def source_of(kind: str, url: str, name: str) -> Source:
    if kind == "kafka":
        from sagalog.brokers.kafka import KafkaSource

        return KafkaSource(url, topic=name, group="loans", session_timeout=timedelta(seconds=6))
    from sagalog.brokers.rabbitmq import RabbitSource

    return RabbitSource(url, queue=name, single=True)


async def main(kind: str, journal: str, url: str, name: str) -> None:
    source = source_of(kind, url, name)
    made = SagaRunner(
        journal,
        sagas=runner.sagas,
        dispatch=carry_out,
        clock=EventClock(),
        settings=runner.settings,
        sources=[Subscription(source, decode=decode, prefetch=400)],
    )
    async with made as working:
        print("ready", flush=True)
        line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        name, _, moment = line.strip().partition(" ")
        if name == "end":
            while working.gauges().sources[0].under_way or (await source.backlog()).messages != 0:
                await asyncio.sleep(0.05)
            working.clock.advance_to(datetime.fromisoformat(moment))  # type: ignore[attr-defined]
            await working.settle()
            print(await report(working), flush=True)


asyncio.run(main(*sys.argv[1:]))
