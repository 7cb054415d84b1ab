"""The database's side of a load: one transaction a batch, the progress row first in it, then the rows.

Exactly once rests on that row, as it does with live frames: it moves from the batch before to this one, or nothing
happens. Keys that are there already are looked up, never overwritten.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from struct import unpack_from
from typing import Any, NamedTuple

import asyncpg
import orjson

from recio_ingest import store
from recio_ingest.backfill import candles, leaf
from recio_ingest.backfill.convert import Bad, Block
from recio_ingest.backfill.rules import bigint, copy_head, text
from recio_ingest.backfill.source import Found
from recio_ingest.backfill.tables import BadText, Kind, Table
from recio_ingest.errors import MovedError, SchemaError
from recio_ingest.faults import Fault, classify
from recio_ingest.partitions import OLDEST, monthly
from recio_ingest.records import EPOCH, EPOCH_2000_US, Micros, Quarantined
from recio_ingest.sql import statement

ROLE = "recio_backfill"
FEED = "backfill"
# One statement of a load or of its undoing may take long; the connection's own limit is for a daemon's batches.
PATIENCE_S = 3600.0
_SIGNATURE = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER = b"\xff\xff"
_CHUNK_BYTES = 1 << 18
_DAY_US = 86_400_000_000
# What is older than any price or lies further ahead goes to the partition for the rest.
_FIRST_DAY, _DAYS_AHEAD = (OLDEST - EPOCH).days, 31
_QUARANTINE = ("stream", *Quarantined._fields)
_KNOWN = {
    "trades": statement("backfill_known_id"),
    "active_trades": statement("backfill_known_id"),
    "fills": statement("backfill_known_fills"),
    "settlements": statement("backfill_known_settlements"),
    "positions": statement("backfill_known_positions"),
    "price_log": statement("backfill_known_prices"),
}


class Progress(NamedTuple):
    """Where a load stands, as its row says."""

    backfill_id: int
    state: str
    last_rowid: int | None
    rows: int
    inserted: int
    present: int
    quarantined: int

    def holds(self, batch: Batch) -> bool:
        """Whether this batch was the last one that was committed."""
        return self.last_rowid == batch.last_rowid


class Batch(NamedTuple):
    """The rows of one transaction: those of `block`, what is derived of each of them, up to and with `last_rowid`."""

    last_rowid: int
    block: Block
    derived: list[bytes] | None

    @property
    def rows(self) -> int:
        """How many rows of the source these are."""
        return len(self.block.rows) + len(self.block.bad)


class Sorted(NamedTuple):
    """What becomes of a batch's rows, by their places: `new` ones go in; derived ones have their own answer."""

    new: list[int]
    derived: list[int]
    present: int
    bad: list[Bad]


class Door:
    """One connection that loads one table."""

    def __init__(self, connection: asyncpg.Connection, found: Found, user: str) -> None:
        self._connection = connection
        self._found = found
        self._user = user
        self.table = found.table
        self.looks = True
        """Whether keys are looked up at all: no need in an empty table, until it turns out not to be."""
        self._months: set[str] = set()

    async def begin(self, snapshot: Any) -> Progress:  # noqa: ANN401  # a Snapshot
        """Find the load of this file's table, or write down that it begins. Raises SchemaError without its target."""
        name = leaf.name(self.table, self._user)
        if not await self._connection.fetchval(statement("relation_exists"), name):
            raise SchemaError(
                f"the table {name} is not there", hint=f"make the user first: SELECT users.create_user('{self._user}')"
            )
        user = self._user if self.table.per_user else None
        await self._connection.execute(
            statement("backfill_begin"),
            snapshot.name,
            snapshot.sha256,
            snapshot.size_bytes,
            self.table.name,
            user,
            f"{self.table.schema}.{self.table.leaf(self._user)}",
        )
        # Locked for a moment: the last transaction of a program that was killed may still be ending.
        row = await self._connection.fetchrow(statement("backfill_find"), snapshot.sha256, self.table.name, user)
        if row["state"] == "failed":
            await self._connection.execute(statement("backfill_resume"), row["backfill_id"])
        self.looks = await self._connection.fetchval(statement("backfill_has_rows").format(leaf=name))
        return Progress(*row)

    async def fail(self, progress: Progress) -> None:
        """Write down that the file could not be read to its end; another run may go on."""
        await self._connection.execute(statement("backfill_fail"), progress.backfill_id)

    async def read(self, progress: Progress) -> Progress:
        """Return where the load stands now. Raises MovedError where it is gone."""
        row = await self._connection.fetchrow(statement("backfill_read"), progress.backfill_id)
        if row is None:
            raise MovedError("the row of this load is gone from ingest.backfills")
        return Progress(*tuple(row)[: len(Progress._fields)])

    async def there(self) -> bool:
        """Whether the target is there at all: a dry run may come before the schema."""
        name = leaf.name(self.table, self._user)
        return bool(await self._connection.fetchval(statement("relation_exists"), name))

    async def end(self, progress: Progress) -> None:
        """Write down that all rows are in, and move the sequences behind them."""
        async with self._connection.transaction():
            await self._connection.execute(statement("backfill_end"), progress.backfill_id)
            if self.table.per_user:
                await self._connection.execute(statement("backfill_sequences"), self._user)

    async def sort(self, batch: Batch, backfill_id: int | None, *, refers: bool = True) -> Sorted:
        """Decide what is new, what is there, and what cannot go in for a reason that only the database knows."""
        block = batch.block
        bad = list(block.bad)
        places = list(range(len(block.keys)))
        if len(set(block.keys)) < len(block.keys):
            places = self._without_repeated(block, places, bad)
        if refers:
            places = await self._without_orphans(block, places, bad)
        known = await self._known(self.table, block.keys, places)
        repeated = {place for place, origin in known.items() if backfill_id is not None and origin == backfill_id}
        bad += [_duplicate(block.rows[place]) for place in sorted(repeated)]
        new = [place for place in places if place not in known]
        derived: list[int] = []
        if batch.derived is not None and self.table.companion is not None:
            places = [place for place in places if place not in repeated]
            there = await self._known(self.table.companion, block.keys, places)
            derived = [place for place in places if place not in there]
        return Sorted(new, derived, len(known) - len(repeated), bad)

    async def commit(self, progress: Progress, batch: Batch, found: Sorted) -> Progress:
        """Commit a batch whole, or raise and leave nothing. Raises MovedError where the row is not where it was."""
        moved = progress._replace(
            last_rowid=batch.last_rowid,
            rows=progress.rows + batch.rows,
            inserted=progress.inserted + len(found.new),
            present=progress.present + found.present,
            quarantined=progress.quarantined + len(found.bad),
        )
        by = [new - old for new, old in zip(moved[3:], progress[3:], strict=True)]
        async with self._connection.transaction():
            status = await self._connection.execute(
                statement("backfill_advance"), progress.backfill_id, progress.last_rowid, batch.last_rowid, *by
            )
            if status != "UPDATE 1":
                raise MovedError("another program has moved this load on: two of them load the same file")
            await self._copy(self.table, [batch.block.fields[place] for place in found.new], progress.backfill_id)
            if batch.derived is not None and self.table.companion is not None:
                derived = [batch.derived[place] for place in found.derived]
                await self._copy(self.table.companion, derived, progress.backfill_id)
            if not self.table.per_user:
                touched = candles.minutes(_moment(batch.block.keys[place]) for place in found.new)
                await candles.refresh(self._connection, self.table, touched, PATIENCE_S)
            if found.bad:
                await self._connection.copy_records_to_table(
                    "quarantine",
                    schema_name="ingest",
                    columns=_QUARANTINE,
                    records=[self._entry(bad, progress.backfill_id) for bad in found.bad],
                )
        return moved

    async def find_refused(self, batch: Batch, found: Sorted, backfill_id: int) -> Sorted:
        """Find the rows that the server refuses, by halving under savepoints, and put them with the bad ones."""
        refused: dict[int, str] = {}
        transaction = self._connection.transaction()
        await transaction.start()
        try:
            await self._halve(batch.block, found.new, backfill_id, refused)
        finally:
            await transaction.rollback()
        bad = [Bad(batch.block.rows[place], (("refused", "", why),)) for place, why in refused.items()]
        return found._replace(
            new=[place for place in found.new if place not in refused],
            derived=[place for place in found.derived if place not in refused],
            bad=found.bad + bad,
        )

    async def make_months(self, batch: Batch) -> None:
        """Make the partitions of this batch's months, one by one and outside of its transaction."""
        if self.table.per_user:
            return
        days = {_moment(key) // _DAY_US for key in batch.block.keys}
        latest = (datetime.now(UTC) - EPOCH).days + _DAYS_AHEAD
        for day in days:
            if not _FIRST_DAY <= day <= latest:
                continue
            moment = EPOCH + timedelta(days=day)
            for target in filter(None, (self.table, self.table.companion)):
                for month in monthly(f"{target.schema}.{target.target}", moment, moment):
                    if month.name not in self._months:
                        await store.Store(self._connection).make_partition(month, "timestamp")
                        self._months.add(month.name)

    @staticmethod
    def _without_repeated(block: Block, places: Sequence[int], bad: list[Bad]) -> list[int]:
        seen: set[bytes] = set()
        kept = []
        for place in places:
            if block.keys[place] in seen:
                bad.append(_duplicate(block.rows[place]))
            else:
                seen.add(block.keys[place])
                kept.append(place)
        return kept

    async def _without_orphans(self, block: Block, places: list[int], bad: list[Bad]) -> list[int]:
        for column in self.table.columns:
            if not column.refers or not places:
                continue
            target = leaf.name(self.table, self._user, column.refers)
            ids = [_value(Kind.INTEGER, block.refers[place][4:]) for place in places]
            there = await self._connection.fetch(statement("backfill_known_id").format(leaf=target), ids)
            found = {places[row["n"] - 1] for row in there}
            bad += [
                Bad(block.rows[place], (("no_such_trade", column.source_name, f"no row of {target} has this id"),))
                for place in places
                if place not in found
            ]
            places = [place for place in places if place in found]
        return places

    async def _known(self, target: Table, keys: Sequence[bytes], places: Sequence[int]) -> dict[int, int | None]:
        """Return the places whose keys are there, each with the load that brought it."""
        if not places or not self.looks:
            return {}
        kinds = [column.kind for column in leaf.key_columns(target)]
        columns = zip(*(_values(kinds, keys[place]) for place in places), strict=True)
        fixed = dict(target.fixed)
        query = _KNOWN[target.name].format(leaf=leaf.name(target, self._user))
        more = [fixed[name] for name in ("source", "symbol") if name in fixed]
        rows = await self._connection.fetch(query, *map(list, columns), *more)
        return {places[row["n"] - 1]: row["backfill_id"] for row in rows}

    async def _copy(self, target: Table, rows: Sequence[bytes], backfill_id: int) -> None:
        if not rows:
            return
        names = [column.name for column in target.columns] + [name for name, _ in target.fixed] + ["backfill_id"]
        tail = b"".join(text(value) for _, value in target.fixed) + bigint(backfill_id)
        await self._connection.copy_to_table(
            target.leaf(self._user),
            schema_name=target.schema,
            columns=names,
            source=_stream(rows, copy_head(len(names)), tail),
            format="binary",
        )

    async def _halve(self, block: Block, places: Sequence[int], backfill_id: int, refused: dict[int, str]) -> None:
        """At most 2 log2(n) extra COPYs per bad row."""
        try:
            async with self._connection.transaction():
                await self._copy(self.table, [block.fields[place] for place in places], backfill_id)
        except Exception as exc:
            if classify(exc) is not Fault.BAD_ROW:
                raise
            if len(places) == 1:
                # Not the server's detail: that has the row's values, and the times of this attempt.
                refused[places[0]] = str(getattr(exc, "message", None) or exc)
                return
            middle = len(places) // 2
            await self._halve(block, places[:middle], backfill_id, refused)
            await self._halve(block, places[middle:], backfill_id, refused)

    def _entry(self, bad: Bad, backfill_id: int) -> tuple[Any, ...]:
        values = {name: _shown(value) for name, value in zip(self._found.names, bad.row[1:], strict=True)}
        frame = orjson.dumps(values, default=str)
        detail = "; ".join(f"{column}: {why} ({reason})" if column else why for reason, column, why in bad.reasons)
        detail = detail.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
        now: Micros = time.time_ns() // 1000
        reason = bad.reasons[0][0]
        return (f"{FEED}/{backfill_id}", bad.row[0], 0, FEED, now, reason, detail, frame)


async def _stream(rows: Iterable[bytes], head: bytes, tail: bytes) -> AsyncIterator[bytes]:
    data = _SIGNATURE + head + (tail + head).join(rows) + tail + _TRAILER
    for start in range(0, len(data), _CHUNK_BYTES):
        yield data[start : start + _CHUNK_BYTES]


def _duplicate(row: tuple[Any, ...]) -> Bad:
    return Bad(row, (("duplicate_key", "", "an earlier row of this file has the same key"),))


def _moment(key: bytes) -> Micros:
    """Return the time that the key of a price is."""
    moment: Micros = _value(Kind.TIMESTAMP, key[4:12])
    return moment


def _values(kinds: Sequence[Kind], key: bytes) -> list[Any]:
    """Read the values of a key out of its fields."""
    found, at = [], 0
    for kind in kinds:
        size = int.from_bytes(key[at : at + 4], "big", signed=True)
        at += 4
        found.append(None if size < 0 else _value(kind, key[at : at + size]))
        at += max(size, 0)
    return found


def _value(kind: Kind, data: bytes) -> Any:  # noqa: ANN401
    if kind is Kind.TEXT:
        return data.decode()
    (number,) = unpack_from("!q", data)
    return number + EPOCH_2000_US if kind is Kind.TIMESTAMP else number


def _shown(value: Any) -> Any:  # noqa: ANN401
    """Return an original value as JSON can have it: bytes in hex, and a REAL that is no number by its name."""
    if isinstance(value, BadText):
        return {"text_hex": value.hex()}
    if isinstance(value, bytes):
        return {"blob_hex": value.hex()}
    if isinstance(value, float) and value in {float("inf"), float("-inf")}:
        return {"real": repr(value)}
    return value
