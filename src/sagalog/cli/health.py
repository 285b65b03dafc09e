"""`sagalog health`: ask a worker, or a journal, how it is; made for the probes of containers."""

from __future__ import annotations

import asyncio
import http.client
import sys
import urllib.error
import urllib.request

import click
import msgspec
from click.core import ParameterSource

from ..errors import JournalError
from ..runner.health import Health, examine_journal, failing
from .durations import Seconds
from .journals import reading
from .text import clean, without_secrets


@click.command("health")
@click.argument("address", metavar="[HOST:PORT|URL]", required=False)
@click.option("--journal", "url", envvar="SAGALOG_JOURNAL", help="Ask a journal instead of a worker.")
@click.option("--live", is_flag=True, help="Ask only whether the worker is alive, not whether it is ready.")
@click.option("--timeout", "timeout_seconds", type=Seconds(0.1), default=5.0, show_default=True, help="In seconds.")
@click.option(
    "--behind",
    "behind_seconds",
    type=Seconds(0),
    default=30.0,
    show_default=True,
    help="With --journal: how many seconds due work may wait.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def health_(
    context: click.Context,
    address: str | None,
    url: str | None,
    live: bool,
    timeout_seconds: float,
    behind_seconds: float,
    as_json: bool,
) -> None:
    """Check a worker that was started with `--http`, or whether any worker takes the due work of a journal.

    Exit code 0: healthy; 1: not healthy, and the output says why; 2: the command line is wrong.

    \b
    Examples:
      sagalog health 127.0.0.1:8080
      sagalog health http://worker-1:8080 --live
      sagalog health --journal postgresql://reader@db/shop --behind 60
    """
    by_hand = context.get_parameter_source("url") is ParameterSource.COMMANDLINE
    if address is not None and by_hand:
        raise click.UsageError("give a worker or a journal, not both")
    if address is not None and "://" in address and not address.startswith(("http://", "https://")):
        raise click.UsageError("a journal's URL goes behind --journal; a worker is HOST:PORT, or begins with http")
    if address is not None:
        well, body = _ask_worker(address, "/live" if live else "/ready", timeout_seconds)
    elif url is None:
        raise click.UsageError("give a worker (sagalog health 127.0.0.1:8080) or a journal (--journal URL)")
    elif live:
        raise click.UsageError("--live asks a worker; a journal cannot answer it")
    else:
        health = asyncio.run(_ask_journal(url, timeout_seconds, behind_seconds))
        well, body = health.ready, msgspec.json.encode(health)
    said = "live" if live else "ready"
    if as_json:
        click.echo(body.rstrip())
    else:
        click.echo(said if well else f"not {said}")
        for reason in _reasons(body):
            click.echo(f"  {clean(reason)}")
    sys.exit(0 if well else 1)


async def _ask_journal(url: str, timeout_seconds: float, behind_seconds: float) -> Health:
    try:
        return await _asked(url, timeout_seconds, behind_seconds)
    except JournalError as error:  # it cannot even be opened
        return Health(live=True, ready=False, reasons=(f"{type(error).__name__}: {error}",))


async def _asked(url: str, timeout_seconds: float, behind_seconds: float) -> Health:
    async with reading(url) as journal:
        health = await examine_journal(journal, timeout_seconds=timeout_seconds, behind_seconds=behind_seconds)
        found = await failing(journal, timeout_seconds) if health.ready else ()
        return msgspec.structs.replace(health, ready=False, reasons=found) if found else health


def _ask_worker(address: str, path: str, timeout_seconds: float) -> tuple[bool, bytes]:
    url = address if address.startswith(("http://", "https://")) else f"http://{address}"
    scheme, _, rest = url.partition("://")
    if "/" not in rest.rstrip("/"):
        url = f"{scheme}://{rest.rstrip('/')}{path}"
    where = without_secrets(url)
    # No proxy, whatever the environment says: a probe asks the worker itself.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout_seconds) as answer:
            return True, answer.read(_MAX_ANSWER)
    except urllib.error.HTTPError as refused:
        body = refused.read(_MAX_ANSWER)
        return False, body if refused.code == 503 else _unwell(f"{where} answers {refused.code}")
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, TimeoutError):
            return False, _unwell(f"{where} does not answer within {timeout_seconds:g} s")
        if isinstance(reason, http.client.HTTPException):
            return False, _unwell(f"{where} does not speak HTTP, or is not an address ({type(reason).__name__})")
        return False, _unwell(f"{where}: {reason}")


def _unwell(reason: str) -> bytes:
    return msgspec.json.encode({"live": False, "ready": False, "reasons": [reason]})


_MAX_ANSWER = 1 << 20  # bytes


class _Said(msgspec.Struct):
    reasons: list[str] = []


def _reasons(body: bytes) -> list[str]:
    try:
        return msgspec.json.decode(body, type=_Said).reasons
    except msgspec.DecodeError:
        return []
