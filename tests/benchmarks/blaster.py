"""A venue that costs almost nothing: messages made beforehand, written to the socket in blocks of whole frames.

`python -m benchmarks.blaster COUNT RATE`: prints its port, then serves every connection that subscribes `COUNT`
messages at `RATE` a second (0: as fast as the socket takes them), a ticker after every match, as the venue's recorded
stream has it.
"""

from __future__ import annotations

import asyncio
import os
import random
import struct
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from websockets.asyncio.server import ServerConnection, serve

# Sent as one write, so that the sender's cost per message vanishes beside the receiver's.
BLOCK = 50
HIGH_WATER_BYTES = 2**20
TESTS = Path(__file__).parents[1]
ACK = (
    '{"type":"subscriptions","channels":['
    '{"name":"matches","product_ids":["BTC-USD"]},{"name":"ticker","product_ids":["BTC-USD"]},'
    '{"name":"heartbeat","product_ids":["BTC-USD"]}]}'
)


class Venue(NamedTuple):
    """Where the blaster listens; all that the daemon's harness needs to know of a venue."""

    url: str
    rest_url: str
    products: tuple[str, ...] = ("BTC-USD",)


@asynccontextmanager
async def blaster(count: int, rate: float, cpu: int | None = None) -> AsyncIterator[Venue]:
    """Run the venue in a process of its own."""
    process = await python(cpu, "benchmarks.blaster", str(count), str(rate))
    try:
        port = int(await line(process))
        yield Venue(f"ws://127.0.0.1:{port}", f"http://127.0.0.1:{port}")
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


def messages(count: int) -> Iterator[bytes]:
    """Yield matches and tickers of a market that walks in cents; sizes hardly ever repeat, as in life."""
    dice = random.Random(1)
    cents, trade_id = 6_000_000, time.time_ns() // 1000
    order = "9d2861bd-1703-47f2-a7f4-7723565a7f5c"
    for _ in range(count // 2):
        cents += dice.randint(-3, 3)
        trade_id += 1
        price, bid, ask = (f"{value // 100}.{value % 100:02d}" for value in (cents, cents - 1, cents + 1))
        size = f"0.{dice.randrange(1, 10**8):08d}"
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        yield (
            f'{{"type":"match","trade_id":{trade_id},"maker_order_id":"{order}","taker_order_id":"{order}","side":"sell",'
            f'"size":"{size}","price":"{price}","product_id":"BTC-USD","sequence":{trade_id * 3},"time":"{now}"}}'
        ).encode()
        yield (
            f'{{"type":"ticker","sequence":{trade_id * 3},"product_id":"BTC-USD","price":"{price}",'
            f'"open_24h":"59000.00","volume_24h":"42492.05081975","low_24h":"58423.37","high_24h":"61259.37","volume_30d":"1093827.95195495",'
            f'"best_bid":"{bid}","best_bid_size":"0.61540890","best_ask":"{ask}","best_ask_size":"0.18528568",'
            f'"side":"sell","time":"{now}","trade_id":{trade_id},"last_size":"{size}"}}'
        ).encode()


def frame(payload: bytes) -> bytes:
    """Return an unmasked text frame (RFC 6455, 5.2); every message here is longer than 125 bytes and under 65536."""
    return struct.pack("!BBH", 0x81, 126, len(payload)) + payload


async def serve_one(connection: ServerConnection, blocks: list[bytes], rate: float) -> None:
    """Acknowledge the subscription, then write blocks at the rate."""
    await connection.recv()
    await connection.send(ACK)
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


async def main(count: int, rate: float) -> None:
    """Serve until the standard input ends."""
    frames = [frame(message) for message in messages(count)]
    size = BLOCK if rate == 0 or rate > 5000 else 1
    blocks = [b"".join(frames[at : at + size]) for at in range(0, len(frames), size)]
    del frames
    async with serve(
        lambda connection: serve_one(connection, blocks, rate), "127.0.0.1", 0, compression=None
    ) as server:
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
