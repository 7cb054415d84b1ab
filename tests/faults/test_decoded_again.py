"""The spool decoded again from its oldest segment into an empty database: the same rows, byte for byte.

`AGAIN_S` sets how long the venues are recorded (the published run has 240), `FAULT_SEED` the dice.
"""

from __future__ import annotations

import asyncio
import io
import os
import random
import shutil
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from harness.daemon import Daemon
from harness.databases import build_template, execute, run_program
from harness.full import only_in_full
from harness.kalshi_live import Venue, at
from harness.kalshi_venue import KalshiOracle
from harness.progress import commits_since, market_rows_stored, offset, scalar, settle, settle_kalshi
from harness.spool import segments
from harness.venue import OracleVenue
from harness.waiting import until

from recio_ingest import known, momentum, store
from recio_ingest.decode import Decoder, recall
from recio_ingest.segments import describe, read

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from harness.postgres import PostgresServer

RATE, KALSHI_RATE = 500, 200
AGAIN_S = float(os.environ.get("AGAIN_S", "1"))
HOUR_S = 90.0  # of the simulated venue; it starts 5 s before an hour that has begun, so that the next event is open
BEFORE_S = 200
MEAN_CUT = 40
SHIPPED_WITHIN_S = REPLAYED_WITHIN_S = 60.0
TABLES = ("btc_price_log", "websocket_market_data", "market_data", "btc_live_strikes")
GAPS = """
    SELECT frame_no, gap_no, feed, channel, scope, cause, from_time, to_time, from_seq, to_seq, expected, recovered,
           repaired_at, given_up_at, given_up_why
      FROM ingest.gaps WHERE frame_no <= {last} ORDER BY frame_no, gap_no
"""
QUARANTINE = """
    SELECT frame_no, row_no, feed, received_at, reason, detail, frame
      FROM ingest.quarantine WHERE frame_no <= {last} ORDER BY frame_no, row_no, detail
"""
BACKENDS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'recio-ingest' ORDER BY pid"

pytestmark = [pytest.mark.long, pytest.mark.timeout(170 + 4 * AGAIN_S)]


async def contents(dsn: str, last_no: int) -> dict[str, bytes]:
    """What a database holds of the frames up to a number, as the bytes of COPY."""
    rows = {
        name: f"SELECT * FROM live_data.{name} WHERE frame_no <= {last_no} ORDER BY frame_no, row_no" for name in TABLES
    }
    queries = rows | {name: query.format(last=last_no) for name, query in (("gaps", GAPS), ("quarantine", QUARANTINE))}
    connection = await asyncpg.connect(dsn, server_settings={"timezone": "UTC"})
    try:
        found = {}
        for name, query in queries.items():
            output = io.BytesIO()
            await connection.copy_from_query(query, output=output)
            found[name] = output.getvalue()
        return found
    finally:
        await connection.close()


def counted(found: dict[str, bytes]) -> dict[str, int]:
    """How many rows each table has."""
    return {name: len(lines.splitlines()) for name, lines in found.items()}


def assert_same(first: dict[str, bytes], second: dict[str, bytes]) -> None:
    """Fail with some lines that differ, of every table that does."""
    wrong = []
    for name, content in first.items():
        if content != second[name]:
            one, two = (Counter(of[name].splitlines()) for of in (first, second))
            wrong.append(f"{name}: {(one - two).total()} lines only in the first, {(two - one).total()} in the second")
            wrong += [
                f"{sign} {line[:500]!r}" for sign, of in (("-", one - two), ("+", two - one)) for line in [*of][:4]
            ]
    assert not wrong, "\n".join(wrong)


async def fresh(server: PostgresServer, name: str) -> str:
    """Make an empty database of this name; the program brings the schema itself."""
    await execute(server.dsn(), f"CREATE DATABASE {name}")
    return server.dsn(name)


async def session_killed(dsn: str, dice: random.Random) -> None:
    """Kill -9 a session's process, which takes all others with it."""
    pids = await scalar(dsn, f"SELECT array_agg(pid) FROM ({BACKENDS}) AS b")
    if pids:
        os.kill(dice.choice(pids), signal.SIGKILL)
        await until(lambda: scalar(dsn, "SELECT pg_sleep(0.1) IS NOT NULL"), within_s=30, what="the server to be back")


async def recorded(dsn: str, venue: OracleVenue, kalshi: KalshiOracle, daemon: Daemon) -> Counter[str]:
    """Record both venues under load and faults; end in peace. Returns what was done."""
    seed = int(os.environ.get("FAULT_SEED", time.time_ns()))
    print(f"seed {seed}")
    dice, done = random.Random(seed), Counter[str]()

    async def killed() -> None:
        await daemon.kill9()
        await daemon.start()
        await daemon.wait_ready()

    async def rest() -> None:
        await venue.rest(on=dice.random() < 0.7)

    faults: dict[str, Callable[[], Awaitable[Any]]] = {
        "daemon killed": killed,
        "session ended": lambda: scalar(dsn, f"SELECT count(pg_terminate_backend(pid)) FROM ({BACKENDS}) AS b"),
        "session killed": lambda: session_killed(dsn, dice),
        "coinbase disconnects": venue.disconnect,
        "kalshi disconnects": kalshi.disconnect,
        "coinbase loses": lambda: venue.skip(dice.randint(1, 2000)),
        "kalshi loses": lambda: kalshi.skip(dice.randint(1, 20)),
        "coinbase repeats": lambda: venue.repeat(dice.randint(1, 50)),
        "kalshi repeats": lambda: kalshi.repeat(dice.randint(1, 50)),
        "rest comes and goes": rest,
    }
    await daemon.start()
    await daemon.wait_ready()
    await market_rows_stored(dsn)
    await venue.rest()
    ends_s, order = time.monotonic() + AGAIN_S, list[str]()
    while order or time.monotonic() < ends_s:
        order = order or dice.sample(sorted(faults), len(faults))
        name = order.pop()
        await faults[name]()
        done[name] += 1
        await asyncio.sleep(dice.uniform(0, 0.8 if AGAIN_S < 60 else 4))
    await killed()
    await venue.rest()
    await settle(dsn, venue)
    await settle_kalshi(dsn, kalshi)
    assert await daemon.terminate() == 0
    return done


async def test_the_same_rows(private_postgres: PostgresServer, tmp_path: Path) -> None:
    """By a daemon that finds an empty database, and by --replay: every row, gap and quarantined frame is the same."""
    began_s, dsn = time.monotonic(), await fresh(private_postgres, "first")
    async with (
        OracleVenue(rate=RATE) as venue,
        KalshiOracle(tmp_path, rate=KALSHI_RATE) as kalshi,
        Daemon(tmp_path, dsn, venue, kalshi=kalshi) as daemon,
    ):
        done = await recorded(dsn, venue, kalshi, daemon)
    last_no = await offset(dsn)
    first = await contents(dsn, last_no)
    files = segments(daemon.spool)
    print(f"{time.monotonic() - began_s:.1f} s: {dict(done)}; {counted(first)}, {len(files)} segments")
    kept = tmp_path / "kept"
    shutil.copytree(daemon.spool, kept)

    second_dsn = await fresh(private_postgres, "second")
    async with Daemon(tmp_path / "second", second_dsn, venue, kalshi=kalshi) as other:  # the venues are gone
        shutil.copytree(daemon.spool, other.spool)
        await other.start()

        async def shipped() -> bool:
            return await offset(second_dsn) >= last_no

        await until(shipped, within_s=SHIPPED_WITHIN_S, what="the spool to be shipped again", every_s=0.1)
        assert await other.terminate() == 0
    assert_same(first, await contents(second_dsn, last_no))
    print(f"{time.monotonic() - began_s:.1f} s: shipped again")

    third_dsn = await fresh(private_postgres, "third")
    order = segments(kept)
    random.Random(1).shuffle(order)
    for again in (False, True):
        told = (await replayed(tmp_path, third_dsn, order)).splitlines()
        new = [int(line.split(": ")[1].split()[0]) for line in told if " new rows; " in line]
        assert len(new) == len(order)
        assert (sum(new) == 0) is again
        print(f"{time.monotonic() - began_s:.1f} s: replayed {new}")
    assert_same(first, await contents(third_dsn, last_no))


async def cut_anywhere(dsn: str, files: list[Path], dice: random.Random) -> int:
    """Ship segments batch by batch, each by a decoder that begins anew, as after a restart; return how many."""
    batches = 0
    async with store.session(dsn) as opened:
        position = await opened.acquire("live", "cut", start_no=0)
        for segment in map(describe, files):
            while frames := read(segment, position.frame_no, int(dice.expovariate(1 / MEAN_CUT)) + 1, 2**22):
                recalled = await opened.recall(recall(), position.state)
                prices = await opened.recall_prices(momentum.wanted(position.state))
                batch = Decoder(position.state, recalled, prices).decode(frames)
                position = await opened.commit(position, await known.drop_repaired(opened, batch))
                batches += 1
    return batches


@only_in_full
async def test_lives_of_markets(private_postgres: PostgresServer, tmp_path: Path) -> None:
    """Markets that open, close and are settled, with and without a key, and odd messages: cut anywhere, the same."""
    began_s, dsn = time.monotonic(), await fresh(private_postgres, "first")
    dice = random.Random(int(os.environ.get("FAULT_SEED", time.time_ns())))
    async with (
        Venue(hour_s=HOUR_S, start_s=int(time.time()) // 3600 * 3600 - BEFORE_S) as kalshi,
        Daemon(tmp_path, dsn, kalshi=at(kalshi, tmp_path)) as daemon,
    ):
        await daemon.start()
        await market_rows_stored(dsn)
        faults: list[Callable[[], Awaitable[Any]]] = [
            daemon.kill9,
            kalshi.disconnect,
            lambda: kalshi.garbage(20),
            lambda: session_killed(dsn, dice),
        ]
        ends_s, rounds = time.monotonic() + AGAIN_S, 0
        while time.monotonic() < ends_s or rounds < 2:
            rounds += 1
            for fault in dice.sample(faults, len(faults)):
                await fault()
                if fault == daemon.kill9:
                    daemon.settings["feeds.kalshi"] = at(kalshi, tmp_path, ("ed", "")[rounds % 2])
                    await daemon.start()
                    await daemon.wait_ready()
                await asyncio.sleep(dice.uniform(0.2, 1.0))
        await commits_since(dsn, await offset(dsn))  # a daemon that waits for its database leaves the rest in the spool
        assert await daemon.terminate() == 0
    last_no = await offset(dsn)
    first = await contents(dsn, last_no)
    files = segments(daemon.spool)
    print(f"{time.monotonic() - began_s:.1f} s: {counted(first)}, {len(files)} segments")
    for name in ("second", "third"):
        other_dsn = await fresh(private_postgres, name)
        if name == "second":
            await build_template(other_dsn)
            print(await cut_anywhere(other_dsn, files, dice), "batches")
        else:
            await replayed(tmp_path, other_dsn, files[::-1])
        assert_same(first, await contents(other_dsn, last_no))


async def replayed(folder: Path, dsn: str, files: list[Path]) -> str:
    """Run --replay; return what it said."""
    code, output = await run_program(dsn, folder, "--replay", *files, within_s=REPLAYED_WITHIN_S)
    assert code == 0, output
    return output
