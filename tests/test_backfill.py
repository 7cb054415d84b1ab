"""The backfill as an operator runs it: real files, the real program, a real database."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import backfill_files as files
import pytest
from harness.databases import PROGRAM, execute

KINDS = {
    "trades": lambda path: files.clean_trades(path, 300),
    "fills": lambda path: files.write(path, "fills", map(files.fill, range(1, 301))),
    "older fills": lambda path: files.write(path, "fills", map(files.older_fill, range(1, 301)), files.OLDER_FILLS),
    "settlements": lambda path: files.write(path, "settlements", map(files.settlement, range(1, 301))),
    "positions": lambda path: files.write(path, "positions", map(files.position, range(1, 301))),
    "price_log": lambda path: files.write(path, "price_log", files.ticks("2025-07-01T12:34:56", 300)),
    "later price_log": lambda path: files.write(
        path, "price_log", files.with_momentum(files.ticks("2025-07-31T19:58:00", 300)), files.LATER_PRICE_LOG
    ),
}
CANDLES = """
SELECT source, symbol, "timestamp", open, high, low, close, volume, trades, vwap FROM historical_data.price_candles_1m
"""
MADE = """
SELECT source, symbol, date_trunc('minute', "timestamp", 'UTC') AS minute,
       (array_agg(price ORDER BY "timestamp"))[1], max(price), min(price),
       (array_agg(price ORDER BY "timestamp" DESC))[1], sum(volume), count(*), sum(price * volume) / sum(volume)
  FROM historical_data.price_history GROUP BY 1, 2, 3
"""


class Backfill:
    """The installed program with one database."""

    def __init__(self, dsn: str, home: Path) -> None:
        self.dsn, self.home = dsn, home
        self.out = self.err = ""
        self.report: dict[str, Any] = {}

    async def start(self, *arguments: object) -> asyncio.subprocess.Process:
        """Start it."""
        environment = {"HOME": str(self.home), "PATH": os.environ["PATH"], "RECIO_DATABASE__DSN": self.dsn}
        environment["RECIO_STATE_DIR"] = str(self.home / "state")
        return await asyncio.create_subprocess_exec(
            PROGRAM,
            "--backfill",
            *map(str, arguments),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def __call__(self, *arguments: object) -> int:
        """Run it to its end; return its exit code."""
        report = self.home / "report.json"
        report.unlink(missing_ok=True)
        more = () if "--undo" in arguments else ("--report", report)
        process = await self.start(*arguments, *more)
        out, err = await process.communicate()
        self.out, self.err = out.decode(), err.decode()
        assert "Traceback" not in self.err, self.err
        self.report = json.loads(report.read_text()) if report.exists() else {}
        assert process.returncode is not None
        return process.returncode

    @property
    def counts(self) -> list[tuple[int, int, int, int]]:
        """Of every table: source rows, inserted, already there, quarantined."""
        names = ("source_rows", "inserted", "already_there", "quarantined")
        return [tuple(load[name] for name in names) for load in self.report["loads"]]

    async def rows(self, query: str, *values: object) -> list[Any]:
        """Ask the database."""
        connection = await asyncpg.connect(self.dsn)
        try:
            return list(await connection.fetch(query, *values))
        finally:
            await connection.close()


@pytest.fixture
def backfill(database: str, tmp_path: Path) -> Backfill:
    """Return the program with a fresh database and a home of its own."""
    return Backfill(database, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_is_loaded_once(backfill: Backfill, tmp_path: Path, kind: str) -> None:
    """All rows go in and are verified; a second run inserts nothing, verifies again, and ends with 0 too."""
    path = KINDS[kind](tmp_path / "source.db")
    assert await backfill(path) == 0, backfill.out + backfill.err
    assert backfill.counts == [(300, 300, 0, 0)]
    assert backfill.report["loads"][0]["verification"]["verified"] is True
    assert await backfill(path) == 0, backfill.out + backfill.err
    assert backfill.counts == [(300, 300, 0, 0)]
    assert len(await backfill.rows("SELECT FROM ingest.backfills WHERE verified AND state = 'done'")) == 1


async def test_dirt_goes_to_the_quarantine_and_nothing_else_does(backfill: Backfill, tmp_path: Path) -> None:
    """Each dirty value is stored by its rule or set aside with its reason and its bytes; clean rows are all there."""
    dirt = files.dirty_trades(tmp_path / "trades.db")
    assert await backfill(tmp_path / "trades.db") == 0, backfill.out + backfill.err
    bad = {number for number, each in dirt.items() if each.quarantined}
    total = len(dirt) * (files.CLEAN_BETWEEN + 1)
    assert backfill.counts == [(total, total - len(bad), 0, len(bad))]
    assert backfill.report["loads"][0]["columns_not_loaded"] == ["volatility_delta"]
    rows = await backfill.rows("SELECT frame_no, detail, frame FROM ingest.quarantine ORDER BY frame_no")
    assert [row["frame_no"] for row in rows] == sorted(bad)
    for row in rows:
        column = dirt[row["frame_no"]].quarantined
        assert row["detail"].startswith(f"{column}: ")
        assert column in json.loads(row["frame"])
    for number, each in dirt.items():
        if not each.quarantined:
            (name,) = each.changed
            shown = f"trim_scale({name})" if name in {"pnl", "strike", "diff", "prob"} else name
            found = await backfill.rows(f"SELECT {shown}::text AS it FROM users.trades_0001 WHERE id = $1", number)
            assert found[0]["it"] == each.stored, (number, each)
    assert await backfill(tmp_path / "trades.db", "--strict") == 1


async def test_a_dry_run_writes_nothing(backfill: Backfill, tmp_path: Path) -> None:
    """It counts as the load would, and leaves no row, no book and no copy of the file."""
    files.dirty_trades(tmp_path / "trades.db")
    assert await backfill(tmp_path / "trades.db", "--dry-run") == 0, backfill.err
    dry = backfill.counts
    assert await backfill.rows("SELECT FROM ingest.backfills") == []
    assert await backfill.rows("SELECT FROM users.trades_0001") == []
    assert list((tmp_path / "state" / "backfill").iterdir()) == []
    assert await backfill(tmp_path / "trades.db") == 0
    assert backfill.counts == dry


async def test_several_files_one_of_which_is_none(backfill: Backfill, tmp_path: Path) -> None:
    """The worst exit code wins, and the others are loaded all the same; trades come before what refers to them."""
    path = files.clean_trades(tmp_path / "trades.db", 20)
    actives = (files.active_trade(number, number + 15) for number in range(1, 11))
    files.write(path, "active_trades", actives)
    (tmp_path / "no.db").write_text("not a database")
    fills = files.write(tmp_path / "fills.db", "fills", map(files.fill, range(1, 11)))
    assert await backfill(tmp_path / "no.db", path, fills) == 65
    assert "no.db is no SQLite file" in backfill.err
    assert backfill.counts == [(20, 20, 0, 0), (10, 5, 0, 5), (10, 10, 0, 0)]
    (error,) = backfill.report["errors"]
    assert (backfill.report["ok"], error["file"], error["exit_code"]) == (False, "no.db", 65)
    assert "no SQLite file" in error["error"]
    reasons = await backfill.rows("SELECT reason, detail FROM ingest.quarantine")
    assert {row["reason"] for row in reasons} == {"no_such_trade"}


async def test_rows_that_are_there_are_not_overwritten(backfill: Backfill, tmp_path: Path) -> None:
    """A later file has older rows too: they count as already there, and one that a program changed is named."""
    assert await backfill(files.clean_trades(tmp_path / "one.db", 50)) == 0
    assert await backfill(files.clean_trades(tmp_path / "two.db", 80)) == 0, backfill.out
    assert backfill.counts == [(80, 30, 50, 0)]
    await execute(backfill.dsn, "UPDATE users.trades_0001 SET fees = 99 WHERE id = 7")
    assert await backfill(files.clean_trades(tmp_path / "three.db", 81)) == 1
    assert backfill.counts == [(81, 1, 80, 0)]
    assert await backfill.rows("SELECT FROM users.trades_0001 WHERE fees = 99")
    (difference,) = backfill.report["loads"][0]["verification"]["differences"]
    assert (difference["rowid"], difference["column"]) == (7, "fees")


async def test_undo_takes_back_what_came_and_nothing_else(backfill: Backfill, tmp_path: Path) -> None:
    """Rows of other loads and of programs stay, and so do rows changed since, which are named; then it loads again."""
    assert await backfill(files.clean_trades(tmp_path / "one.db", 20)) == 0
    assert await backfill(files.clean_trades(tmp_path / "two.db", 50)) == 0
    await execute(backfill.dsn, "UPDATE users.trades_0001 SET fees = 99 WHERE id = 33")
    assert await backfill("--undo", 2) == 1
    assert "29 rows removed from users.trades_0001" in backfill.out
    assert "1 rows stay, changed or referred to since: 33" in backfill.out
    ids = [row["id"] for row in await backfill.rows("SELECT id FROM users.trades_0001 ORDER BY id")]
    assert ids == [*range(1, 21), 33]
    assert await backfill("--undo", 2) == 1
    assert "0 rows removed" in backfill.out
    assert "1 rows stay, changed or referred to since: 33" in backfill.out
    await execute(backfill.dsn, "UPDATE users.trades_0001 SET backfill_id = NULL WHERE id = 33")
    assert await backfill("--undo", 2) == 65
    assert await backfill(tmp_path / "two.db") == 1
    assert backfill.counts == [(50, 29, 21, 0)]


async def test_undo_in_the_order_of_the_loads(backfill: Backfill, tmp_path: Path) -> None:
    """Trades that another load refers to stay until that one is undone too, and go when asked for again."""
    path = files.clean_trades(tmp_path / "trades.db", 20)
    files.write(path, "active_trades", (files.active_trade(number, number) for number in range(1, 6)))
    assert await backfill(path) == 0
    assert await backfill("--undo", 1) == 1
    assert "15 rows removed" in backfill.out
    assert await backfill("--undo", 2) == 0
    assert await backfill("--undo", 1) == 0
    assert "5 rows removed" in backfill.out
    assert await backfill("--undo", 1) == 65
    assert await backfill.rows("SELECT FROM users.trades_0001") == []


async def test_undo_says_what_was_gone_before(backfill: Backfill, tmp_path: Path) -> None:
    """Prices whose month is in the archive cannot be taken back now, and nobody is told that all are."""
    assert await backfill(KINDS["later price_log"](tmp_path / "prices.db")) == 0, backfill.out
    (left,) = await backfill.rows("SELECT count(*) FROM historical_data.price_history_202508")
    await execute(backfill.dsn, "DROP TABLE historical_data.price_history_202507")
    assert await backfill("--undo", 1) == 1
    assert f"{left['count']} rows removed" in backfill.out
    assert f"{300 - left['count']} rows were gone before" in backfill.out


async def test_a_text_that_no_index_takes_is_found_alone(backfill: Backfill, tmp_path: Path) -> None:
    """A ticker of many kilobytes is refused by the server; its neighbours are loaded."""
    path = files.clean_trades(tmp_path / "trades.db", 20)
    noise = "".join(hashlib.sha256(bytes([n])).hexdigest() for n in range(200))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE trades SET ticker = ? WHERE id = 7", (noise,))
    assert await backfill(path) == 0, backfill.err
    assert backfill.counts == [(20, 19, 0, 1)]
    assert backfill.report["loads"][0]["quarantined_by_reason"] == {"refused": 1}


async def test_undo_of_prices_takes_what_was_derived_too(backfill: Backfill, tmp_path: Path) -> None:
    """A price and its momentum go together."""
    path = KINDS["later price_log"](tmp_path / "prices.db")
    assert await backfill(path) == 0, backfill.out
    assert len(await backfill.rows("SELECT FROM historical_data.momentum_history")) == 300
    partitions = await backfill.rows(
        "SELECT DISTINCT tableoid::regclass::text AS it FROM historical_data.price_history"
    )
    assert {row["it"] for row in partitions} == {
        "historical_data.price_history_202507",
        "historical_data.price_history_202508",
    }
    assert await backfill("--undo", 1) == 0
    for table in ("price_history", "momentum_history"):
        assert await backfill.rows(f"SELECT FROM historical_data.{table}") == []


async def test_candles_follow_the_prices(backfill: Backfill, tmp_path: Path) -> None:
    """Every minute that a file has prices of is a candle of them; what an undo leaves is what candles are made of."""
    first = files.write(tmp_path / "first.db", "price_log", files.ticks("2025-07-31T19:58:30", 5200))
    later = files.write(tmp_path / "later.db", "price_log", files.ticks("2025-07-31T21:25:20", 1800))
    assert await backfill(first, later) == 0, backfill.out
    (before,) = await backfill.rows(f"SELECT count(*) FROM ({CANDLES}) AS c")
    assert before["count"] == 88 + 31 - 1  # 21:25 has prices of both
    assert await backfill.rows(f"{CANDLES} EXCEPT {MADE}") == await backfill.rows(f"{MADE} EXCEPT {CANDLES}") == []
    assert await backfill("--undo", 1) == 0, backfill.err
    assert await backfill.rows(f"{CANDLES} EXCEPT {MADE}") == await backfill.rows(f"{MADE} EXCEPT {CANDLES}") == []
    assert await backfill("--undo", 2) == 0, backfill.err
    assert await backfill.rows(CANDLES) == []


async def test_duplicates_in_a_file_are_named(backfill: Backfill, tmp_path: Path) -> None:
    """The first row of a key goes in; every other one is set aside, also where batches lie between."""
    rows = [files.settlement(1), *map(files.settlement, range(1, 5001)), files.settlement(2)]
    path = files.write(tmp_path / "settlements.db", "settlements", rows)
    assert await backfill(path) == 0, backfill.out
    assert backfill.counts == [(5002, 5000, 0, 2)]
    found = await backfill.rows("SELECT frame_no, reason FROM ingest.quarantine ORDER BY frame_no")
    assert [tuple(row) for row in found] == [(2, "duplicate_key"), (5002, "duplicate_key")]


async def test_what_the_server_refuses_is_found_alone(backfill: Backfill, tmp_path: Path) -> None:
    """A CHECK of the target that one row of a batch breaks costs that row."""
    rows = [files.trade(number, **({"side": "maybe"} if number == 77 else {})) for number in range(1, 201)]
    path = files.write(tmp_path / "trades.db", "trades", rows)
    assert await backfill(path) == 0, backfill.out
    assert backfill.counts == [(200, 199, 0, 1)]
    (row,) = await backfill.rows("SELECT frame_no, reason, detail FROM ingest.quarantine")
    assert (row["frame_no"], row["reason"]) == (77, "refused")
    assert "trade_side_is_yes_or_no" in row["detail"]


async def test_the_hour_that_comes_twice(backfill: Backfill, tmp_path: Path) -> None:
    """Both passes of the hour get their own instants, and the seconds that only one of them has theirs."""
    path = files.autumn_ticks(tmp_path / "prices.db")
    assert await backfill(path) == 0, backfill.out
    assert backfill.counts == [(120, 120, 0, 0)]
    rows = await backfill.rows(
        """SELECT extract(epoch FROM timestamp - '2025-11-02 05:00+00')::int AS at FROM historical_data.price_history
            WHERE timestamp >= '2025-11-02 05:00+00' AND timestamp < '2025-11-02 07:00+00' ORDER BY 1"""
    )
    assert [row["at"] for row in rows] == [*range(40, 60), *range(3600, 3640)]


async def test_a_lone_doubled_hour_is_set_aside(backfill: Backfill, tmp_path: Path) -> None:
    """An hour that was written once, between its neighbours, may be either of the two; a spring hour is none."""
    rows = [
        *files.ticks("2025-11-02T00:59:50", 10),
        *files.ticks("2025-11-02T01:00:00", 10),
        *files.ticks("2025-11-02T02:00:00", 10),
        *files.ticks("2026-03-08T02:10:00", 3),
    ]
    path = files.write(tmp_path / "prices.db", "price_log", rows)
    assert await backfill(path) == 0, backfill.out
    assert backfill.counts == [(33, 20, 0, 13)]
    assert backfill.report["loads"][0]["quarantined_by_reason"] == {"ambiguous_time": 10, "no_such_time": 3}


async def test_a_missing_user_is_said(backfill: Backfill, tmp_path: Path) -> None:
    """Without the user's tables the command says how to make them, and loads into them once they are there."""
    path = files.clean_trades(tmp_path / "trades.db", 5)
    assert await backfill(path, "--user", "0002") == 78
    assert "SELECT users.create_user('0002')" in backfill.err
    await execute(backfill.dsn, "SELECT users.create_user('0002')")
    assert await backfill(path, "--user", "0002") == 0
    assert len(await backfill.rows("SELECT FROM users.trades WHERE user_id = '0002'")) == 5


async def test_ids_go_on_behind_the_loaded_ones(backfill: Backfill, tmp_path: Path) -> None:
    """A program that inserts without an id after a load gets the next one."""
    assert await backfill(files.clean_trades(tmp_path / "trades.db", 41)) == 0
    (row,) = await backfill.rows(
        """INSERT INTO users.trades_0001 (status, date, time, strike, side, buy_price, position)
           VALUES ('pending', '2025-06-02', '10:00', 1, 'Y', 0.5, 1) RETURNING id"""
    )
    assert row["id"] == 42


async def test_without_a_database_it_is_69(backfill: Backfill, tmp_path: Path) -> None:
    """A database that is not there ends the command with its own code."""
    backfill.dsn = "postgresql://nobody@127.0.0.1:9/none"
    assert await backfill(files.clean_trades(tmp_path / "trades.db", 1)) == 69


async def test_the_source_is_not_touched(backfill: Backfill, tmp_path: Path) -> None:
    """File, write-ahead log and folder are as before, and rows that are only in the log are all there."""
    path = tmp_path / "in" / "trades.db"
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE other (a)")
        writer.execute("SELECT * FROM other").fetchall()
        files.clean_trades(path, 100)
        files.write(path, "trades", [files.trade(101)])
        assert path.stat().st_size <= 8192
        before = {each.name: each.read_bytes() for each in path.parent.iterdir() if not each.name.endswith("-shm")}
        assert await backfill(path) == 0, backfill.out
        assert backfill.counts == [(101, 101, 0, 0)]
        after = {each.name: each.read_bytes() for each in path.parent.iterdir() if not each.name.endswith("-shm")}
        assert after == before


async def test_a_report_that_cannot_be_written_is_said(backfill: Backfill, tmp_path: Path) -> None:
    """The rows are in and the table is shown; only the file is missing, and the exit code says so."""
    process = await backfill.start(
        files.clean_trades(tmp_path / "trades.db", 3), "--report", tmp_path / "no" / "report"
    )
    out, err = await process.communicate()
    assert process.returncode == 1
    assert b"cannot be written: No such file or directory" in err
    assert b"trades -> users.trades_0001" in out


@pytest.mark.parametrize(
    "line", ["--backfill", "--undo 3", "--strict", "--backfill x --undo 3", "--backfill --undo 3 --dry-run", "--user 2"]
)
async def test_a_wrong_command_line_is_64(backfill: Backfill, line: str) -> None:
    """What belongs to a backfill goes with one, and undoing goes alone."""
    process = await asyncio.create_subprocess_exec(
        PROGRAM, *line.split(), env={"HOME": str(backfill.home)}, stderr=asyncio.subprocess.PIPE
    )
    _, err = await process.communicate()
    assert (process.returncode, err.startswith(b"usage: ")) == (64, True)
