"""A store of objects as Amazon S3 has it, in memory: enough of it for a broker that keeps its data there.

It outlives the broker, so one that is killed finds on its restart what it had written.
"""

from __future__ import annotations

import hashlib
import threading
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


class Objects:
    """Listens on a free port of this machine until it is closed."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"objects": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def environment(self) -> dict[str, str]:
        """What a client of S3 is told to find it."""
        return {
            "AWS_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Whoever asked was killed."""


def _etag(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()}"'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    objects: Objects

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""

    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).lstrip("/")

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _fail(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        key, objects = self._key(), self.objects
        with objects.lock:
            there = objects.kept.get(key)
            fresh = self.headers.get("If-None-Match") == "*"
            wanted = self.headers.get("If-Match")
            if (fresh and there is not None) or (wanted and (there is None or _etag(there) != wanted)):
                self._fail(412, "PreconditionFailed")
                return
            objects.kept[key] = body
        self._answer(200, headers={"ETag": _etag(body)})

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            self._list(query)
            return
        with self.objects.lock:
            body = self.objects.kept.get(self._key())
        if body is None:
            self._fail(404, "NoSuchKey")
            return
        told = {"ETag": _etag(body), "Last-Modified": formatdate(usegmt=True)}
        if self.headers.get("If-None-Match") == told["ETag"]:
            self._answer(304, headers=told)
            return
        wanted = self.headers.get("Range")
        if wanted is None:
            self._answer(200, body, told)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        begin, end = int(first), min(int(last or len(body)), len(body) - 1)
        told["Content-Range"] = f"bytes {begin}-{end}/{len(body)}"
        self._answer(206, body[begin : end + 1], told)

    do_HEAD = do_GET

    def do_DELETE(self) -> None:
        with self.objects.lock:
            self.objects.kept.pop(self._key(), None)
        self._answer(204)

    def _list(self, query: dict[str, list[str]]) -> None:
        """All in one page."""
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        bucket = self._key().split("/")[0]
        with self.objects.lock:
            kept = dict(self.objects.kept)
        found, folders = [], set()
        for name in sorted(kept):
            inside, _, key = name.partition("/")
            if inside != bucket or not key.startswith(prefix) or key <= query.get("start-after", [""])[0]:
                continue
            head, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if cut:
                folders.add(prefix + head + delimiter)
                continue
            found.append(
                f"<Contents><Key>{escape(key)}</Key><Size>{len(kept[name])}</Size><ETag>{_etag(kept[name])}</ETag>"
                "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            )
        common = [f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in sorted(folders)]
        body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(found + common)}</ListBucketResult>"
        self._answer(200, body.encode(), {"Content-Type": "application/xml"})
