"""Worker processes end with their supervisor, also when that is killed: a pipe from it closes then."""

from __future__ import annotations

import os
import signal
import threading
import time

TIE = "SAGALOG_SUPERVISOR"  # the number of the pipe's file descriptor
_GRACE_SECONDS = 60.0  # to stop by itself; one that hangs would keep its work from the workers that come after


def end_with_supervisor() -> None:
    """If this process has a supervisor, stop as on SIGTERM when that is gone, and end for certain a minute later.

    A thread waits, so that an event loop which is stuck keeps nothing alive. What this process starts is not tied.
    """
    number = os.environ.pop(TIE, "")
    if not number.isascii() or not number.isdecimal():
        return
    tie = int(number)
    try:
        os.set_inheritable(tie, False)
    except OSError:  # inherited by way of somebody who did not pass the pipe on
        return
    threading.Thread(target=_wait, args=(tie,), name="sagalog-supervisor", daemon=True).start()


def _wait(tie: int) -> None:
    os.read(tie, 1)  # nothing is ever written
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
