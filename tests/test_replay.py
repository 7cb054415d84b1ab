"""Files through the live path: every message once, a second run adds nothing, a run that was cut off goes on."""

from __future__ import annotations

import asyncio
import json
import os
from decimal import Decimal
from pathlib import Path

import pytest
from harness.databases import PROGRAM, execute
from sources import RECV_NS, frames, match
from test_store import rows

from recio_ingest import replay
from recio_ingest.errors import BadInputError
from recio_ingest.records import DAEMON_FEED, Kind, Outcome
from recio_ingest.spool import Spool

CAPTURE = "coinbase-exchange-2021-04-17.jsonl"


def write(path: Path, lines: list[object]) -> Path:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


async def run(dsn: str, path: Path, **options: str | None) -> replay.Replayed:
    """Replay a file as fast as it goes."""
    return await replay.replay(dsn, path, options.get("feed"), 0, 5000)


async def test_twice_adds_nothing(database: str, tmp_path: Path) -> None:
    """A file's messages are stored once; the same file again adds nothing, under another name too."""
    lines: list[object] = [{"received_at": 1_790_000_000.25 + at, "frame": match(100 + at)} for at in range(5)]
    first = await run(database, write(tmp_path / "a.jsonl", lines))
    again = await run(database, write(tmp_path / "b.jsonl", lines))

    assert (first.new_rows, again.new_rows) == (5, 0)
    assert await rows(database, "SELECT count(*) FROM live_data.btc_price_log") == [(5,)]
    assert await rows(
        database, "SELECT received_at = '2026-09-21 14:13:20.25+00' FROM live_data.btc_price_log WHERE trade_id = 100"
    ) == [(True,)]


async def test_overlap_with_what_is_there(database: str, tmp_path: Path) -> None:
    """Trades that another file brought already are duplicates, and the books say so."""
    await run(database, write(tmp_path / "a.jsonl", [match(at) for at in range(1, 6)]))
    second = await run(database, write(tmp_path / "b.jsonl", [match(at) for at in range(4, 9)]))

    assert (second.new_rows, second.counts[Outcome.DUPLICATE]) == (3, 2)
    assert await rows(database, "SELECT count(*), count(DISTINCT trade_id) FROM live_data.btc_price_log") == [(8, 8)]


async def test_bare_messages_take_the_venues_time(database: str, tmp_path: Path) -> None:
    """Without `received_at` the venue's time stands in."""
    await run(database, write(tmp_path / "a.jsonl", [match(1, time="2021-04-17T16:43:30.244075Z")]))

    assert await rows(database, 'SELECT "timestamp" = received_at FROM live_data.btc_price_log') == [(True,)]


async def test_what_has_no_table_is_quarantined(database: str, tmp_path: Path) -> None:
    """Unknown types, broken lines and other people's messages are kept with their reasons; the rest is stored."""
    path = write(tmp_path / "a.jsonl", [match(1), {"type": "l2update", "product_id": "X"}, [1, 2], match(2)])
    path.write_bytes(path.read_bytes() + b"{broken\n\n\xff\xfe\n")
    done = await run(database, path)

    assert (done.new_rows, done.counts[Outcome.QUARANTINED]) == (2, 4)
    found = await rows(database, "SELECT reason, frame FROM ingest.quarantine ORDER BY frame_no")
    assert found[2:] == [("json", b"{broken"), ("json", b"\xff\xfe")]
    assert [reason for reason, _ in found[:2]] == ["unknown_type", "unknown_type"]


async def test_numbers_keep_their_digits(database: str, tmp_path: Path) -> None:
    """Taking a frame out of its envelope changes no digit of it."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"received_at": 1790000000.5, "frame": {"type":"odd","a":0.10000000000000000001,"b":1E400}}\n')
    await run(database, path)

    ((frame,),) = await rows(database, "SELECT frame FROM ingest.quarantine")
    assert isinstance(frame, bytes)
    kept = json.loads(frame, parse_float=Decimal)
    assert (Decimal("0.10000000000000000001"), Decimal("1E400")) == (kept["a"], kept["b"])


async def test_answers_for_gaps_are_known(database: str, tmp_path: Path) -> None:
    """Without --feed, an answer for a gap is the venue's that asks so: by numbers, or for a time."""
    trade = {"trade_id": "t-1", "ticker": "M-1", "yes_price_dollars": "0.4600", "count_fp": "3.25",
             "created_time": "2026-09-21T14:13:20Z", "taker_outcome_side": "no"}  # fmt: skip
    about = {"gap": [1, 1], "end": "complete"}
    path = write(tmp_path / "a.jsonl", [
        {"received_at": 1_790_000_100,
         "frame": {"repair": about | {"part": "BTC-USD", "numbers": [7, 8]}, "answer": [match(7), match(8)]}},
        {"received_at": 1_790_000_100,
         "frame": {"repair": about | {"part": "M-1", "numbers": None}, "answer": {"trades": [trade]}}},
    ])  # fmt: skip
    done = await run(database, path)

    assert (done.new_rows, done.counts[Outcome.SHIPPED]) == (3, 2)


async def test_spool_segment(database: str, tmp_path: Path) -> None:
    """A segment of a spool is shipped with its own frame numbers, once."""
    messages = frames([match(at) for at in range(1, 4)])
    with Spool(tmp_path / "spool", ["coinbase"]) as spool:
        for frame in messages:
            spool.append("coinbase", Kind.DATA, frame.recv_ns, frame.data)
        first_no = spool.append(DAEMON_FEED, Kind.TICK, RECV_NS, b"") - 3
        await spool.close()
        await spool.run()
    (segment,) = (tmp_path / "spool").glob("*.db")
    done = await run(database, segment)
    again = await run(database, segment)

    assert (done.new_rows, done.counts[Outcome.CONTROL], again.new_rows) == (3, 1, 0)
    assert await rows(database, "SELECT min(frame_no), max(frame_no) FROM live_data.btc_price_log") == [
        (first_no, first_no + 2)
    ]


async def test_not_a_file_for_it(database: str, tmp_path: Path) -> None:
    """A SQLite file that is no segment, and a file that is not there, are bad input."""
    (tmp_path / "other.db").write_bytes(b"SQLite format 3\x00" + bytes(4080))
    for name in ("other.db", "missing.jsonl"):
        with pytest.raises(BadInputError, match="cannot be replayed"):
            await run(database, tmp_path / name)


async def test_killed_in_between(database: str, tmp_path: Path) -> None:
    """A replay that is killed at any moment is finished by the next one: every message once."""
    count = 60_000
    path = write(tmp_path / "a.jsonl", [match(at) for at in range(1, count + 1)])
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "RECIO_DATABASE__DSN": database}
    for attempt in range(8):
        process = await asyncio.create_subprocess_exec(
            PROGRAM, "--replay", str(path), env=environment, stdout=asyncio.subprocess.DEVNULL
        )
        try:
            await asyncio.wait_for(process.wait(), 0.9 + attempt * 0.35)
        except TimeoutError:
            process.kill()
            await process.wait()
    assert (await run(database, path)).counts[Outcome.SHIPPED] == count

    assert await rows(database, "SELECT count(*), count(DISTINCT trade_id) FROM live_data.btc_price_log") == [
        (count, count)
    ]


async def test_quarantine_replayed(database: str, tmp_path: Path) -> None:
    """What was put aside for a reason that is gone is stored with its frame's number, once; the books follow."""
    await execute(database, "ALTER TABLE live_data.btc_price_log ADD CONSTRAINT poison CHECK (price <> 13)")
    await run(database, write(tmp_path / "a.jsonl", [match(1), match(2, "13"), {"type": "never"}]))
    assert await replay.replay_quarantine(database) == (0, 2)

    await execute(database, "ALTER TABLE live_data.btc_price_log DROP CONSTRAINT poison")
    assert await replay.replay_quarantine(database) == (1, 1)
    assert await replay.replay_quarantine(database) == (0, 1)

    assert await rows(database, "SELECT trade_id FROM live_data.btc_price_log ORDER BY frame_no") == [(1,), (2,)]
    assert await rows(database, "SELECT received_frames, shipped_frames, quarantined_frames FROM ingest.offsets") == [
        (3, 2, 1)
    ]


async def test_rows_of_a_backfill_are_not_replayed(database: str) -> None:
    """A row of an old file in the quarantine is no frame: it is neither decoded nor counted."""
    await execute(
        database,
        "INSERT INTO ingest.quarantine (stream, frame_no, feed, received_at, reason, detail, frame)"
        " VALUES ('backfill/1', 8, 'backfill', now(), 'not_a_number', 'strike', '{}')",
    )
    assert await replay.replay_quarantine(database) == (0, 0)
    assert await rows(database, "SELECT count(*) FROM ingest.quarantine WHERE replayed_at IS NULL") == [(1,)]


async def test_capture(database: str) -> None:
    """Every match of the recorded feed is stored once, its price and size to the last digit; again adds nothing."""
    folder = os.environ.get("RECIO_CAPTURES")
    if not folder:
        pytest.skip("RECIO_CAPTURES IS NOT SET: the recorded venue messages were left out of this run")
    path = Path(folder) / CAPTURE
    messages = [json.loads(line)["frame"] for line in path.read_text().splitlines()]
    wanted = {
        (message["product_id"], message["trade_id"], message["price"], message["size"])
        for message in messages
        if message["type"] in ("match", "last_match")
    }
    done = await run(database, path)
    again = await run(database, path)

    stored = await rows(database, "SELECT symbol, trade_id, price::text, size::text FROM live_data.btc_price_log")
    assert sorted(wanted) == sorted(stored)
    assert (done.new_rows, again.new_rows) == (54, 0)
    assert len(messages) == sum(done.counts.values())


@pytest.mark.parametrize(
    ("name", "new_rows", "quarantined"),
    [
        ("kalshi-ws-2026-09-25.jsonl", 8, 3),
        ("kalshi-markets-KXBTCD-2026-09-25.json", 4, 0),
        ("brti-2026-09-25.json", 0, 1),
    ],
)
async def test_kalshi_capture(database: str, name: str, new_rows: int, quarantined: int) -> None:
    """Every recorded message is a row, a change of state or in the quarantine with its reason; again adds nothing."""
    folder = os.environ.get("RECIO_CAPTURES")
    if not folder:
        pytest.skip("RECIO_CAPTURES IS NOT SET: the recorded venue messages were left out of this run")
    path = Path(folder) / name
    done = await run(database, path)
    again = await run(database, path)

    frames = len(path.read_bytes().splitlines()) if name.endswith("l") else 1
    assert sum(done.counts.values()) == frames
    assert (done.new_rows, done.counts[Outcome.QUARANTINED]) == (new_rows, quarantined)
    assert (again.new_rows, again.counts) == (0, done.counts)
    reasons = await rows(database, "SELECT DISTINCT reason FROM ingest.quarantine")
    assert reasons == ([("unknown_type",)] if quarantined else [])
