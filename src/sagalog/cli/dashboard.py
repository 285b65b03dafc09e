"""`sagalog dashboard`: serve the dashboard of a journal, until it is told to stop."""

from __future__ import annotations

import asyncio
import secrets
import sys
import webbrowser
from typing import TYPE_CHECKING, Any

import click

from ..errors import DefinitionError, MissingExtraError
from ..journal import open_existing
from .journals import journal_option
from .listening import graceful_server, listen
from .targets import load_runner
from .text import clean

if TYPE_CHECKING:
    from ..dashboard import Dashboard


@click.command("dashboard")
@journal_option
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="The port; 0 takes any free one."
)
@click.option(
    "--token",
    envvar="SAGALOG_DASHBOARD_TOKEN",
    help="The token to sign in with, at least 16 characters. SAGALOG_DASHBOARD_TOKEN is safer: other users can see "
    "arguments.",
)
@click.option("--mask", "masks", multiple=True, metavar="FIELD", help="Hide a payload field, e.g. password or card.*")
@click.option(
    "--allowed-host", "hosts", multiple=True, metavar="NAME", help="A host name that requests may use, behind a proxy."
)
@click.option("--open", "open_browser", is_flag=True, help="Open it in a browser.")
@click.option(
    "--open-reading",
    is_flag=True,
    help="Allow reading without signing in; only where neither others nor a proxy can reach this machine.",
)
@click.option("--runner", "target", metavar="MODULE:RUNNER", help="Send events to its sagas from a form.")
@click.option("--root-path", default="", metavar="PATH", help="The path that a proxy serves it under, e.g. /sagas.")
def dashboard_(
    url: str,
    host: str,
    port: int,
    token: str | None,
    masks: tuple[str, ...],
    hosts: tuple[str, ...],
    open_browser: bool,
    open_reading: bool,
    target: str | None,
    root_path: str,
) -> None:
    """Serve the dashboard: all sagas in a browser, live, with repairs.

    It listens only on this machine, unless --host says otherwise; then you must set a token. Otherwise one is made
    and printed. Reading needs it too, unless you pass --open-reading: a proxy on this machine could let everybody in
    unnoticed.
    SIGTERM or Ctrl-C stops it.

    \b
    Examples:
      sagalog dashboard --journal sqlite:///orders.db --open
      sagalog dashboard --journal postgresql://shop@db/shop --mask password --mask 'card.*'
      sagalog dashboard --journal sqlite:///orders.db --runner shop.sagas:runner
    """
    from ..dashboard import dashboard_app
    from ..dashboard.access import LOOPBACK
    from ..telemetry.connections import BACKLOG, open_more_files, patient_connections

    try:
        import uvicorn
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"the dashboard needs the package {error.name}: pip install 'sagalog[dashboard]'"
        ) from error
    if root_path and (not root_path.startswith("/") or root_path.endswith("/") or not root_path.isprintable()):
        raise click.UsageError("--root-path must begin with a slash and not end with one: /sagas")
    loopback = host in LOOPBACK
    if not loopback and token is None:
        raise click.UsageError(f"{host} can be reached by others: set a token with SAGALOG_DASHBOARD_TOKEN or --token")
    runner = None if target is None else load_runner(target)
    _check(url)
    given = token is not None
    token = token if token is not None else secrets.token_urlsafe(24)
    names = {*LOOPBACK, *hosts} if loopback else set(hosts)
    if open_reading and (not loopback or hosts):
        raise click.UsageError("--open-reading is for this machine only: not with --host or --allowed-host")
    try:
        app = dashboard_app(url, token=token, open_reading=open_reading, hosts=names, masks=masks, runner=runner)
    except DefinitionError as error:
        raise click.UsageError(str(error)) from error
    open_more_files()
    listening = listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listening.getsockname()[1]}/"
    app_at: Any = _below(app, root_path) if root_path else app
    click.echo(clean(f"dashboard at {address}"), err=True)
    if not given:
        click.echo(f"sign in with this token: {token}", err=True)
    config = uvicorn.Config(
        app_at,
        http=patient_connections(),
        interface="asgi3",
        backlog=BACKLOG,
        log_level="warning",
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    server = graceful_server(uvicorn.Server, config, app.stopping)
    if open_browser:
        webbrowser.open(address)
    server.run(sockets=[listening])
    click.echo("dashboard stopped", err=True)
    sys.exit(0 if server.started else 1)


def _below(app: Dashboard, root_path: str) -> Any:
    """Return the app below a path, whether the proxy takes that path off or not."""

    async def below(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            if path != root_path and not path.startswith(root_path + "/"):
                path = root_path + path
            scope = {**scope, "root_path": root_path, "path": path}
        await app(scope, receive, send)

    return below


def _check(url: str) -> None:
    """Refuse a journal that is named wrongly or is not there, before anything listens. A server may be down."""
    if url.startswith("memory://"):
        raise click.UsageError(
            "a journal in memory belongs to one process: mount dashboard_app in that process instead"
        )
    asyncio.run(_look(url))


async def _look(url: str) -> None:
    await open_existing(url).close()
