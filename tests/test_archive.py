"""Retention and archive: what leaves the database lies in a file that gives it back to the byte."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import duckdb
import pytest
from archive_data import fill, held, retire, settings
from harness.daemon import Daemon
from harness.databases import PROGRAM, execute
from harness.postgres import PostgresServer
from harness.progress import scalar
from harness.proxy import PgProxy
from harness.waiting import until
from structlog.testing import capture_logs
from test_store import rows

from recio_ingest import archive, parquet, restore, store
from recio_ingest.errors import BadInputError, ConfigError, TryLaterError
from recio_ingest.parquet import Column, Manifest
from recio_ingest.settings import Settings

TABLES = (
    "price_history", "momentum_history", "market_history", "market_data_history", "strike_history", "price_candles_1m",
)  # fmt: skip
TROUBLES = {"archive.failed", "archive.interrupted"}
FILE = "price_history_202507.parquet"
LATE = (
    'INSERT INTO historical_data.price_history ("timestamp", source, symbol, trade_id, price)'
    " VALUES ('2025-07-31 23:59Z', 'coinbase', 'BTC-USD', 77, 1.50)"
)
KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from archive_data import retire
steps = 0
def counted(work):
    def step(*arguments):
        global steps
        steps += 1
        if steps == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        return work(*arguments)
    return step
os.fsync, Path.replace = counted(os.fsync), counted(Path.replace)
print(asyncio.run(retire(sys.argv[1], sys.argv[2])))
"""


async def recio(dsn: str, home: Path, *arguments: str) -> tuple[int, str]:
    """Run the program; return its exit code and what it says."""
    process = await asyncio.create_subprocess_exec(
        PROGRAM,
        *arguments,
        env={"PATH": "/usr/bin:/bin", "HOME": str(home), "RECIO_DATABASE__DSN": dsn},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_every_table_is_here(database: str) -> None:
    """The tables below are all that history has."""
    found = await rows(
        database, "SELECT partrelid::regclass::text FROM pg_partitioned_table WHERE partrelid::regclass::text ~ '^hist'"
    )
    assert sorted(found) == sorted((f"historical_data.{table}",) for table in TABLES)


@pytest.mark.parametrize("table", TABLES)
async def test_there_and_back(database: str, tmp_path: Path, table: str) -> None:
    """A month leaves for a file, and comes back equal to the byte, every column of every kind of row."""
    name = await fill(database, table)
    before = await held(database, table)
    assert await retire(database, tmp_path) == (1, 1, 0)
    assert await held(database, table) == []
    assert not await scalar(database, "SELECT to_regclass($1)", name)
    manifest = parquet.check(tmp_path / f"{table}_202507.parquet")
    assert (manifest.rows, manifest.partition) == (len(before), name)

    await restore.restore(database, tmp_path / f"{table}_202507.json")
    assert await held(database, table) == before
    assert await scalar(database, f"SELECT count(*) FROM {name}") == len(before)
    assert await retire(database, tmp_path) == (0, 0, 0)  # somebody wants it
    await execute(database, "UPDATE ingest.archives SET restored_at = NULL")
    assert await retire(database, tmp_path) == (1, 1, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{table}_202507.json", f"{table}_202507.parquet"]


async def test_what_no_decimal_holds(database: str, tmp_path: Path) -> None:
    """Infinities, NaN and forty digits come back too; only their column lies as text in that file."""
    await fill(database, "momentum_history")
    await execute(
        database,
        "UPDATE historical_data.momentum_history SET momentum = 'NaN', delta_1m = '-Infinity',"
        " delta_2m = 1234567890.123456789012345678901234567890 WHERE row_no = 7",
    )
    before = await held(database, "momentum_history")
    await retire(database, tmp_path)
    manifest = parquet.check(tmp_path / "momentum_history_202507.parquet")
    assert {c.name for c in manifest.columns if c.kind == "numeric" and not c.decimal} == {
        "momentum",
        "delta_1m",
        "delta_2m",
    }
    await restore.restore(database, tmp_path / "momentum_history_202507.parquet")
    assert await held(database, "momentum_history") == before


TWIN = (
    "CREATE TABLE twin AS SELECT * FROM historical_data.{} LIMIT 1; UPDATE twin SET \"timestamp\" = '2025-07-31 23:59Z'"
)
INDEXES = (
    "SELECT pg_get_indexdef(indexrelid), contype::text FROM pg_index JOIN pg_inherits ON inhrelid = indexrelid"
    " LEFT JOIN pg_constraint ON conindid = indexrelid WHERE indrelid = $1::text::regclass AND indisvalid ORDER BY 1"
)
UNSUMMARIZED = (
    "SELECT count(*) FROM pg_index JOIN pg_class c ON c.oid = indexrelid JOIN pg_am a ON a.oid = c.relam WHERE CASE"
    " WHEN indrelid = $1::text::regclass AND amname = 'brin' THEN brin_summarize_new_values(c.oid) > 0 END"
)
LAID_OUT = "SELECT count(*) FROM pg_index WHERE indrelid = $1::text::regclass"


@pytest.mark.parametrize("table", TABLES)
async def test_attaching_is_short(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str) -> None:
    """While a restore holds the DEFAULT partition it makes no index and reads no row; it has those of its siblings."""
    name = await fill(database, table)
    indexes = await scalar(database, f"SELECT array_agg(i::text) FROM ({INDEXES}) i", name)
    assert len(indexes) == await scalar(database, LAID_OUT, name)
    await execute(database, *TWIN.format(table).split(";"))
    await retire(database, tmp_path)
    await execute(database, f"INSERT INTO historical_data.{table} SELECT * FROM twin")
    said: list[str] = []

    async def connect(dsn: str, role: str) -> asyncpg.Connection:
        connection = await store.connect(dsn, role=role)
        connection.add_log_listener(lambda _, message: said.append(message.message))
        await connection.execute("SET client_min_messages = debug1")
        return connection

    monkeypatch.setattr(restore, "store", SimpleNamespace(connect=connect, CONNECT_TIMEOUT_S=10.0))
    await restore.restore(database, tmp_path / f"{table}_202507.parquet")
    moved = said.index(f"1 rows moved out of {table}_default")
    assert [line for line in said[moved:] if line.startswith("building index")] == []
    assert f'partition constraint for table "{table}_202507" is implied by existing constraints' in said[moved:]
    assert await scalar(database, f"SELECT array_agg(i::text) FROM ({INDEXES}) i", name) == indexes
    assert await scalar(database, LAID_OUT, name) == len(indexes)
    checks = "SELECT count(*) FROM pg_constraint WHERE conrelid = $1::text::regclass AND contype = 'c'"
    assert await scalar(database, checks, name) == 0


async def test_what_comes_back_is_found_by_its_blocks(database: str, tmp_path: Path) -> None:
    """The BRIN indexes of a month of more than one range of pages are complete, before any vacuum."""
    name = await fill(database, "price_history", 0)
    await execute(
        database,
        'INSERT INTO historical_data.price_history ("timestamp", source, symbol, trade_id, price)'
        " SELECT '2025-07-01Z'::timestamptz + n * interval '1 s', 'coinbase', 'BTC-USD', n, 1.5"
        " FROM generate_series(1, 25000) AS n",
    )
    await retire(database, tmp_path)
    await restore.restore(database, tmp_path / FILE)
    assert await scalar(database, "SELECT pg_relation_size($1::text::regclass) / 8192 > 256", name)
    assert await scalar(database, UNSUMMARIZED, name) == 0


async def test_another_file_than_the_books_have(database: str, tmp_path: Path) -> None:
    """A file with other values, right in itself, is refused where the month's true file is known, and only there."""
    await fill(database, "price_history")
    await retire(database, tmp_path / "true")
    await restore.restore(database, tmp_path / "true" / FILE)
    await execute(
        database,
        "UPDATE historical_data.price_history SET price = price + 1",
        "UPDATE ingest.archives SET restored_at = NULL",
    )
    assert await retire(database, tmp_path / "other") == (1, 1, 0)
    other = tmp_path / "other" / FILE
    await execute(
        database, "DELETE FROM ingest.archives WHERE archive_id = (SELECT max(archive_id) FROM ingest.archives)"
    )
    with pytest.raises(BadInputError, match=r"none of the files that ingest\.archives has"):
        await restore.restore(database, other)
    assert await held(database, "price_history") == []
    await execute(database, "DELETE FROM ingest.archives")
    await restore.restore(database, other)
    assert len(await held(database, "price_history")) == 40


async def test_rows_outside_the_bounds_are_refused(database: str, tmp_path: Path) -> None:
    """A manifest that tells of another month than its rows are of is bad input, and changes nothing."""
    await fill(database, "price_history")
    await retire(database, tmp_path)
    told = tmp_path / "price_history_202507.json"
    told.write_text(parquet.read_manifest(told)._replace(upper="2025-07-02T00:00:00+00:00").text())
    with pytest.raises(BadInputError, match="outside the bounds"):
        await restore.restore(database, tmp_path / FILE)
    assert await held(database, "price_history") == []


async def test_a_row_of_megabytes(database: str, tmp_path: Path) -> None:
    """A row of several MiB, more than pyarrow reads at a time, is archived with its neighbours, and comes back."""
    await fill(database, "market_history", 8)
    await execute(
        database,
        "UPDATE historical_data.market_history SET raw_json = to_jsonb(repeat('a,\"b', 1000000)) WHERE ctid ="
        " (SELECT max(ctid) FROM historical_data.market_history)",
    )
    before = await held(database, "market_history")
    assert await retire(database, tmp_path) == (1, 1, 0)
    await restore.restore(database, tmp_path / "market_history_202507.parquet")
    assert await held(database, "market_history") == before


async def test_damage_is_refused(database: str, tmp_path: Path) -> None:
    """One changed byte in file or manifest, a file cut short, or none: 65, and the database is as before."""
    await fill(database, "price_history")
    await retire(database, tmp_path)
    file, manifest = tmp_path / FILE, (tmp_path / FILE).with_suffix(".json")
    whole, told = file.read_bytes(), manifest.read_text()
    at = len(whole) // 2
    for bad in (whole[:-9], b"", whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
        file.write_bytes(bad)
        with pytest.raises(BadInputError, match="is damaged"):
            await restore.restore(database, file)
    code, said = await recio(database, tmp_path, "--restore-archive", str(file))
    assert (code, "is damaged" in said) == (65, True), said
    file.write_bytes(whole)
    for lie in (told.replace('"rows": 40', '"rows": 41'), told.replace("202507", "202508"), told[:-20], "[]"):
        assert lie != told
        manifest.write_text(lie)
        with pytest.raises(BadInputError):
            await restore.restore(database, file)
    manifest.write_text(told)
    assert await rows(database, "SELECT to_regclass('historical_data.price_history_202507')") == [(None,)]
    code, said = await recio(database, tmp_path, "--restore-archive", str(file))
    assert (code, "is back: 40 rows" in said) == (0, True), said
    code, said = await recio(database, tmp_path, "--restore-archive", str(file))
    assert (code, "is there already" in said) == (75, True), said


async def test_a_file_that_lies_is_not_loaded(database: str, tmp_path: Path) -> None:
    """Rows that are not those of the manifest, with digests that fit, are found by PostgreSQL and not kept."""
    await fill(database, "price_history")
    await retire(database, tmp_path)
    told = tmp_path / "price_history_202507.json"
    manifest = parquet.read_manifest(told)
    told.write_text(manifest._replace(checksum=str(int(manifest.checksum) + 1)).text())
    with pytest.raises(BadInputError, match="does not hold the rows"):
        await restore.restore(database, tmp_path / FILE)
    assert await held(database, "price_history") == []
    assert await rows(database, "SELECT to_regclass('historical_data.price_history_202507')") == [(None,)]


HARM = 'price"::numeric, 0); DROP TABLE ingest.archives; --'
SOUND = Manifest(
    table="historical_data.price_history",
    partition="historical_data.price_history_202507",
    lower="2025-07-01T00:00:00+00:00",
    upper="2025-08-01T00:00:00+00:00",
    columns=(Column("timestamp", "timestamp with time zone"), Column("price", "numeric", decimal=True)),
    rows=1,
    min_time="2025-07-01T12:00:00+00:00",
    max_time=None,
    checksum="-17",
)


@pytest.mark.parametrize(
    "lie",
    [
        {"columns": (Column(HARM, "numeric"),)},
        {"columns": (Column("Price", "numeric"),)},
        {"columns": (Column("price\n", "numeric"),)},
        {"columns": (Column("x" * 64, "numeric"),)},
        {"columns": (Column("price", HARM),)},
        {"columns": (Column("price", "text", decimal=True),)},
        {"table": "live_data.price_history"},
        {"partition": "historical_data.price_history_202507; DROP TABLE x"},
        {"partition": "historical_data.market_history_202507"},
        {"partition": 7},
        {"lower": "July"},
        {"lower": "2025-07-01T00:00:00"},
        {"upper": "2025-07-01T00:00:00+00:00"},
        {"upper": None},
        {"min_time": "12:00"},
        {"max_time": ""},
        {"max_time": "2025-07-01T12:00:00"},
        {"checksum": "much"},
        {"rows": "1"},
    ],
    ids=str,
)
def test_a_manifest_says_what_ours_say(tmp_path: Path, lie: dict[str, Any]) -> None:
    """Names, types and times that this program never writes are bad input, however well they are sealed."""
    path = tmp_path / "price_history_202507.json"
    path.write_text(SOUND.text())
    assert parquet.read_manifest(path) == SOUND
    path.write_text(SOUND._replace(**lie).text())
    with pytest.raises(BadInputError, match="no manifest of an archive"):
        parquet.read_manifest(path)


async def shortest_drop_s(dsn: str) -> float:
    """Try to drop what is archived and held by somebody; the machine's own pauses are in the longer attempts."""
    took_s = []
    connection = await asyncpg.connect(dsn)
    try:
        for _ in range(10):
            started_s = time.monotonic()
            with pytest.raises(asyncpg.LockNotAvailableError):
                await connection.execute("SELECT ingest.drop_archived_v2(archive_id) FROM ingest.archives")
            took_s.append(time.monotonic() - started_s)
    finally:
        await connection.close()
    return min(took_s)


async def test_a_reader_puts_it_off(database: str, tmp_path: Path) -> None:
    """While a reader holds the table nothing is dropped; a row that comes meanwhile is in what is archived then."""
    await fill(database, "price_history")
    reader = await asyncpg.connect(database)
    try:
        async with reader.transaction():
            await reader.fetch("SELECT FROM historical_data.price_history")
            assert await retire(database, tmp_path) == (1, 0, 1)
            assert await reader.fetchval("SELECT count(*) FROM historical_data.price_history") == 40
            assert await shortest_drop_s(database) < 0.045
        async with reader.transaction():
            await reader.execute("LOCK TABLE ONLY historical_data.price_history_202507 IN ACCESS SHARE MODE")
            assert await shortest_drop_s(database) < 0.025  # while it holds the parent
        await reader.execute(LATE)
    finally:
        await reader.close()
    before = await held(database, "price_history")
    assert await retire(database, tmp_path) == (1, 1, 0)
    await restore.restore(database, tmp_path / "price_history_202507.2.parquet")
    assert await held(database, "price_history") == before


async def test_a_row_that_comes_between(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that is committed after the file was written keeps its partition from being dropped."""
    await fill(database, "price_history")
    try_out = restore.try_out

    async def late(connection: asyncpg.Connection, path: Path) -> parquet.Manifest:
        manifest = await try_out(connection, path)
        await execute(database, LATE)
        return manifest

    monkeypatch.setattr(restore, "try_out", late)
    assert await retire(database, tmp_path) == (1, 0, 1)
    assert len(await held(database, "price_history")) == 41


async def test_late_rows_join_what_comes_back(database: str, tmp_path: Path) -> None:
    """Rows of a month that is gone wait in DEFAULT and join it; one with a key of its rows keeps it out."""
    await fill(database, "price_history")
    before = await held(database, "price_history")
    key = 'source, symbol, "timestamp", trade_id'
    again = f"INSERT INTO historical_data.price_history ({key}, price) SELECT {key}, price FROM twin"
    await execute(database, "CREATE TABLE twin AS SELECT * FROM historical_data.price_history LIMIT 1")
    await retire(database, tmp_path)
    await execute(database, again)
    with pytest.raises(TryLaterError, match="already"):
        await restore.restore(database, tmp_path / FILE)
    await execute(database, "DELETE FROM historical_data.price_history", LATE)
    await restore.restore(database, tmp_path / FILE)
    assert len(await held(database, "price_history_202507")) == len(before) + 1
    assert set(before) < set(await held(database, "price_history"))


@pytest.mark.parametrize("table", TABLES)
async def test_files_of_a_month_come_together(database: str, tmp_path: Path, table: str) -> None:
    """Where late rows have made a month anew its rows come back beside them, as do the late ones, and none twice."""
    await fill(database, table)
    before = await held(database, table)
    await execute(database, *TWIN.format(table).split(";"))
    await retire(database, tmp_path)
    await fill(database, table, 0)
    await execute(database, f"INSERT INTO historical_data.{table} SELECT * FROM twin")
    late = await held(database, table)
    first, second = tmp_path / f"{table}_202507.parquet", tmp_path / f"{table}_202507.2.parquet"
    await restore.restore(database, first)
    assert await held(database, table) == sorted(before + late)

    await execute(database, "UPDATE ingest.archives SET restored_at = NULL")
    await execute(database, f"DELETE FROM historical_data.{table} WHERE \"timestamp\" < '2025-07-31Z'")
    assert await retire(database, tmp_path) == (1, 1, 0)
    for path in (second, first):
        await restore.restore(database, path)
        with pytest.raises(TryLaterError, match="is there already"):
            await restore.restore(database, path)
    await execute(database, "UPDATE ingest.archives SET restored_at = NULL")
    for path in (second, first):
        with pytest.raises(TryLaterError, match=r"has rows of .* already"):
            await restore.restore(database, path)
    assert await held(database, f"{table}_202507") == sorted(before + late)
    assert await scalar(database, "SELECT count(*) FROM pg_class WHERE relname ~ '_restored|_staged'") == 0


async def test_empty_months_are_as_many(database: str, tmp_path: Path) -> None:
    """Two months whose files are equal to the byte have a row each in the books, and are dropped and restored."""
    await fill(database, "price_history", 0)
    august = "CREATE TABLE historical_data.price_history_202508 PARTITION OF historical_data.price_history"
    await execute(database, "SET ROLE recio_owner", f"{august} FOR VALUES FROM ('2025-08-01Z') TO ('2025-09-01Z')")
    assert await retire(database, tmp_path) == (2, 2, 0)
    books = "SELECT count(*), count(DISTINCT file_sha256), count(dropped_at), count(restored_at) FROM ingest.archives"
    assert await rows(database, books) == [(2, 1, 2, 0)]
    for month in ("202507", "202508"):
        await restore.restore(database, tmp_path / f"price_history_{month}.parquet")
    assert await rows(database, books) == [(2, 1, 2, 2)]


async def test_who_uses_the_default_partition(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader who holds it, or a row that comes into it at the last moment, puts a restore off, which then goes."""
    monkeypatch.setitem(store._SETTINGS, "lock_timeout", "100")
    await fill(database, "price_history")
    await retire(database, tmp_path)
    other = await asyncpg.connect(database)
    try:
        async with other.transaction():
            await other.fetch("SELECT FROM historical_data.price_history_default")
            with pytest.raises(TryLaterError, match="somebody holds"):
                await restore.restore(database, tmp_path / FILE)
        monkeypatch.setitem(store._SETTINGS, "lock_timeout", "20000")
        async with other.transaction():
            await other.execute(LATE)
            restoring = asyncio.create_task(restore.restore(database, tmp_path / FILE))

            async def waits() -> bool:
                return bool(await scalar(database, "SELECT count(*) FROM pg_locks WHERE NOT granted"))

            await until(waits, within_s=30, what="the restore to wait for the row")
        with pytest.raises(TryLaterError, match="meanwhile"):
            await restoring
    finally:
        await other.close()
    await restore.restore(database, tmp_path / FILE)
    assert len(await held(database, "price_history_202507")) == 41


async def test_something_else_of_its_name(database: str, tmp_path: Path) -> None:
    """A table that has the partition's name and is not that month is left alone."""
    await fill(database, "price_history")
    await retire(database, tmp_path)
    other = "CREATE TABLE historical_data.price_history_202507"
    august = " PARTITION OF historical_data.price_history FOR VALUES FROM ('2025-08-01Z') TO ('2025-09-01Z')"
    for made in (other + " (x integer)", other + august):
        await execute(database, made)
        with pytest.raises(TryLaterError, match="as something else"):
            await restore.restore(database, tmp_path / FILE)
        await execute(database, "DROP TABLE historical_data.price_history_202507")


@pytest.mark.parametrize("trouble", ["bug", "lost"])
async def test_one_bad_month(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    """A month that cannot be archived, or costs the connection, is named and stays; the next one goes."""
    await fill(database, "price_history")
    await fill(database, "strike_history")
    try_out = restore.try_out

    async def troubled(connection: asyncpg.Connection, path: Path) -> Manifest:
        if path.name == FILE and trouble == "bug":
            raise KeyError(path.name)
        if path.name == FILE:
            await execute(database, f"SELECT pg_terminate_backend({connection.get_server_pid()})")
        return await try_out(connection, path)

    monkeypatch.setattr(restore, "try_out", troubled)
    with capture_logs() as lines:
        assert await retire(database, tmp_path) == (1, 1, 1)
    assert len(await held(database, "price_history")) == 40
    assert await held(database, "strike_history") == []
    told = [(line["log_level"], line["partition"]) for line in lines if line["event"] in TROUBLES]
    level = {"bug": "error", "lost": "warning"}[trouble]
    assert told == [(level, "historical_data.price_history_202507")]


async def test_retention_never_ends_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a pass raises is logged, and the next one comes."""
    passes = 0

    async def bad(*_: object) -> archive.Pass:
        nonlocal passes
        passes += 1
        if passes == 3:
            raise asyncio.CancelledError
        raise (KeyError("bug"), OSError("disk"))[passes - 1]

    monkeypatch.setattr(archive, "run_once", bad)
    monkeypatch.setattr(archive, "EVERY_S", 0.0)
    with capture_logs() as lines, pytest.raises(asyncio.CancelledError):
        await archive.keep("", Settings())
    assert [line["event"] for line in lines] == ["archive.failed", "archive.interrupted"]


async def test_nowhere_to_go(database: str) -> None:
    """Retention without a folder drops nothing, and says so as an error."""
    await fill(database, "price_history")
    with capture_logs() as lines:
        assert await retire(database, "") == (0, 0, 1)
    assert [(line["event"], line["log_level"]) for line in lines] == [("archive.nowhere", "error")]
    assert len(await held(database, "price_history")) == 40


async def test_a_slow_disk_does_not_end_the_session(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashing and fsync of a large file take longer than the server lets other transactions be idle."""
    await fill(database, "price_history")
    monkeypatch.setitem(store._SETTINGS, "idle_in_transaction_session_timeout", "200")
    finish = parquet.Writer.finish

    def slow(writer: parquet.Writer, manifest: Manifest) -> Manifest:
        time.sleep(0.6)
        return finish(writer, manifest)

    monkeypatch.setattr(parquet.Writer, "finish", slow)
    assert await retire(database, tmp_path) == (1, 1, 0)


async def test_young_live_and_default_stay(database: str, tmp_path: Path) -> None:
    """Only whole months of history that are old enough go."""
    await fill(database, "price_history")
    await execute(
        database,
        "CREATE TABLE historical_data.price_history_202512 PARTITION OF historical_data.price_history"
        " FOR VALUES FROM ('2025-12-01Z') TO ('2026-01-01Z')",
        'INSERT INTO historical_data.price_history ("timestamp", source, symbol, price)'
        " VALUES ('2025-12-05Z', 'x', 'y', 1), ('2020-01-01Z', 'x', 'y', 1)",
        'INSERT INTO live_data.btc_price_log ("timestamp", received_at, venue, symbol, price)'
        " VALUES ('2025-07-01Z', '2025-07-01Z', 'x', 'y', 1)",
    )
    assert await retire(database, tmp_path) == (1, 1, 0)
    assert len(await held(database, "price_history")) == 2
    assert await rows(database, "SELECT count(*) FROM live_data.btc_price_log") == [(1,)]
    with pytest.raises(asyncpg.PostgresError):
        await execute(
            database,
            "SELECT ingest.begin_restore_v2('live_data.btc_price_log', 'live_data.x', '2025-07-01Z', '2025-08-01Z',"
            " '{a}', true)",
        )


async def intact(dsn: str, folder: Path, before: list[str]) -> None:
    """Assert that every row is in the table, or in a file that gives it back."""
    if await scalar(dsn, "SELECT to_regclass('historical_data.price_history_202507') IS NOT NULL"):
        assert await held(dsn, "price_history") == before
        return
    connection = await store.connect(dsn, role=restore.ROLE)
    try:
        assert (await restore.try_out(connection, folder / FILE)).rows == len(before)
    finally:
        await connection.close()


@pytest.mark.long
async def test_cut_after_any_message(postgres: PostgresServer, database: str, tmp_path: Path) -> None:
    """The connection lost after any of its messages: the rows are here or in a proven file; the next pass ends it."""
    await fill(database, "price_history", 8)
    before = await held(database, "price_history")
    cuts = 0
    async with PgProxy(postgres.socket) as proxy:
        while True:
            folder = tmp_path / str(cuts)
            proxy.cut_after(1 + 3 * cuts)
            try:
                if await retire(proxy.dsn(database), folder) == (1, 1, 0):
                    break
            except (*store.ERRORS, TimeoutError):
                pass  # before the month
            cuts += 1
            await intact(database, folder, before)
            if not await scalar(database, "SELECT to_regclass('historical_data.price_history_202507') IS NOT NULL"):
                await restore.restore(database, folder / FILE)
                await execute(database, "UPDATE ingest.archives SET restored_at = NULL")
        proxy.cut_after(0)
    assert cuts > 10
    await intact(database, folder, before)
    assert await held(database, "price_history") == []


@pytest.mark.long
async def test_killed_at_every_step_on_disk(database: str, tmp_path: Path) -> None:
    """Killed before each fsync and each rename: the rows are still here, and the next pass archives them."""
    await fill(database, "price_history", 8)
    before = await held(database, "price_history")
    steps = 0
    while True:
        steps += 1
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", KILLED, database, str(tmp_path), str(steps)),
            env={"PYTHONPATH": str(Path(__file__).parent)},
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -9
        await intact(database, tmp_path, before)
        for path in tmp_path.iterdir():
            path.unlink() if path.suffix == ".json" else None
    assert (steps, b"dropped=1" in said) == (6, True)
    await restore.restore(database, tmp_path / FILE)
    assert await held(database, "price_history") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["price_history_202507.json", FILE]


async def test_duckdb_reads_it(database: str, tmp_path: Path) -> None:
    """The query of the documents answers over several files, and with the numbers that PostgreSQL has."""
    await fill(database, "price_history", 2)
    await execute(database, "DELETE FROM historical_data.price_history", LATE)
    await retire(database, tmp_path)
    await execute(database, LATE.replace("1.50", "0.1234567890123456789").replace("23:59Z", "23:10Z"))
    await fill(database, "price_history", 0)
    await retire(database, tmp_path)
    assert (tmp_path / "price_history_202507.2.parquet").exists()

    text = (Path(__file__).parents[1] / "docs" / "operations.md").read_text()
    [query] = re.findall(r"```sql\n(SELECT epoch_ms.*?)```", text, re.DOTALL)
    with duckdb.connect() as connection:
        found = connection.execute(query.replace("/var/lib/recio-ingest/archive", str(tmp_path))).fetchall()
    [(hour, low, high, close, volume, trades)] = found
    assert (hour, Decimal(low), Decimal(high), volume, trades) == (
        1754002800, Decimal("0.123456789012345679"), Decimal("1.5"), None, 2,
    )  # fmt: skip
    assert Decimal(close) == Decimal("1.5")


def test_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The missing extra is a fault of the configuration, and its hint is a command."""
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match="pyarrow") as refused:
        parquet.require()
    assert "pip install" in refused.value.hint
    assert refused.value.exit_code == 78


async def test_the_daemon_does_it(database: str, tmp_path: Path) -> None:
    """A daemon with retention set archives an old month by itself while it waits for its venue."""
    await fill(database, "price_history")
    nobody = {"enabled": True, "url": "ws://127.0.0.1:1", "rest_url": "http://127.0.0.1:1"}
    wanted = settings(tmp_path / "archive")
    async with Daemon(
        tmp_path / "daemon",
        database,
        kalshi=nobody,
        retention=wanted.retention.model_dump(),
        archive=wanted.archive.model_dump(),
    ) as daemon:
        await daemon.start()

        async def gone() -> bool:
            return bool(await scalar(database, "SELECT count(*) FROM ingest.archives WHERE dropped_at IS NOT NULL"))

        await until(gone, within_s=30, what="the month to be archived")
    assert await held(database, "price_history") == []
    assert parquet.check(tmp_path / "archive" / FILE).rows == 40
