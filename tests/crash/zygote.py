"""Starts workers by fork, so that one lives and dies within milliseconds: imports are paid once, here.

Reads one line of arguments (JSON) for each worker, answers with its pid; reaps them and says how each ended.
"""

from __future__ import annotations

import json
import os
import sys
import traceback

from . import shop


def serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = {"signal": os.WTERMSIG(status)} if os.WIFSIGNALED(status) else {"exit": os.WEXITSTATUS(status)}
        else:
            pid = os.fork()
            if pid == 0:
                try:
                    shop.main(*request["work"])
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
