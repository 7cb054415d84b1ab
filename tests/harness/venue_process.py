"""A fake venue in a process of its own, and the orders that a test can give to any of them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from asyncio.subprocess import Process

ANSWER_WITHIN_S = 10.0
# A ledger after hours of reconnects is one long line.
LONGEST_ANSWER = 64 * 1024 * 1024


class VenueProcess:
    """Starts a module with its settings, speaks one JSON line each way, and ends it with its test."""

    def __init__(self, module: str, settings: dict[str, Any]) -> None:
        self.module, self.settings = module, settings
        self._process: Process | None = None
        self.port = 0

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", self.module, json.dumps(self.settings)),
            env={
                "PATH": os.environ.get("PATH", os.defpath),
                "PYTHONPATH": str(Path(__file__).parents[1]),
            },
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LONGEST_ANSWER,
        )
        self.port = (await self._answer())["port"]
        return self

    async def __aexit__(self, *_: object) -> None:
        process, self._process = self._process, None
        assert process is not None
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), ANSWER_WITHIN_S)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise

    async def _answer(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), ANSWER_WITHIN_S)
        if not line:
            raise RuntimeError("the venue ended; its error is on the standard error of the test")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def order(self, do: str, **details: object) -> dict[str, Any]:
        """Give an order and wait until it is carried out."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **details}).encode() + b"\n")
        await self._process.stdin.drain()
        return await self._answer()

    async def freeze(self) -> dict[str, int]:
        """Stop trading and return the last numbers; everything until them is still sent."""
        return await self.order("freeze")

    async def thaw(self) -> None:
        """Trade on, as if it had never stopped: what time owes comes in a burst."""
        await self.order("thaw")

    async def skip(self, count: int) -> None:
        """Never send the next trades: the venue lost them."""
        await self.order("skip", count=count)

    async def repeat(self, count: int) -> None:
        """Send the last trades again."""
        await self.order("repeat", count=count)

    async def burst(self, seconds: float, times: int) -> None:
        """Trade so many times as much for a while."""
        await self.order("burst", seconds=seconds, times=times)

    async def disconnect(self) -> None:
        """Cut every connection without a word."""
        await self.order("disconnect")

    async def refuse(self, *, on: bool = True) -> None:
        """Answer handshakes with 503, or take them again."""
        await self.order("refuse", on=on)
