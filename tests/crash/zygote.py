"""Starts workers by fork, so that one lives and dies within milliseconds: imports are paid once, here.

Reads one line of arguments (JSON) for each worker, answers with its pid; reaps them and says how each ended. When its
own parent goes away, it takes its workers along: a test that is interrupted leaves no process behind.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
import traceback
from typing import Any

from . import seating, shipping, shop, travelling

WAIT_SECONDS = shop.WORKER_SECONDS * 1.5
WORLDS = {"shop": shop.main, "travel": travelling.main, "families": shipping.main, "desks": seating.main}


class _Orphaned(Exception):
    """Nobody asks any more."""


def serve() -> None:
    workers: set[int] = set()
    try:
        while line := _line():
            request = json.loads(line)
            answer = _reap(request["wait"], workers) if "wait" in request else {"pid": _fork(request, workers)}
            os.write(1, json.dumps(answer).encode() + b"\n")
    except (_Orphaned, BrokenPipeError):
        pass
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        more = os.read(0, 65536)
        if not more:
            return b""
        line += more
    return line


def _fork(request: dict[str, Any], workers: set[int]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            WORLDS[request["world"]](*request["work"])
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    workers.add(pid)
    return pid


def _reap(pid: int, workers: set[int]) -> dict[str, object]:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            break
        if select.select([0], [], [], 0.002)[0]:  # the parent waits for our answer: this can only be its end
            raise _Orphaned
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            workers.discard(pid)
            return {"hung": pid}
    workers.discard(pid)
    return {"signal": os.WTERMSIG(status)} if os.WIFSIGNALED(status) else {"exit": os.WEXITSTATUS(status)}


if __name__ == "__main__":
    serve()
    sys.exit(0)
