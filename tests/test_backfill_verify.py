"""The verification against real rows: what is as the file has it passes, and every fault is found and named."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import backfill_files as files
import backfill_plain as plain
import pytest

from recio_ingest.backfill.report import Verdict
from recio_ingest.backfill.tables import TABLES, Kind
from recio_ingest.backfill.verify import Load, verify

SHAPES: dict[str, Callable[[Path], Path]] = {
    "trades": lambda path: files.clean_trades(path, 40),
    "fills": lambda path: files.write(path, "fills", map(files.fill, range(1, 41))),
    "settlements": lambda path: files.write(path, "settlements", map(files.settlement, range(1, 41))),
    "positions": lambda path: files.write(path, "positions", map(files.position, range(1, 41))),
    "price_log": lambda path: files.write(
        path, "price_log", files.with_momentum(files.ticks("2025-07-01T12:34:56", 40)), files.LATER_PRICE_LOG
    ),
}


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a fresh database, with the settings of the program's own."""
    connection = await asyncpg.connect(database, server_settings={"timezone": "UTC"})
    # A hand that changes a value here does not stop at triggers.
    await connection.execute("SET session_replication_role = replica")
    yield connection
    await connection.close()


async def verdict(connection: asyncpg.Connection, path: Path, load: Load, **changed: Any) -> Verdict:
    """Verify a load of the file."""
    return await verify(connection, partial(plain.reread, path, load.table.name, **changed), load)


def failed(verdict: Verdict) -> list[str]:
    """Return the groups of checks that failed."""
    return sorted({check.group for check in verdict.checks if not check.ok})


@pytest.mark.parametrize("name", SHAPES)
async def test_a_clean_load_is_verified(connection: asyncpg.Connection, tmp_path: Path, name: str) -> None:
    """Every shape of file that was loaded as it is passes every check, without one block to open."""
    path = SHAPES[name](tmp_path / "source.db")
    load = await plain.load(connection, path, name)
    found = await verdict(connection, path, load)
    assert (found.ok, failed(found), found.differing, found.opened) == (True, [], 0, 0)
    assert (found.rows, load.inserted, load.quarantined) == (40, 40, 0)
    groups = {check.group for check in found.checks}
    assert groups >= {"counts", "types", "keys", "values", "sums", "time bounds", "fingerprints"}


async def test_references_are_checked(connection: asyncpg.Connection, tmp_path: Path) -> None:
    """Active trades belong to trades; one whose trade is gone fails the check of references."""
    path = files.clean_trades(tmp_path / "trades.db", 5)
    files.write(path, "active_trades", (files.active_trade(number, number) for number in range(1, 6)))
    await plain.load(connection, path, "trades")
    load = await plain.load(connection, path, "active_trades")
    assert (await verdict(connection, path, load)).ok
    await connection.execute("DELETE FROM users.trades_0001 WHERE id = 3")
    assert failed(await verdict(connection, path, load)) == ["references"]


async def test_dirty_rows_are_loaded_or_held(connection: asyncpg.Connection, tmp_path: Path) -> None:
    """Each dirty value is either stored as the rules say or its row is in the quarantine, and all of it is verified."""
    dirt = files.dirty_trades(tmp_path / "trades.db")
    load = await plain.load(connection, tmp_path / "trades.db", "trades")
    assert load.quarantined == sum(bool(each.quarantined) for each in dirt.values())
    for number, each in dirt.items():
        (column,) = each.changed
        shown = f"trim_scale({column})::text" if TABLES["trades"].columns and column in NUMERIC else f"{column}::text"
        row = await connection.fetchrow(f"SELECT {shown} AS value FROM users.trades_0001 WHERE id = $1", number)
        if each.quarantined:
            assert row is None, each
        else:
            assert row["value"] == each.stored, each
    found = await verdict(connection, tmp_path / "trades.db", load)
    assert (found.ok, found.differences) == (True, ())


NUMERIC = {column.name for column in TABLES["trades"].columns if column.kind is Kind.NUMERIC}

# Of every column type: the change by hand, the column that has to be named, and the row.
CHANGES = [
    ("status = 'open'", "status", 7),
    ("date = date + 1", "date", 1),
    ("time = time + interval '1 microsecond'", "time", 40),
    ("strike = strike + 0.01", "strike", 2),
    ("side = lower(side)", "side", 3),
    ("prob = prob * 1.0000000001", "prob", 4),
    ("diff = -diff - 1", "diff", 5),
    ("buy_price = buy_price + 1e-30", "buy_price", 6),
    ("position = position + 1", "position", 8),
    ("sell_price = NULL", "sell_price", 9),
    ("closed_at = closed_at - interval '1 hour'", "closed_at", 10),
    ("fees = 'NaN'", "fees", 11),
    ("pnl = -pnl", "pnl", 12),
    ("symbol_open = 0", "symbol_open", 13),
    ("symbol = ''", "symbol", 14),
    ("symbol = NULL", "symbol", 15),
    ("market = 'NULL'", "market", 16),
    ("contract = contract || ' '", "contract", 17),
    ("ticket_id = lower(ticket_id)", "ticket_id", 18),
    ("win_loss = win_loss || E'\\\\'", "win_loss", 19),
    ("momentum_delta = 0", "momentum_delta", 20),
    ("volatility = volatility + 1", "volatility", 21),
    ("entry_method = 'auto'''", "entry_method", 22),
]


async def test_a_value_changed_by_hand_is_found_and_named(connection: asyncpg.Connection, tmp_path: Path) -> None:
    """One value of any column, changed after the load, is named with its row, its column and both values; alone."""
    path = files.clean_trades(tmp_path / "trades.db", 40)
    load = await plain.load(connection, path, "trades")
    for change, column, number in CHANGES:
        old = await connection.fetchrow("DELETE FROM users.trades_0001 WHERE id = $1 RETURNING *", number)
        again = f"INSERT INTO users.trades_0001 VALUES ({', '.join(f'${at}' for at in range(1, len(old) + 1))})"
        await connection.execute(again, *old)
        await connection.execute(f"UPDATE users.trades_0001 SET {change} WHERE id = $1", number)
        found = await verdict(connection, path, load)
        assert not found.ok
        assert [(each.key, each.rowid, each.column) for each in found.differences] == [(str(number), number, column)]
        assert found.differences[0].source != found.differences[0].database
        assert found.differing == found.opened == 1
        await connection.execute("DELETE FROM users.trades_0001 WHERE id = $1", number)
        await connection.execute(again, *old)
    assert (await verdict(connection, path, load)).ok


async def test_zeros_at_the_end_are_equal(connection: asyncpg.Connection, tmp_path: Path) -> None:
    """0.50 is 0.5: what is compared is the value and not its scale."""
    path = files.clean_trades(tmp_path / "trades.db", 10)
    load = await plain.load(connection, path, "trades")
    await connection.execute("UPDATE users.trades_0001 SET buy_price = buy_price + 0.0000, strike = strike + 0.00")
    assert (await verdict(connection, path, load)).ok


SWAPPED_IDS = """
UPDATE users.trades_0001 SET id = -1 WHERE id = 4;
UPDATE users.trades_0001 SET id = 4 WHERE id = 5;
UPDATE users.trades_0001 SET id = 5 WHERE id = -1
"""
SWAPPED_VALUES = """
UPDATE users.trades_0001 SET ticket_id = o.ticket_id FROM users.trades_0001 o
 WHERE o.id = 13 - trades_0001.id AND trades_0001.id IN (6, 7)
"""
ONE_TOO_MANY = """
INSERT INTO ingest.quarantine (stream, frame_no, feed, received_at, reason, detail, frame)
SELECT stream, 77, feed, received_at, reason, detail, frame FROM ingest.quarantine WHERE frame_no = 11
"""
OTHER_TYPE = """
DROP VIEW users.trade_performance_view, users.recent_trades_view;
ALTER TABLE users.trades ALTER pnl TYPE double precision
"""
NO_KEY = """
DO $$
DECLARE i regclass;
BEGIN
  SELECT indexrelid INTO i FROM pg_index
   WHERE indrelid = 'users.trades_0001'::regclass AND indisunique AND NOT indisprimary;
  EXECUTE format('DROP INDEX %s', i);
END
$$
"""


class Fault(NamedTuple):
    """What somebody did to the database; the rows and columns to be named; the groups of checks that have to fail."""

    done: str
    named: set[tuple[int, str]]
    groups: list[str]


TRADES = "UPDATE users.trades_0001 SET"
ALL = ["counts", "fingerprints", "sums", "time bounds", "values"]
FAULTS = {
    "a row is deleted": Fault(
        "DELETE FROM users.trades_0001 WHERE id = 4", {(4, "")}, ["counts", "fingerprints", "sums", "values"]
    ),
    "two rows swap their ids": Fault(SWAPPED_IDS, {(4, "time"), (5, "time")}, ["fingerprints"]),
    "two values swap their rows": Fault(SWAPPED_VALUES, {(6, "ticket_id"), (7, "ticket_id")}, ["fingerprints"]),
    "two columns swap their values": Fault(
        f"{TRADES} symbol = market, market = symbol WHERE id = 9", {(9, "symbol"), (9, "market")}, ["fingerprints"]
    ),
    "a row has another key": Fault(f"{TRADES} id = 99 WHERE id = 8", {(8, "")}, ["fingerprints", "sums", "values"]),
    "a row belongs to no load": Fault(f"{TRADES} backfill_id = NULL WHERE id = 3", set(), ["counts"]),
    "all rows are gone": Fault("DELETE FROM users.trades_0001", {(number, "") for number in range(1, 11)}, ALL),
    "an entry of the quarantine is gone": Fault(
        "DELETE FROM ingest.quarantine WHERE frame_no = 11", {(11, "prob")}, ["counts"]
    ),
    "the quarantine has a row that can be loaded": Fault(
        "UPDATE ingest.quarantine SET frame_no = 2 WHERE frame_no = 11", {(2, ""), (11, "prob")}, []
    ),
    "the quarantine has a row of no file": Fault(ONE_TOO_MANY, set(), ["counts"]),
    "a column has another type": Fault(OTHER_TYPE, set(), ["counts", "types"]),
    "the key's index is gone": Fault(NO_KEY, set(), ["keys"]),
}


@pytest.mark.parametrize("what", FAULTS)
async def test_a_fault_is_found_and_named(connection: asyncpg.Connection, tmp_path: Path, what: str) -> None:
    """A row lost, moved or made up, here or in the quarantine, fails the checks it concerns and is named."""
    path = files.clean_trades(tmp_path / "trades.db", 10)
    files.write(path, "trades", [files.trade(11, prob="NaN")])
    load = await plain.load(connection, path, "trades")
    assert (await verdict(connection, path, load)).ok
    await connection.execute(FAULTS[what].done)
    found = await verdict(connection, path, load)
    assert not found.ok
    assert {(each.rowid, each.column) for each in found.differences} >= FAULTS[what].named
    assert {each.rowid for each in found.differences} == {rowid for rowid, _ in FAULTS[what].named}
    assert failed(found) == FAULTS[what].groups


async def test_rows_of_others_are_no_difference(connection: asyncpg.Connection, tmp_path: Path) -> None:
    """Rows that the file does not have may stand in every block, and the load is still as the file has it."""
    path = files.clean_trades(tmp_path / "trades.db", 10)
    await plain.load(connection, files.clean_trades(tmp_path / "other.db", 30, first=1001), "trades")
    load = await plain.load(connection, path, "trades")
    assert (await verdict(connection, path, load)).ok


async def test_rows_that_were_there_count_as_the_files_own(connection: asyncpg.Connection, tmp_path: Path) -> None:
    """A grown copy of a file finds its older rows there; equal ones pass, among rows of others too."""
    await plain.load(connection, files.clean_trades(tmp_path / "old.db", 20), "trades")
    await plain.load(connection, files.clean_trades(tmp_path / "other.db", 30, first=1001), "trades")
    path = files.clean_trades(tmp_path / "new.db", 40)
    load = await plain.load(connection, path, "trades")
    found = await verdict(connection, path, load)
    assert (load.inserted, load.present, found.ok, found.differing) == (20, 20, True, 0)


async def test_a_row_that_was_there_with_another_value_is_named(connection: asyncpg.Connection, tmp_path: Path) -> None:
    """A row that another program wrote under the same key is never overwritten, and its difference is named."""
    other = files.write(tmp_path / "old.db", "trades", [files.trade(5, pnl=0.14)])
    await plain.load(connection, other, "trades")
    path = files.clean_trades(tmp_path / "new.db", 10)
    load = await plain.load(connection, path, "trades")
    found = await verdict(connection, path, load)
    assert [(each.key, each.column, each.database) for each in found.differences] == [("5", "pnl", "0.14")]
    assert failed(found) == ["fingerprints", "sums"]


async def test_keys_that_come_twice_are_counted(connection: asyncpg.Connection, tmp_path: Path) -> None:
    """A settlement that was written twice is there once, verified, and told; with other values it is a difference."""
    rows = [files.settlement(number) for number in (1, 2, 3)]
    path = files.write(tmp_path / "settlements.db", "settlements", [*rows, rows[0]])
    load = await plain.load(connection, path, "settlements")
    found = await verdict(connection, path, load)
    assert (load.inserted, load.present, found.ok, found.duplicates) == (3, 1, True, 1)
    files.write(path, "settlements", [rows[1] | {"revenue": 0.14}])
    await connection.execute("TRUNCATE users.settlements_0001")
    found = await verdict(connection, path, await plain.load(connection, path, "settlements"))
    assert [(each.rowid, each.column, each.source) for each in found.differences] == [(5, "revenue", "0.14")]


async def test_the_hour_that_comes_twice_is_as_the_rows_say(connection: asyncpg.Connection, tmp_path: Path) -> None:
    """The same text is two instants in that hour, and a row in the other one is found."""
    path = files.autumn_ticks(tmp_path / "btc_price_history.db")
    folds = {rowid: 0 if rowid <= 90 else 1 for rowid in range(31, 131)}
    load = await plain.load(connection, path, "price_log", folds=folds)
    assert (load.inserted, load.quarantined) == (120, 0)
    assert (await verdict(connection, path, load, folds=folds)).ok
    held = await verdict(connection, path, load)
    assert (held.differing, held.differences[0].database) == (60, "not in the quarantine")
    await connection.execute(
        'UPDATE historical_data.price_history SET "timestamp" = "timestamp" - interval \'1 hour\''
        " WHERE \"timestamp\" = '2025-11-02 06:00:07+00'"
    )
    found = await verdict(connection, path, load, folds=folds)
    assert [(each.key, each.column) for each in found.differences] == [("2025-11-02 06:00:07+00", "")]


async def test_a_row_that_the_server_refused_is_no_fault(connection: asyncpg.Connection, tmp_path: Path) -> None:
    """A value that converts may still break a rule of the table; the quarantine says that the server refused it."""
    path = files.clean_trades(tmp_path / "trades.db", 5)
    load = await plain.load(connection, path, "trades")
    await connection.execute("DELETE FROM users.trades_0001 WHERE id = 3")
    await plain.quarantine(connection, load.backfill_id, 3, reason="refused")
    found = await verdict(connection, path, load._replace(inserted=4, quarantined=1))
    assert (found.ok, found.differences) == (True, ())


async def test_a_duplicate_has_its_original(connection: asyncpg.Connection, tmp_path: Path) -> None:
    """A row may be set aside as a duplicate only if a row of its key is there."""
    rows = [files.settlement(1), files.settlement(2, ticker="O'Brien\\"), files.settlement(2, ticker="O'Brien\\")]
    path = files.write(tmp_path / "settlements.db", "settlements", rows)
    load = await plain.load(connection, path, "settlements")
    await plain.quarantine(connection, load.backfill_id, 3, reason="duplicate_key")
    load = load._replace(present=0, quarantined=1)
    found = await verdict(connection, path, load)
    assert (found.ok, found.differences) == (True, ())
    await connection.execute("UPDATE ingest.quarantine SET reason = 'duplicate_key', frame_no = 1")
    await connection.execute("DELETE FROM users.settlements_0001 WHERE ticker LIKE 'KX%'")
    found = await verdict(connection, path, load._replace(rows=3, inserted=1, present=1))
    assert [(each.rowid, each.database) for each in found.differences] == [(1, "a duplicate of no row")]


async def test_many_differences_are_counted_and_the_first_named(connection: asyncpg.Connection, tmp_path: Path) -> None:
    """If everything is wrong the verdict stays small: all differences are counted, a thousand named."""
    path = files.write(tmp_path / "price.db", "price_log", files.ticks("2025-07-01T00:00:00", 1200))
    load = await plain.load(connection, path, "price_log")
    await connection.execute("UPDATE historical_data.price_history SET price = price + 1")
    found = await verdict(connection, path, load, block_rows=1000)
    assert (found.differing, len(found.differences)) == (1200, 1000)
