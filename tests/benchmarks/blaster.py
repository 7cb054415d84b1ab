"""A venue that costs almost nothing: messages made beforehand, written to the socket in blocks of whole frames.

`python -m benchmarks.blaster VENUE COUNT RATE`: prints its port, then sends `COUNT` messages, each once, to whoever
subscribes, at `RATE` a second (0: as fast as the socket takes them). Coinbase sends a ticker after every match, as the
venue's recorded stream has it; Kalshi sends tickers.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from benchmarks.messages import VENUES, open_markets

# Sent as one write, so that the sender's cost per message vanishes beside the receiver's.
BLOCK = 50
HIGH_WATER_BYTES = 2**20
TESTS = Path(__file__).parents[1]
NO_MARKETS = b'{"markets":[],"cursor":""}'


class Venue(NamedTuple):
    """Where the blaster listens; all that the daemon's harness needs to know of a venue."""

    name: str
    url: str
    rest_url: str
    key_file: str
    products: tuple[str, ...] = ("BTC-USD",)

    @property
    def section(self) -> dict[str, Any]:
        """The venue's section of a configuration; nobody checks the signature."""
        where = {"url": self.url, "rest_url": self.rest_url}
        return where | {"series": ["KXBTCD"], "key_id": "bench", "key_file": self.key_file}


@asynccontextmanager
async def blaster(name: str, count: int, rate: float, cpu: int | None = None) -> AsyncIterator[Venue]:
    """Run the venue in a process of its own."""
    process = await python(cpu, "benchmarks.blaster", name, str(count), str(rate))
    with tempfile.NamedTemporaryFile(suffix=".pem") as key:
        pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        key.write(pem)
        key.flush()
        try:
            port = int(await line(process))
            yield Venue(name, f"ws://127.0.0.1:{port}", f"http://127.0.0.1:{port}", key.name)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def python(cpu: int | None, module: str, *arguments: str) -> Process:
    """Start a module of the tests in a process of its own, on one CPU if `cpu` says which."""
    pin = [] if cpu is None else ["taskset", "-c", str(cpu)]
    return await asyncio.create_subprocess_exec(
        *pin, sys.executable, "-m", module, *arguments,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def line(process: Process) -> str:
    """Return the next line that a process prints."""
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), 120)).decode()


def frame(payload: bytes) -> bytes:
    """Return an unmasked text frame (RFC 6455, 5.2); every message here is longer than 125 bytes and under 65536."""
    return struct.pack("!BBH", 0x81, 126, len(payload)) + payload


def rest(connection: ServerConnection, request: Request) -> Response | None:
    """Answer a question about markets; let handshakes pass."""
    path, _, query = request.path.partition("?")
    if not path.endswith("/markets"):
        return None
    response = connection.respond(200, (open_markets() if "status=open" in query else NO_MARKETS).decode())
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = "application/json"
    return response


async def serve_one(connection: ServerConnection, name: str, blocks: Iterator[bytes], rate: float) -> None:
    """Answer the subscription, then write the blocks that nobody was sent, at the rate."""
    started = False
    while not started:
        order = json.loads(await connection.recv())
        answer, started = VENUES[name][1](order) if order else ("{}", True)  # the bare loop asks for nothing
        await connection.send(answer)
    transport = connection.transport
    began_s = time.perf_counter()
    per_block = BLOCK if rate == 0 or rate > 5000 else 1
    for number, block in enumerate(blocks):
        if rate:
            await asyncio.sleep(began_s + number * per_block / rate - time.perf_counter())
        while transport.get_write_buffer_size() > HIGH_WATER_BYTES:
            await asyncio.sleep(0.001)
        if transport.is_closing():
            return
        try:
            transport.write(block)
        except RuntimeError:  # the other end has gone, and with it the right to write
            return
        if number % 20 == 0:
            await asyncio.sleep(0)
    await connection.wait_closed()


async def main(name: str, count: int, rate: float) -> None:
    """Serve until the standard input ends."""
    frames = [frame(message) for message in VENUES[name][0](count)]
    size = BLOCK if rate == 0 or rate > 5000 else 1
    blocks = iter([b"".join(frames[at : at + size]) for at in range(0, len(frames), size)])
    del frames
    async with serve(
        lambda connection: serve_one(connection, name, blocks, rate),
        "127.0.0.1",
        0,
        compression=None,
        process_request=rest,
    ) as server:
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
