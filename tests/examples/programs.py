"""The programs of an example's README: what it says to start is started, on ports that are free, and killed at will."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]


def shown(readme: Path, language: str) -> list[str]:
    """Return the blocks of a language that a README shows."""
    return re.findall(rf"```{language}\n(.*?)```", readme.read_text(), re.S)


def where(folder: Path = ROOT, **environment: str) -> dict[str, str]:
    """Return an environment in which the commands are found, and the modules below a folder."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "PATH": path,
        "PYTHONPATH": f"{ROOT / 'src'}:{folder}",
        **environment,
    }


class Program:
    """One that runs until it is told to end; started anew under the same command."""

    def __init__(self, command: str, ready: str, environment: Mapping[str, str], folder: Path = ROOT) -> None:
        self._argv = shlex.split(command.removesuffix("&"))
        self._ready, self._environment, self._folder = ready, environment, folder
        self._process: Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self.said: list[str] = []

    async def start(self) -> None:
        """Start it, and wait until it says that it is ready."""
        self._process = process = await asyncio.create_subprocess_exec(
            *self._argv, cwd=self._folder, env=dict(self._environment), stdout=PIPE, stderr=asyncio.subprocess.STDOUT
        )
        is_ready = asyncio.Event()
        self._reading = asyncio.create_task(self._read(process, is_ready))
        async with asyncio.timeout(60):
            await is_ready.wait()
        assert process.returncode is None, "".join(self.said)

    async def _read(self, process: Process, is_ready: asyncio.Event) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            self.said.append(line.decode())
            if self._ready in self.said[-1]:
                is_ready.set()
        await process.wait()
        is_ready.set()  # it has ended: there is nothing more to wait for

    async def kill(self) -> None:
        """End it by SIGKILL. Calling it again has no effect."""
        if self._process is not None:
            if self._process.returncode is None:
                self._process.kill()
            await self._ended()

    async def restart(self) -> None:
        """End it by SIGKILL, and start it anew."""
        await self.kill()
        await self.start()

    async def stop(self) -> int:
        """Tell it to end, and return its exit code. One that was never started has ended well."""
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._process.terminate()
        return await self._ended()

    async def _ended(self) -> int:
        assert self._process is not None
        assert self._reading is not None
        await asyncio.wait_for(self._reading, 60)
        assert self._process.returncode is not None
        return self._process.returncode
