"""The database: the only module that speaks to it while frames are shipped.

Exactly once rests on `commit`: one transaction that first moves the offset row from the old frame to the new one (and
finds no row if anybody else has moved it), then copies every row of the batch. After any error the connection is thrown
away and the row is read again; a transaction whose outcome is unknown is never repeated.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from struct import Struct
from struct import error as StructError  # noqa: N812  # it is an exception, and looks like one here
from typing import Any, NamedTuple

import asyncpg
import orjson
import structlog

from recio_ingest import metrics, moves, numeric
from recio_ingest.errors import FencedError, MovedError, OtherWriterError
from recio_ingest.faults import Fault, classify
from recio_ingest.feeds import Missing
from recio_ingest.momentum import MAX_PRICES, Wanted
from recio_ingest.partitions import Partition
from recio_ingest.records import (
    EPOCH_2000_US,
    TABLES,
    Batch,
    BtcPrice,
    Decoded,
    Gap,
    MarketEvent,
    Micros,
    Outcome,
    Quarantined,
    Row,
    micros,
    trade_name,
)
from recio_ingest.sql import statement
from recio_ingest.wire import give_up_in_time

log = structlog.get_logger()

CONNECT_TIMEOUT_S = 10.0
# A batch of 5000 rows takes some 50 ms; a database that needs a minute is not there.
COMMAND_TIMEOUT_S = 60.0
LOCK_TIMEOUT_MS = 5_000
# Longer than any pause of a living writer (it commits at least its one tick a second), shorter than patience.
OTHER_WRITER_S = 30.0
# How far before the last frame a start looks into the past: nearly every market opens and closes within that.
RECALL_US = 40 * 86_400 * 1_000_000
ERRORS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What a call to the database can raise for a reason that lies outside this program."""
INGEST_ROLE = "recio_ingest"

_SETTINGS = {
    "application_name": "recio-ingest",
    "timezone": "UTC",
    "search_path": "pg_catalog",
    "lock_timeout": str(LOCK_TIMEOUT_MS),
    # A writer that froze within a batch must not hold the offset row against its successor.
    "idle_in_transaction_session_timeout": "30000",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "20000",
}
_QUARANTINE = ("stream", *Quarantined._fields)
_KNOWN_TRADES: dict[type[Row], str] = {
    BtcPrice: statement("known_trades"),
    MarketEvent: statement("known_market_trades"),
}


_INT64 = Struct("!q")


def _encode_time(moment: Micros) -> bytes:
    try:
        return _INT64.pack(moment - EPOCH_2000_US)
    except StructError as exc:
        raise ValueError(f"not a time: {moment}") from exc


def _decode_time(data: bytes) -> Micros:
    return int(_INT64.unpack(data)[0]) + EPOCH_2000_US


_CODECS = (("numeric", numeric.encode, numeric.decode), ("timestamptz", _encode_time, _decode_time))


class Position(NamedTuple):
    """Where a stream stands in the database, and who may move it."""

    stream: str
    spool_id: str
    epoch: int
    frame_no: int
    state: dict[str, Any]
    counts: dict[Outcome, int]
    ledger: str = ""
    """Under which name the gaps stand, where that is not the stream's: one for all segments of a spool."""


class BadRow(NamedTuple):
    """One row that the database refuses, and why."""

    row: Row
    why: str


async def connect(dsn: str, role: str | None = INGEST_ROLE) -> asyncpg.Connection:
    """Return a connection to the primary, in a role if this login may take it on."""
    connection = await asyncpg.connect(
        dsn,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=COMMAND_TIMEOUT_S,
        server_settings=_SETTINGS,
        target_session_attrs="read-write",
    )
    try:
        give_up_in_time(connection._transport)  # noqa: SLF001  # asyncpg has no option for it, and shows no socket
        if role is not None and await connection.fetchval(statement("may_set_role"), role):
            await connection.execute(f"SET ROLE {role}")
        for name, encoder, decoder in _CODECS:
            await connection.set_type_codec(
                name, schema="pg_catalog", encoder=encoder, decoder=decoder, format="binary"
            )
    except BaseException:
        connection.terminate()
        raise
    return connection


@asynccontextmanager
async def session(dsn: str) -> AsyncIterator[Store]:
    """Open a store; on leaving with an error the connection is cut, never drained."""
    async with connected(dsn) as connection:
        yield Store(connection)


@asynccontextmanager
async def connected(dsn: str, role: str = INGEST_ROLE) -> AsyncIterator[asyncpg.Connection]:
    """Open a connection in a role; on leaving with an error it is cut, never drained."""
    connection = await connect(dsn, role)
    try:
        yield connection
    except BaseException:
        connection.terminate()
        raise
    else:
        await connection.close(timeout=CONNECT_TIMEOUT_S)


class Store:
    """One connection that commits batches."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def acquire(
        self, stream: str, spool_id: str, *, start_no: int, epoch: int = 0, takeover: bool = False
    ) -> Position:
        """Become the writer of a stream; return where it stands for this spool.

        `epoch` is the one this process holds already (0: none yet). `start_no` is the last frame before the first that
        this spool has: where a stream begins that has not seen this spool. Raises OtherWriterError, FencedError.
        """
        async with self._connection.transaction():
            row = await self._connection.fetchrow(statement("lock_offset"), stream, timedelta(seconds=OTHER_WRITER_S))
            if row is None:
                await self._connection.execute(statement("begin_stream"), stream, spool_id, epoch + 1, start_no, "{}")
                return await self._reload(stream, spool_id, epoch + 1)
            if epoch and row["epoch"] > epoch:
                raise _fenced(row["epoch"], epoch)
            if row["spool_id"] == spool_id and row["epoch"] == epoch:
                return _position(stream, row)
            frame_no = row["frame_no"]
            if row["spool_id"] != spool_id:
                # A row of an earlier epoch than ours is a database gone back in time, not another writer.
                if row["recent"] and not takeover and row["epoch"] >= epoch:
                    raise OtherWriterError(
                        "another recio-ingest, with another spool, has written to this database in the last "
                        f"{OTHER_WRITER_S:.0f} s",
                        hint="stop the other one and wait half a minute, or start this one with --takeover",
                    )
                frame_no = await self._change_spool(row, spool_id, start_no)
            await self._connection.execute(
                statement("raise_epoch"), stream, spool_id, max(row["epoch"], epoch) + 1, frame_no
            )
            return await self._reload(stream, spool_id, max(row["epoch"], epoch) + 1)

    async def commit(self, position: Position, batch: Batch) -> Position:
        """Commit a batch whole, or raise and leave nothing. Returns the new position.

        Raises FencedError where another writer took the stream over, MovedError where the row is not where this one
        left it, and asyncpg's errors otherwise.
        """
        async with self._connection.transaction():
            await self._advance(position, batch)
            for row_type, rows in batch.tables.items():
                await self._copy(row_type, rows)
            await self._note_gaps(position.ledger or position.stream, batch)
            if batch.quarantine:
                await self._connection.copy_records_to_table(
                    "quarantine",
                    schema_name="ingest",
                    columns=_QUARANTINE,
                    records=[(position.stream, *_clean(row)) for row in batch.quarantine],
                )
        counts = {outcome: position.counts[outcome] + batch.counts[outcome] for outcome in Outcome}
        return position._replace(frame_no=batch.last_no, state=batch.state, counts=counts)

    async def _note_gaps(self, stream: str, batch: Batch) -> None:
        """In the order of the frames: what a late trade does to a gap depends on whether it was given up before."""
        came = batch.repaired()
        for entry in batch.ledger:
            if isinstance(entry, Gap):
                await self._connection.execute(statement("put_gap"), stream, *entry)
                continue
            more = 0 if entry.counted else came[entry.by_no]
            await self._connection.execute(
                statement("repair_gap"), stream, entry.frame_no, entry.gap_no, more, entry.end, entry.moment
            )

    async def find_bad_rows(self, batch: Batch, limit: int) -> list[BadRow]:
        """Return the rows that the database refuses, by halving under savepoints; nothing is kept of the attempt.

        Stops after `limit` of them: that many are not bad rows but a wrong table.
        """
        found: list[BadRow] = []
        transaction = self._connection.transaction()
        await transaction.start()
        try:
            for row_type, rows in batch.tables.items():
                await self._halve(row_type, rows, found, limit)
        finally:
            await transaction.rollback()
        return found

    async def known_trades(self, rows: Sequence[Row]) -> set[tuple[Any, ...]]:
        """Return the names (`records.trade_name`) of those trades among the rows that are there, live or past."""
        known: set[tuple[Any, ...]] = set()
        for row_type, query in _KNOWN_TRADES.items():
            trades = [(row.timestamp, trade_name(row)) for row in rows if type(row) is row_type]
            times, names = [time for time, trade in trades if trade], [trade for _, trade in trades if trade]
            if not names:
                continue
            _, symbols, ids = zip(*names, strict=True)
            found = await self._connection.fetch(query, list(set(symbols)), min(times), max(times), ids)
            known |= {tuple(row) for row in found}
        return known

    async def recall(self, names: Sequence[str], state: Mapping[str, Any]) -> dict[str, list[tuple[Any, ...]]]:
        """Return what parsers want to have back from the tables: the rows of these statements, numbers as text.

        What a statement wants to know it says by the types of its parameters: a time, from when on to read the past; a
        text, the committed state as JSON.
        """
        found = {}
        given = {"timestamptz": (state.get("last_ns") or 0) // 1000 - RECALL_US, "text": orjson.dumps(state).decode()}
        for recalled_name in names:
            query = await self._connection.prepare(statement(recalled_name))
            rows = await query.fetch(*(given[parameter.name] for parameter in query.get_parameters()))
            found[recalled_name] = [tuple(map(_as_parsed, row)) for row in rows]
        return found

    async def state_at(self, spool_id: str, frame_no: int) -> dict[str, Any]:
        """Return the state of whatever stream of this spool stands at this frame; empty where none does."""
        found = await self._connection.fetchval(statement("state_at"), spool_id, frame_no)
        state: dict[str, Any] = orjson.loads(found or "{}")
        return state

    async def recall_prices(self, wanted: Sequence[Wanted]) -> list[asyncpg.Record]:
        """Return the live rows of the price windows: venue, symbol, time and price, as a window is ordered."""
        if not wanted:
            return []
        venues, symbols, times = zip(*wanted, strict=True)
        query = statement("recent_prices")
        return list(await self._connection.fetch(query, venues, symbols, times, MAX_PRICES, min(times)))

    async def gaps(self, gaps_name: str, limit: int) -> list[Missing]:
        """Return gaps that this statement finds: closed, neither filled nor given up, the oldest first."""
        return [Missing(*row) for row in await self._connection.fetch(statement(gaps_name), limit)]

    async def open_quarantine(self, after_id: int, limit: int) -> list[asyncpg.Record]:
        """Return the next entries of the quarantine that are still unused."""
        return list(await self._connection.fetch(statement("open_quarantine"), after_id, limit))

    async def release(self, entry: asyncpg.Record, decoded: Decoded) -> bool:
        """Store the rows of a quarantined frame that today's parser can use; return False where somebody else did.

        Rows of that frame that are there already are replaced; with it go all entries that the frame has.
        """
        tables: dict[type[Row], list[Row]] = {}
        for row in decoded.rows:
            if isinstance(row, Row):
                tables.setdefault(type(row), []).append(row)
        async with self._connection.transaction():
            status = await self._connection.execute(statement("close_quarantine"), entry["stream"], entry["frame_no"])
            if status == "UPDATE 0":
                return False
            for row_type, rows in tables.items():
                await self._delete_rows(entry, TABLES[row_type], [row.row_no for row in rows])
                await self._copy(row_type, rows)
            moved = [int(decoded.outcome is kind) for kind in (Outcome.SHIPPED, Outcome.DUPLICATE, Outcome.STATE)]
            await self._connection.execute(statement("move_from_quarantine"), entry["stream"], 1, *moved)
        return True

    async def _delete_rows(self, entry: asyncpg.Record, table: str, numbers: Sequence[int]) -> None:
        """Delete rows of a frame, live ones first: what is being rolled over meanwhile is found where it went."""
        await self._connection.execute(
            statement("delete_frame_rows").replace("{table}", f"live_data.{table}"), entry["frame_no"], numbers
        )
        for target in moves.targets_of(f"live_data.{table}"):
            await self._connection.execute(
                statement("delete_old_frame_rows").replace("{table}", target),
                entry["frame_no"],
                numbers,
                entry["received_at"],
            )

    async def peek(self, stream: str) -> Position | None:
        """Return where a stream stands, or None where nothing was shipped of it yet; claims nothing."""
        row = await self._connection.fetchrow(statement("read_offset"), stream)
        return _position(stream, row) if row else None

    async def make_partition(self, partition: Partition, key: str) -> bool:
        """Make one partition ahead; return whether it was missing."""
        return bool(
            await self._connection.fetchval(
                statement("make_partition"), *partition[:2], key, micros(partition.lower), micros(partition.upper)
            )
        )

    async def _advance(self, position: Position, batch: Batch) -> None:
        counts = [batch.counts[outcome] for outcome in Outcome]
        state = orjson.dumps(batch.state).decode()
        status = await self._connection.execute(statement("advance"), *position[:4], batch.last_no, state, *counts)
        if status != "UPDATE 1":
            row = await self._connection.fetchrow(statement("read_offset"), position.stream)
            if row is not None and row["epoch"] > position.epoch:
                raise _fenced(row["epoch"], position.epoch)
            raise MovedError

    async def _copy(self, row_type: type[Row], rows: Sequence[Row]) -> None:
        table = TABLES[row_type]
        started_s = time.perf_counter()
        await self._connection.copy_records_to_table(
            table, schema_name="live_data", columns=row_type._fields, records=rows
        )
        metrics.COPY.labels(table).observe(time.perf_counter() - started_s)

    async def _halve(self, row_type: type[Row], rows: Sequence[Row], found: list[BadRow], limit: int) -> None:
        """At most 2 log2(n) extra COPYs per bad row."""
        if len(found) >= limit:
            return
        try:
            async with self._connection.transaction():
                await self._copy(row_type, rows)
        except Exception as exc:
            if classify(exc) is not Fault.BAD_ROW:
                raise
            if len(rows) == 1:
                found.append(BadRow(rows[0], str(exc)))
                return
            middle = len(rows) // 2
            await self._halve(row_type, rows[:middle], found, limit)
            await self._halve(row_type, rows[middle:], found, limit)

    async def _change_spool(self, row: Any, spool_id: str, start_no: int) -> int:  # noqa: ANN401  # asyncpg.Record
        """Write down how far the other spool got, and return how far this one did when it was last the writer."""
        await self._connection.execute(statement("retire_spool"), row["spool_id"], row["epoch"], row["frame_no"])
        former = await self._connection.fetchrow(statement("read_offset"), f"spool/{spool_id}")
        log.warning("store.spool_changed", known=former is not None)
        return max(start_no, former["frame_no"]) if former else start_no

    async def _reload(self, stream: str, spool_id: str, epoch: int) -> Position:
        row = await self._connection.fetchrow(statement("read_offset"), stream)
        if row is None or row["spool_id"] != spool_id or row["epoch"] != epoch:
            raise OtherWriterError("another recio-ingest began to write at the same moment", hint="start it again")
        return _position(stream, row)


def _position(stream: str, row: Any) -> Position:  # noqa: ANN401  # asyncpg.Record
    counts = {outcome: row[f"{outcome}_frames"] for outcome in Outcome}
    return Position(stream, row["spool_id"], row["epoch"], row["frame_no"], orjson.loads(row["state"]), counts)


def _as_parsed(value: Any) -> Any:  # noqa: ANN401  # any column
    return format(value, "f") if isinstance(value, Decimal) else value


def _fenced(epoch: int, ours: int) -> FencedError:
    return FencedError(
        f"fenced: another recio-ingest took over this database (epoch {epoch}, ours {ours}); this one stops writing",
        hint="what this one had accepted and not shipped stays in its spool, and ships when it is the writer again",
    )


def _clean(row: Quarantined) -> Quarantined:
    """Make the words storable whatever the message held: text in PostgreSQL has no NUL and no lone surrogates."""
    detail = row.detail.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
    return row._replace(detail=detail[:1000])
