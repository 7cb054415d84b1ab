"""Moves rows that are old from the live tables to those of the past, slice by slice, by a connection of its own.

A slice is one transaction: one statement deletes and inserts, its counts and checksums are compared, candles and books
follow. Whatever ends it, each row is in one place; the next pass begins with what it finds. Nothing here takes a lock
that ingest waits for, but for the drop of an empty partition, which asks for it for 50 ms.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import asyncpg
import structlog

from recio_ingest import metrics, months, store
from recio_ingest.errors import RolloverError, TryLaterError
from recio_ingest.faults import Fault, classify
from recio_ingest.moves import MOVES, Move, Verdict, slice_statement, verdict_of
from recio_ingest.records import Micros
from recio_ingest.sql import statement

log = structlog.get_logger()

ROLE = "recio_rollover"
# Half a second of work and ten megabytes of log; larger ones are hardly faster, and hold rows and memory longer.
SLICE_ROWS = 30_000
_START = "(0,0)"


class Leaf(NamedTuple):
    """A partition of a live table."""

    name: str
    aged: bool
    """All that it may ever hold is older than the window."""
    other: bool
    """The DEFAULT partition."""


class Slice(NamedTuple):
    """Rows of a partition behind one place, up to and with another, that came before a time."""

    leaf: str
    after: str
    last: str
    before: Micros


class Pass(NamedTuple):
    """What one pass did."""

    moved: Counter[str]
    """How many rows left each table."""
    troubles: list[Exception]
    """RolloverError (a slice did not arrive as it left), TryLaterError (another is at work), or of `store.ERRORS`."""


class Rollover:
    """Rolls over pass by pass; between passes it remembers how far it got in partitions that are still filled."""

    def __init__(
        self,
        dsn: str,
        live_window_s: float,
        *,
        keep_raw: bool,
        rest: float = 0.0,
        slice_rows: int = SLICE_ROWS,
        moves: Sequence[Move] = MOVES,
    ) -> None:
        """`rest` is how long to rest after each slice, in times of what it took: ingest has the machine first."""
        self._moves = moves
        self._dsn = dsn
        self._live_window_s = live_window_s
        self._keep_raw = keep_raw
        self._rest = rest
        self._slice_rows = slice_rows
        self._made: set[tuple[str, Micros]] = set()
        self._met: set[str] = set()
        """Tables of which a row of this pass was there already, as after a replay: the next rows will be, too."""
        self._reached: dict[str, str] = {}
        self._emptied: dict[str, set[str]] = {}
        """Partitions that were found empty, each with the transactions that ran then."""

    async def run_once(self) -> Pass:
        """Move all that is old now. One table's trouble does not keep the others."""
        before = int((time.time() - self._live_window_s) * 1e6)
        moved: Counter[str] = Counter()
        troubles: list[Exception] = []
        self._made.clear()
        self._met.clear()
        for move in self._moves:
            try:
                async with store.connected(self._dsn, ROLE) as connection:
                    await self._roll_table(connection, move, before, moved)
            except (RolloverError, TryLaterError, *store.ERRORS) as exc:
                cause = "differs" if isinstance(exc, RolloverError) else str(classify(exc))
                metrics.ROLLOVER_FAILURES.labels(move.table, cause).inc()
                log.warning("rollover.interrupted", table=move.table, cause=cause, error=str(exc)[:300])
                troubles.append(exc)
            except Exception as exc:
                metrics.ROLLOVER_FAILURES.labels(move.table, "bug").inc()
                log.exception("rollover.failed", table=move.table)
                troubles.append(exc)
        if not troubles:
            metrics.ROLLOVER_SUCCESS.set(time.time())
        return Pass(moved, troubles)

    async def _roll_table(
        self, connection: asyncpg.Connection, move: Move, before: Micros, moved: Counter[str]
    ) -> None:
        await connection.execute(statement("rollover_session"))
        leaves = [Leaf(*row) for row in await connection.fetch(statement("live_leaves"), move.table, before)]
        for leaf in leaves:
            await self._roll_leaf(connection, move, leaf, before, moved)
        for leaf in leaves:
            if leaf.aged:
                await self._drop(connection, leaf, before)
        await months.watch(connection, move.table)
        for target in move.targets:
            await months.drain(connection, target)

    async def _roll_leaf(
        self, connection: asyncpg.Connection, move: Move, leaf: Leaf, before: Micros, moved: Counter[str]
    ) -> None:
        """Slice by slice, as the rows lie: what is dead already is not read again within a pass.

        A partition that is still filled is read on from where the last pass came to, up to its first stretch without an
        old row; once it can get no more, as a whole.
        """
        bounded = not (leaf.aged or leaf.other)
        after, all_old = self._reached.get(leaf.name, _START) if bounded else _START, True
        look = statement("next_slice").replace("{leaf}", leaf.name)
        while True:
            found = await connection.fetchrow(look, after, before, self._slice_rows)
            if not found["found"] or (bounded and not found["aged"]):
                break
            if found["aged"]:
                started_s = time.monotonic()
                await months.make(connection, move.targets, found["months"], self._made)
                piece = Slice(leaf.name, after, found["last"], before)
                moved[move.table] += await self._move(connection, move, piece)
                self._emptied.pop(leaf.name, None)  # whoever began since it was found empty may see these there
                await asyncio.sleep(self._rest * (time.monotonic() - started_s))
            after = found["last"]
            all_old = all_old and found["aged"] == found["found"]
            if bounded and all_old:
                self._reached[leaf.name] = after

    async def _move(self, connection: asyncpg.Connection, move: Move, piece: Slice) -> int:
        """Move one slice; return how many rows left. Raises RolloverError, and then nothing has moved.

        First as if none of its rows were there, which is cheaper and nearly always so; if not, once more with care.
        """
        if move.table not in self._met:
            try:
                return await self._attempt(connection, move, piece, new=True)
            except (asyncpg.UniqueViolationError, RolloverError):
                self._met.add(move.table)
        return await self._attempt(connection, move, piece, new=False)

    async def _attempt(self, connection: asyncpg.Connection, move: Move, piece: Slice, *, new: bool) -> int:
        started = int(time.time() * 1e6)
        query = slice_statement(move, piece.leaf, keep_raw=self._keep_raw, new=new)
        async with connection.transaction():
            if not await connection.fetchval(statement("rollover_turn")):
                raise TryLaterError("another rollover is at work", hint="wait until it is done")
            answer = await connection.fetch(query, piece.after, piece.last, piece.before)
            verdicts = [verdict_of(row) for row in answer]
            for verdict in verdicts:
                await _settle(connection, move, piece, verdict, started)
            touched = answer[0]["sources"], answer[0]["symbols"], answer[0]["minutes"]
            if touched[0]:
                await connection.execute(statement("refresh_candles"), *touched)
        metrics.ROLLOVER_ROWS.labels(move.table.partition(".")[2]).inc(verdicts[0].deleted)
        return verdicts[0].deleted

    async def _drop(self, connection: asyncpg.Connection, leaf: Leaf, before: Micros) -> None:
        """Drop an empty partition, once every transaction is over that ran when it was first found empty.

        Such a one may see the rows as they lay before they moved, and not have looked at the partition yet: dropped
        under it, they would be in neither place.
        """
        if not await connection.fetchval(statement("leaf_is_empty").replace("{leaf}", leaf.name)):
            self._emptied.pop(leaf.name, None)
            return
        running = {row[0] for row in await connection.fetch(statement("running_transactions"))}
        if leaf.name not in self._emptied:
            self._emptied[leaf.name] = running
        elif not self._emptied[leaf.name] & running:
            try:
                dropped = await connection.fetchval(statement("drop_live_partition"), leaf.name, before)
            except store.ERRORS as exc:
                if classify(exc) is not Fault.TRANSIENT:
                    raise
                log.info("rollover.partition_in_use", partition=leaf.name, hint="a later pass tries again")
                return
            if dropped:
                log.info("rollover.partition_dropped", partition=leaf.name)
                self._emptied.pop(leaf.name)
                self._reached.pop(leaf.name, None)


async def _settle(connection: asyncpg.Connection, move: Move, piece: Slice, verdict: Verdict, started: Micros) -> None:
    """Write the slice into the books. Raises RolloverError where they would not be true."""
    if verdict.trouble:
        raise RolloverError(
            f"rows of {piece.leaf} between {piece.after} and {piece.last} did not arrive in {verdict.target} as they "
            f"left: {verdict.trouble}; they stay where they were",
            hint="the other tables go on; please report it with the journal",
        )
    if verdict.differing:
        log.warning("rollover.known_otherwise", table=verdict.target, partition=piece.leaf, rows=verdict.differing)
    await connection.execute(
        statement("note_rollover"), move.table, *piece, verdict.target, verdict.deleted, verdict.inserted,
        verdict.deleted - verdict.inserted, verdict.differing,
        None if verdict.came_sum is None else str(verdict.came_sum), started,
    )  # fmt: skip
