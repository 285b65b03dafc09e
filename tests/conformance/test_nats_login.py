"""How a NATS journal finds its servers and logs in there; each way against a server that wants it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import pytest

from sagalog import BrokerUnavailableError, DefinitionError, JournalUnavailableError, open_journal
from sagalog.brokers.nats.connection import NatsConnection
from sagalog.conformance.records import record, replay, write
from sagalog.journal.nats import NatsJournal
from sagalog.journal.nats.login import Files, Login

from ..servers.nats import Nats
from ..servers.nats_login import certificates, nkey, with_credentials

Start = Callable[[str], Nats]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    servers: list[Nats] = []

    def one(extra: str) -> Nats:
        server = Nats(tmp_path / f"nats{len(servers)}", 1, extra=extra)
        servers.append(server)
        server.start()
        return server

    yield one
    for server in servers:
        server.stop()


async def works(url: str) -> None:
    async with open_journal(f"{url}{'&' if '?' in url else '?'}migrate=true&connect_seconds=5") as journal:
        await write(journal, "p", 1)
        assert await replay(journal, "p") == [1]


async def is_refused(url: str, message: str) -> None:
    journal = open_journal(f"{url}{'&' if '?' in url else '?'}migrate=true&connect_seconds=3")
    with pytest.raises(JournalUnavailableError, match=message):
        await journal.open()
    await journal.close()


async def test_a_password_is_decoded_and_each_server_has_its_own(start: Start) -> None:
    password = "p/a?s#s@w%o:r,d"
    users = f'authorization {{ users: [{{user: "sh@p", password: "{password}"}}] }}\n'
    server = start(users)
    login = f"{quote('sh@p', safe='')}:{quote(password, safe='')}"
    await works(f"nats://{login}@127.0.0.1:{server.ports[0]}")
    for away in ("other:pass@127.0.0.1:1,", "127.0.0.1:1,", "nats://other:pass@127.0.0.1:1,nats://"):
        rest = f"{away}{login}@127.0.0.1:{server.ports[0]}".removeprefix("nats://")
        await works(f"nats://{rest}?stream=s{len(rest)}")


async def test_a_token_logs_in(start: Start) -> None:
    server = start('authorization { token: "a/b" }\n')
    await works(f"nats://a%2Fb@127.0.0.1:{server.ports[0]}")
    await is_refused(f"nats://wrong@127.0.0.1:{server.ports[0]}", "user, password, token,")


async def test_a_client_certificate_is_shown_and_the_root_is_checked(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    certificates(folder)
    server = start(
        f'tls {{ cert_file: "{folder}/server.pem", key_file: "{folder}/server.key", '
        f'ca_file: "{folder}/ca.pem", verify: true }}\n'
    )
    host = f"127.0.0.1:{server.ports[0]}"
    client = f"tls_cert={folder}/client.pem&tls_key={folder}/client.key"
    for scheme in ("nats", "tls"):
        await works(f"{scheme}://{host}?tls_ca={folder}/ca.pem&{client}&stream={scheme}")
    await is_refused(f"nats://{host}?{client}", "cannot agree on TLS")
    await is_refused(f"nats://{host}?tls_ca={folder}/ca.pem", "cannot agree on TLS")


async def test_an_nkey_seed_logs_in(start: Start, tmp_path: Path) -> None:
    user, seed = nkey("user")
    server = start(f"authorization {{ users: [{{ nkey: {user.public_key.decode()} }}] }}\n")
    (tmp_path / "user.nk").write_bytes(seed + b"\n")
    await works(f"{server.url}?nkey={tmp_path}/user.nk")
    (tmp_path / "other.nk").write_bytes(nkey("user")[1])
    await is_refused(f"{server.url}?nkey={tmp_path}/other.nk", "password, token, credentials or nkey file is wrong:")


async def test_a_credentials_file_logs_in(start: Start, tmp_path: Path) -> None:
    server = start(with_credentials(tmp_path / "user.creds"))
    await works(f"{server.url}?credentials={tmp_path}/user.creds")


@pytest.mark.parametrize("denied", ["$JS.API.STREAM.INFO.*", "$JS.API.STREAM.MSG.GET.*", "sagalog.>"])
async def test_a_missing_permission_is_told_as_that_at_once(start: Start, denied: str) -> None:
    users = f'{{user: a, password: a}}, {{user: b, password: b, permissions: {{publish: {{deny: "{denied}"}}}}}}'
    server = start(f"authorization {{ users: [{users}] }}\n")
    await works(f"nats://a:a@127.0.0.1:{server.ports[0]}")
    journal = open_journal(f"nats://b:b@127.0.0.1:{server.ports[0]}?timeout_seconds=60&connect_seconds=60")
    with pytest.raises(JournalUnavailableError, match="has no permission for publish to"):
        await journal.latest_message("p")
        await journal.write_messages([record("p", 2)])
    await journal.close()


@pytest.mark.parametrize("mark", ["/", "?", "#", "@", "%", "?stream="])
async def test_a_password_that_is_not_encoded_is_never_shown(mark: str) -> None:
    for url in (f"nats://shop:hunter2{mark}secret@host", f"nats://shop:{mark}hunter2@127.0.0.1:1?connect_seconds=0.1"):
        try:
            journal = open_journal(url)
            await journal.open()
        except (DefinitionError, JournalUnavailableError) as error:
            assert "hunter2" not in str(error)
            assert "secret" not in str(error)
        else:
            pytest.fail("there is no such server")


@pytest.mark.parametrize(
    "settings",
    [
        {"connect_timeout": float("nan")},
        {"connect_timeout": timedelta(seconds=-1)},
        {"timeout": float("inf")},
        {"timeout": "5"},
        {"timeout": True},
        {"replicas": True},
        {"replicas": 3.0},
        {"migrate": "yes"},
        {"stream": None},
        {"tls": 1},
        {"tls_ca": "missing.pem"},
        {"tls_cert": __file__},
        {"tls_ca": __file__},
        {"credentials": 5},
        {"nkey": "missing\0"},
    ],
)
def test_an_odd_setting_is_refused_by_its_name(settings: dict[str, object]) -> None:
    (name,) = settings
    with pytest.raises(DefinitionError, match="stream" if name == "stream" else name):
        NatsJournal("nats://host", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["nats://host:bad", "nats://", "nats://a,,b", "http://host", "host", "nats://h:0"])
def test_an_odd_url_is_refused(url: str) -> None:
    with pytest.raises(DefinitionError):
        NatsJournal(url)
    with pytest.raises(DefinitionError):
        NatsJournal(None)  # type: ignore[arg-type]


def test_several_servers_are_all_kept() -> None:
    login = Login("nats://u:p@a,nats://b:5,[::1]:6", Files())
    assert login.servers == ["nats://a", "nats://b:5", "nats://[::1]:6"]
    assert Login("tls://a,b", Files()).servers == ["tls://a", "tls://b"]
    assert Login("nats://a,tls://b", Files()).place == "a,b"


@contextmanager
def server_without_tls() -> Iterator[tuple[str, bytearray]]:
    """A server that greets in the clear, and hears what is said to it; or somebody on the way, who passes for it."""
    heard = bytearray()
    info = {"server_id": "x", "version": "2.10.0", "headers": True, "max_payload": 1_048_576, "auth_required": True}
    info["nonce"] = "nonce"

    def serve() -> None:
        with suppress(OSError):
            while True:
                with listener.accept()[0] as connection, suppress(OSError):
                    heard.extend(b"somebody came: ")
                    connection.sendall(b"INFO " + json.dumps(info).encode() + b" \r\n")
                    heard.extend(connection.recv(4096))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", heard
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("url", ["tls://shop:secret@{}?x", "nats://shop:secret@{}?tls=true"])
async def test_who_asks_for_tls_tells_no_secret_to_a_server_that_has_none(url: str) -> None:
    with server_without_tls() as (host, heard):
        journal = open_journal(
            f"{url.format(host).removesuffix('?x')}{'&' if 'tls=' in url else '?'}connect_seconds=30"
        )
        with pytest.raises(JournalUnavailableError, match="cannot agree on TLS"):
            await journal.open()
        await journal.close()
        assert heard
        assert b"secret" not in heard


async def test_a_source_that_asks_for_tls_tells_no_secret_to_a_server_that_has_none() -> None:
    with server_without_tls() as (host, heard):
        connection = NatsConnection(f"tls://shop:secret@{host}", None, timedelta(seconds=1), timedelta(seconds=1))
        with pytest.raises(BrokerUnavailableError):
            await connection.client()
        assert heard
        assert b"secret" not in heard


@pytest.mark.parametrize("setting", ["nkey", "credentials"])
@pytest.mark.parametrize("text", ["", "x", "SUAXX", "-----BEGIN USER NKEY SEED-----\nx\n", "\x00\xff", "ü" * 99])
async def test_a_file_that_is_no_key_is_an_error_of_ours(tmp_path: Path, setting: str, text: str) -> None:
    (tmp_path / "file").write_text(text)
    with server_without_tls() as (host, _):
        journal = open_journal(f"nats://{host}?{setting}={tmp_path}/file&connect_seconds=0.2")
        with pytest.raises((DefinitionError, JournalUnavailableError)):
            await journal.open()
        await journal.close()
