"""`sagalog serve`: a runner over HTTP, for programs in other languages, until it is told to stop."""

from __future__ import annotations

import sys

import click

from ..errors import DefinitionError, MissingExtraError
from .listening import graceful_server, listen
from .targets import load_runner
from .text import clean

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@click.command("serve")
@click.argument("target", metavar="MODULE:RUNNER", required=False)
@click.option(
    "--journal",
    "url",
    envvar="SAGALOG_JOURNAL",
    help="Use this journal instead of the runner's, e.g. postgresql://host/orders.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8766, show_default=True, help="The port; 0 takes any free one."
)
@click.option("--tokens", "path", metavar="FILE", help="The tokens, in TOML: name, sha256, scopes, types, per_second.")
@click.option(
    "--new-token", "new_name", metavar="NAME", help="Print a new token and its entry for that file, then exit."
)
@click.option("--work", is_flag=True, help="Also be a worker: carry out commands, fire timers.")
@click.option(
    "--max-body", type=click.IntRange(1), default=256 * 1024, show_default=True, help="The largest event, in bytes."
)
@click.option(
    "--max-in-flight",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="How many events may be handled at once; more get 429.",
)
def serve_(
    target: str | None,
    url: str | None,
    host: str,
    port: int,
    path: str | None,
    new_name: str | None,
    work: bool,
    max_body: int,
    max_in_flight: int,
) -> None:
    """Serve a runner over HTTP: take events as CloudEvents, and report the state and the end of instances.

    Callers need a token: one of --tokens, or the one in SAGALOG_TOKEN, which allows everything. Commands are left to
    workers, unless you pass --work. Put a proxy with TLS in front of it. SIGTERM or Ctrl-C stops it.

    \b
    Examples:
      SAGALOG_TOKEN=... sagalog serve shop.sagas:runner --journal postgresql://shop@db/shop
      sagalog serve --new-token billing >> tokens.toml
      sagalog serve shop.sagas:runner --tokens tokens.toml --work
    """
    import os

    try:
        import uvicorn

        from ..telemetry.connections import BACKLOG, connections_for_bodies, open_more_files
        from ..web.serving import ServedRunner
        from ..web.tokens import new_token, read_tokens, token_of
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"serving needs the package {error.name}: pip install 'sagalog[serve]'") from error
    if new_name is not None:
        try:
            secret, entry = new_token(new_name)
        except DefinitionError as error:
            raise click.UsageError(clean(str(error))) from error
        click.echo(entry, nl=False)
        click.echo(f"the token, which is not stored: {secret}", err=True)
        return
    if target is None:
        raise click.UsageError("give a runner: sagalog serve shop.sagas:runner")
    try:
        tokens = [] if path is None else read_tokens(path)
        if given := os.environ.get("SAGALOG_TOKEN"):
            tokens.append(token_of(given, name="SAGALOG_TOKEN"))
        if not tokens:
            raise click.UsageError("pass tokens with --tokens FILE, or one in SAGALOG_TOKEN (--new-token makes one)")
        runner = load_runner(target).using(journal=url)
        runner = runner.using(client=not work and not runner.in_memory, sources=work)
        app = ServedRunner(runner, tokens, max_body_bytes=max_body, most_in_flight=max_in_flight)
    except DefinitionError as error:
        raise click.UsageError(clean(str(error))) from error
    open_more_files()
    listening = listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    if host not in _LOOPBACK:
        click.echo("tokens and events travel unencrypted: put a proxy with TLS in front of this server", err=True)
    click.echo(clean(f"serving at http://{shown}:{listening.getsockname()[1]}/"), err=True)
    config = uvicorn.Config(
        app,
        http=connections_for_bodies(),
        interface="asgi3",
        backlog=BACKLOG,
        log_level="warning",
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=30,
    )
    server = graceful_server(uvicorn.Server, config, app.stopping)
    server.run(sockets=[listening])
    click.echo("stopped serving", err=True)
    sys.exit(0 if server.started else 1)
