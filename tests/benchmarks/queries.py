"""`python -m benchmarks queries`: what trading programs ask, beside the predecessor's way, alone and fifty at once."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from documented_queries import documented
from harness.databases import build_template, execute
from harness.postgres import PostgresServer
from rich.console import Console
from rich.table import Table

from benchmarks.queries_data import BUSY, DAY, Data, build
from benchmarks.queries_readers import POSTGRES, SQLITE, Question, Reader, Readers, readers

# What an answer costs on either side, whatever is asked: no part of the figures.
NOTHING = Question("(nothing: SELECT 1)", "SELECT 1", (), "price_log", "SELECT 1", ())
ROWS = int(os.environ.get("RECIO_BENCH_ROWS", "300_000"))
READERS = 50
# Each question is asked for so long on either side, but at least and at most so often.
ALONE_S, ALONE_TIMES = 2.0, (3, 300)
TOGETHER_S, TOGETHER_TIMES = 10.0, (1, 20)
# Room for the readers; and the memory that a server with this much data would be given.
SETTINGS = f"max_connections = {READERS + 10}\nshared_buffers = 1GB\nmax_wal_size = 4GB\n"
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


class Measured(NamedTuple):
    """Median ms of one question: SQLite's and PostgreSQL's, alone and among fifty; how many rows answer it."""

    name: str
    rows: int
    alone: tuple[float, float]
    together: tuple[float, float]


async def main() -> None:
    """Fill both, compare their answers, measure, and print the table."""
    server = PostgresServer()
    with (server.data / "postgresql.conf").open("a") as conf:
        conf.write(SETTINGS)
    server.start()
    try:
        await execute(server.dsn(), "CREATE DATABASE bench_queries")
        dsn, folder = server.dsn("bench_queries"), server.folder / "sqlite"
        await build_template(dsn)
        folder.mkdir()
        data = await build(dsn, folder, ROWS)
        # Readers are processes with loops of their own, and so is the one that compares.
        found = await asyncio.to_thread(measure, dsn, data)
    finally:
        server.stop("fast")
        server.dispose()
    Console(width=140).print(table(found))


def measure(dsn: str, data: Data) -> list[Measured]:
    """Return the figures of each question, after both sides gave the same answer to all of them."""
    asked = [*questions(data), NOTHING]
    rows = compare(dsn, data, asked)
    with readers(READERS, dsn, data.folder) as pool:
        return [
            Measured(question.name, rows[question.name], alone(pool, question), together(pool, question))
            for question in asked
        ]


def compare(dsn: str, data: Data, asked: Sequence[Question]) -> dict[str, int]:
    """Return how many rows each answer has; raise if the two sides differ, or if there is nothing to compare."""
    reader = Reader(dsn, data.folder)
    try:
        counts = {}
        for question in asked:
            theirs = [tuple(map(plain, row)) for row in reader.ask(SQLITE, question)]
            ours = [tuple(map(plain, row)) for row in unpacked(reader.ask(POSTGRES, question))]
            if ours != theirs or not ours:
                raise RuntimeError(f"{question.name}: {ours[:3]} of {len(ours)} beside {theirs[:3]} of {len(theirs)}")
            counts[question.name] = len(ours)
        return counts
    finally:
        reader.close()


def unpacked(rows: Sequence[Any]) -> Sequence[Any]:
    """Return rows; where the answer is one row of whole columns, the first of them epochs, the rows that they make."""
    if len(rows) == 1 and all(isinstance(value, list) for value in rows[0]):
        epochs, *columns = rows[0]
        return list(zip((datetime.fromtimestamp(epoch, UTC) for epoch in epochs), *columns, strict=True))
    return rows


def plain(value: Any) -> str | Decimal | None:
    """Return a value as both sides can say it: a time as UTC text, a number with six decimals at most."""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%S}"
    if isinstance(value, int | float | Decimal):
        return round(Decimal(str(value)), 6).normalize()
    return None if value is None else str(value)


def alone(pool: Readers, question: Question) -> tuple[float, float]:
    """Return the medians of one reader, both sides by turns, for a neighbour on the same host slows both then."""
    took: dict[str, list[float]] = {SQLITE: [], POSTGRES: []}
    for side in took:
        pool.alone(side, question, 6)  # the page cache, the plan
    began_s = time.perf_counter()
    while enough(len(took[SQLITE]), time.perf_counter() - began_s, ALONE_S, ALONE_TIMES):
        for side, so_far in took.items():
            so_far.extend(pool.alone(side, question, 1 if len(so_far) < ALONE_TIMES[0] else 10))
    return median_ms(took[SQLITE]), median_ms(took[POSTGRES])


def together(pool: Readers, question: Question) -> tuple[float, float]:
    """Return the medians of all readers when all ask at one moment, again by turns."""
    took: dict[str, list[float]] = {SQLITE: [], POSTGRES: []}
    pool.at_once(POSTGRES, question)  # each makes its plan
    began_s, rounds = time.perf_counter(), 0
    while enough(rounds, time.perf_counter() - began_s, TOGETHER_S, TOGETHER_TIMES):
        for side, so_far in took.items():
            so_far.extend(pool.at_once(side, question))
        rounds += 1
    return median_ms(took[SQLITE]), median_ms(took[POSTGRES])


def enough(done: int, lasted_s: float, wanted_s: float, times: tuple[int, int]) -> bool:
    """Say whether to go on: not yet so often as at least, or neither so long nor so often as at most."""
    return done < times[0] or (lasted_s < wanted_s and done < times[1])


def median_ms(took_s: Sequence[float]) -> float:
    """Return the median of seconds, in ms."""
    return 1000 * statistics.median(took_s)


def table(found: Sequence[Measured]) -> Table:
    """Return the figures as people read them."""
    made = Table(
        title=f"eight questions, {ROWS:,} rows, median ms on {os.cpu_count()} cores; fifty readers ask at one moment",
        title_justify="left",
    )
    for heading in ("question", "rows", "SQLite", "PostgreSQL", "times", "SQLite, 50", "PostgreSQL, 50", "times"):
        made.add_column(heading, justify="left" if heading == "question" else "right")
    *eight, nothing = found
    for each in (*eight, nothing):
        if each is nothing:
            made.add_section()
        cells = [f"{value:,.2f}" for pair in (each.alone, each.together) for value in (*pair, pair[0] / pair[1])]
        made.add_row(each.name, f"{each.rows:,}", *cells)
    made.add_section()
    for name, wanted, figure in (
        ("geometric mean", ">= 5", lambda pairs: statistics.geometric_mean(a / b for a, b in pairs)),
        ("slower by at most, ms", "<= 1", lambda pairs: max(b - a for a, b in pairs)),
    ):
        one, many = figure([each.alone for each in eight]), figure([each.together for each in eight])
        made.add_row(f"{name} (wanted {wanted})", "", "", "", f"{one:,.2f}", "", "", f"{many:,.2f}")
    return made


def questions(data: Data) -> Iterator[Question]:
    """Yield the eight: PostgreSQL's from the documentation, SQLite's as the predecessor's programs ask its tables."""
    sql, btc = documented(), "BTC-USD"
    prices, quotes, strikes = "price_log", "websocket_market_data", "btc_live_strikes"
    moment, past = data.moment, data.past_until
    close = data.close - 5 * DAY
    event, today = (f"KXBTCD-{at:%y%b%d%H}".upper() for at in (close, data.close))
    market = f"{event}-T{53499 + 500 * BUSY}.99"

    def made(name: str, arguments: tuple[Any, ...], file: str, sqlite: str, *theirs: str | datetime) -> Question:
        texts = [text(value) if isinstance(value, datetime) else value for value in theirs]
        return Question(name, sql[name], arguments, file, sqlite, texts)

    yield made("Latest price", (btc,), prices, "SELECT price FROM price_log ORDER BY timestamp DESC LIMIT 1")
    yield made(
        "Price n minutes ago", (btc, moment - 15 * MINUTE), prices,
        "SELECT price FROM price_log WHERE timestamp <= ? ORDER BY timestamp DESC LIMIT 1", moment - 15 * MINUTE,
    )  # fmt: skip
    yield made(
        "Last minute's average", (btc, moment - MINUTE, moment), prices,
        "SELECT avg(price) FROM price_log WHERE timestamp > ? AND timestamp <= ?", moment - MINUTE, moment,
    )  # fmt: skip
    yield made(
        "Momentum series of a day", (btc, past - 4 * DAY, past - 3 * DAY), prices,
        "SELECT timestamp, momentum FROM price_log WHERE timestamp >= ? AND timestamp < ? ORDER BY timestamp",
        past - 4 * DAY, past - 3 * DAY,
    )  # fmt: skip
    # The newest row of each of the event's markets, out of the index alone.
    yield made(
        "Ladder now", (), strikes,
        "SELECT ticker, strike_price, yes_bid, yes_ask, no_bid, no_ask, last_price FROM btc_live_strikes"
        " WHERE id IN (SELECT max(id) FROM btc_live_strikes WHERE ticker >= ? AND ticker < ? GROUP BY ticker)"
        " ORDER BY strike_price", f"{today}-", f"{today}.",
    )  # fmt: skip
    yield made(
        "One market's quotes of an hour", (market, close - 10 * HOUR, close - 9 * HOUR), quotes,
        "SELECT timestamp, yes_bid, yes_ask, no_bid, no_ask FROM websocket_market_data WHERE ticker = ?"
        " AND event_type = 'ticker' AND timestamp >= ? AND timestamp < ? ORDER BY timestamp",
        market, close - 10 * HOUR, close - 9 * HOUR,
    )  # fmt: skip
    # There are no candles in that layout: they are made of the prices each time.
    yield made(
        "Candles of a month", (btc, "coinbase", past - 30 * DAY, past), prices,
        "WITH minutes AS (SELECT substr(timestamp, 1, 16) AS minute, min(timestamp) AS first, max(timestamp) AS last,"
        " max(price) AS high, min(price) AS low, count(*) AS trades FROM price_log"
        " WHERE timestamp >= ? AND timestamp < ? GROUP BY minute)"
        " SELECT minute || ':00', a.price, high, low, z.price, trades FROM minutes"
        " JOIN price_log AS a ON a.timestamp = first JOIN price_log AS z ON z.timestamp = last ORDER BY minute",
        past - 30 * DAY, past,
    )  # fmt: skip
    yield made(
        "Trades around a settlement", (market, close - HOUR, close + 5 * MINUTE), quotes,
        "SELECT timestamp, last_price FROM websocket_market_data WHERE ticker = ?"
        " AND event_type = 'trade' AND timestamp >= ? AND timestamp < ? ORDER BY timestamp",
        market, close - HOUR, close + 5 * MINUTE,
    )  # fmt: skip


def text(moment: datetime) -> str:
    """Return a time as SQLite's rows have it."""
    return f"{moment:%Y-%m-%dT%H:%M:%S}"
