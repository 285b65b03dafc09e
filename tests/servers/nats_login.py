"""What nats-server and its clients log in with: certificates, nkeys and credentials, made anew for each test."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any


def certificates(folder: Path) -> None:
    """Make a root (ca.pem), and a certificate with its key for the server and for the client."""

    def run(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "names.txt").write_text(
        "subjectAltName=IP:127.0.0.1,DNS:localhost\nauthorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n"
    )
    signs = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")  # Python 3.13 asks for it, and for the key ids
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=root", "-days", "2", *signs)
    for name in ("server", "client"):
        run("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        sign = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names.txt")
        run("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *sign)


def nkey(kind: str) -> tuple[Any, bytes]:
    """Return a new pair of keys of an operator, account or user, and its seed."""
    import nkeys

    prefix = getattr(nkeys, f"PREFIX_BYTE_{kind.upper()}")
    seed = bytes(nkeys.encode_seed(os.urandom(32), prefix))
    return nkeys.from_seed(bytearray(seed)), seed


def _token(issuer: Any, subject: Any, claims: dict[str, Any]) -> str:
    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    body = {
        "jti": os.urandom(16).hex(),
        "iat": int(time.time()),
        "iss": issuer.public_key.decode(),
        "sub": subject.public_key.decode(),
        "name": "test",
        "nats": {"version": 2, **claims},
    }
    head = part(json.dumps({"typ": "JWT", "alg": "ed25519-nkey"}).encode())
    signed = f"{head}.{part(json.dumps(body).encode())}"
    return f"{signed}.{part(issuer.sign(signed.encode()))}"


def with_credentials(file: Path) -> str:
    """Write a user's credentials file; return what the server's configuration has to say for it."""
    operator, _ = nkey("operator")
    account, _ = nkey("account")
    user, seed = nkey("user")
    limits = {"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": True, "conn": -1}
    storage = {"leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
    account_token = _token(operator, account, {"type": "account", "limits": {**limits, **storage}})
    user_token = _token(account, user, {"type": "user", "subs": -1, "data": -1, "payload": -1})
    file.write_text(
        f"-----BEGIN NATS USER JWT-----\n{user_token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed.decode()}\n------END USER NKEY SEED------\n"
    )
    operator_token = _token(operator, operator, {"type": "operator"})
    system, _ = nkey("account")
    system_token = _token(operator, system, {"type": "account", "limits": limits})
    public, of_system = account.public_key.decode(), system.public_key.decode()
    preload = f"{{ {public}: {account_token}, {of_system}: {system_token} }}"
    return f"operator: {operator_token}\nsystem_account: {of_system}\nresolver: MEMORY\nresolver_preload: {preload}\n"
