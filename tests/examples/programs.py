"""The programs of an example's README: what it says to start is started, on ports that are free, and killed at will."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]


WEB, OUTSIDE = ":8000", ":9000"  # the ports that a README shows


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


@asynccontextmanager
async def started(
    readme: Path, ready: Mapping[str, str], *names: str, folder: Path = ROOT, **environment: str
) -> AsyncIterator[dict[str, Program]]:
    """The programs that a README starts with `&`, or those of these names, in `folder`.

    `ready`: what each says when it is ready, by name. PORT and OUTSIDE_PORT of the environment stand for 8000 and 9000.
    """
    commands = [line for line in shown(readme, "sh")[0].splitlines() if line.endswith("&")]
    programs: dict[str, Program] = {}
    for (name, word), command in zip(ready.items(), commands, strict=True):
        command = command.replace("8000", environment["PORT"]).replace("9000", environment["OUTSIDE_PORT"])
        if not names or name in names:
            programs[name] = Program(command, word, where(folder, **environment), folder)
    try:
        await asyncio.gather(*(program.start() for program in programs.values()))
        yield programs
        codes = await asyncio.gather(*(program.stop() for program in programs.values()))
        assert {*codes} <= {0, -signal.SIGTERM}  # some end by the signal that told them to
    finally:
        for program in programs.values():
            await program.kill()


async def prints_what_it_shows(readme: Path, **environment: str) -> None:
    """Run the commands that a README shows with what they print. One that only asks is run until it is told that."""
    if shutil.which("curl") is None:
        pytest.skip("there is no curl on this machine")
    commands = re.findall(r"\$ (.*)\n((?:(?!\$ ).*\n)*)", "".join(shown(readme, "console")))
    assert len(commands) >= 5
    for command, expected in commands:
        command = command.replace(WEB, f":{environment['PORT']}").replace(OUTSIDE, f":{environment['OUTSIDE_PORT']}")
        if "--json" in command or "-X POST" in command:
            assert await _printed(command) == expected, command
        else:
            while await _printed(command) != expected:
                await asyncio.sleep(0.05)


async def _printed(command: str) -> str:
    process = await asyncio.create_subprocess_exec("bash", "-c", command, stdout=PIPE)
    return (await process.communicate())[0].decode().rstrip("\n") + "\n"


async def patiently(client: httpx.AsyncClient, path: str, body: Any = None, *, key: str = "") -> httpx.Response:
    """Post it, again and again until it is answered: nobody knows whether what was not answered is stored."""
    async with asyncio.timeout(120):
        while True:
            try:
                answer = await client.post(path, json=body, headers={"idempotency-key": key} if key else {})
            except httpx.TransportError:
                await asyncio.sleep(0.05)
                continue
            assert answer.status_code < 300, answer.text
            return answer
