"""SQLite files as the predecessor wrote them: its schemas, its clean rows, and the dirt of real ones.

Shapes seen in its programs: `trades.date` and `time` are New York text, `closed_at` is a time of day or an ISO time
with offset, `strike` is `$114,250`, `diff` is `+2`; prices are REAL, and whatever a form sent is kept in any column.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from struct import pack
from typing import Any, NamedTuple

TRADES = """CREATE TABLE trades (
    id INTEGER PRIMARY KEY AUTOINCREMENT, status TEXT NOT NULL DEFAULT 'pending', date TEXT NOT NULL,
    time TEXT NOT NULL, symbol TEXT, market TEXT, trade_strategy TEXT, contract TEXT, strike TEXT NOT NULL,
    side TEXT NOT NULL, prob REAL DEFAULT NULL, diff TEXT DEFAULT NULL, buy_price REAL NOT NULL,
    position INTEGER NOT NULL, sell_price REAL DEFAULT NULL, closed_at TEXT DEFAULT NULL, fees REAL DEFAULT NULL,
    pnl INTEGER DEFAULT NULL, symbol_open INTEGER, symbol_close INTEGER, momentum INTEGER, volatility INTEGER,
    win_loss TEXT DEFAULT NULL, ticker TEXT, ticket_id INTEGER, market_id TEXT, momentum_delta REAL,
    entry_method TEXT, close_method TEXT)"""

# As it is after years of ALTER TABLE: nothing is NOT NULL any more, so anything can be NULL.
LOOSE_TRADES = TRADES.replace(" NOT NULL", "")

ACTIVE_TRADES = """CREATE TABLE active_trades (
    id INTEGER PRIMARY KEY AUTOINCREMENT, trade_id INTEGER NOT NULL, ticket_id TEXT NOT NULL, date TEXT NOT NULL,
    time TEXT NOT NULL, strike TEXT NOT NULL, side TEXT NOT NULL, buy_price REAL NOT NULL, position INTEGER NOT NULL,
    contract TEXT, ticker TEXT, symbol TEXT, market TEXT, trade_strategy TEXT, symbol_open REAL, momentum REAL,
    prob REAL, fees REAL, diff TEXT, current_symbol_price REAL DEFAULT NULL, current_probability REAL DEFAULT NULL,
    buffer_from_entry REAL DEFAULT NULL, time_since_entry INTEGER DEFAULT NULL, current_close_price REAL DEFAULT NULL,
    current_pnl TEXT DEFAULT NULL, last_updated TIMESTAMP DEFAULT CURRENT_TIMESTAMP, status TEXT DEFAULT 'active',
    notes TEXT DEFAULT NULL)"""

FILLS = """CREATE TABLE fills (
    id INTEGER PRIMARY KEY AUTOINCREMENT, trade_id TEXT UNIQUE, ticker TEXT, order_id TEXT, side TEXT, action TEXT,
    count INTEGER, yes_price REAL, no_price REAL, is_taker BOOLEAN, created_time TEXT, raw_json TEXT)"""

OLDER_FILLS = """CREATE TABLE fills (
    id TEXT PRIMARY KEY, user_id TEXT, market_id TEXT, order_id TEXT, side TEXT, count INTEGER, price REAL,
    created_time TEXT)"""

SETTLEMENTS = """CREATE TABLE settlements (
    id INTEGER PRIMARY KEY AUTOINCREMENT, ticker TEXT, market_result TEXT, yes_count INTEGER, yes_total_cost REAL,
    no_count INTEGER, no_total_cost REAL, revenue REAL, settled_time TEXT, raw_json TEXT)"""

POSITIONS = """CREATE TABLE positions (
    id INTEGER PRIMARY KEY AUTOINCREMENT, ticker TEXT, total_traded INTEGER, position INTEGER,
    market_exposure INTEGER, realized_pnl REAL, fees_paid REAL, last_updated_ts TEXT, raw_json TEXT)"""

PRICE_LOG = "CREATE TABLE price_log (timestamp TEXT PRIMARY KEY, price REAL)"

_MOMENTUM = ["one_minute_avg", "momentum", "delta_1m", "delta_2m", "delta_3m", "delta_4m", "delta_15m", "delta_30m"]
LATER_PRICE_LOG = PRICE_LOG[:-1] + "".join(f", {name} REAL" for name in _MOMENTUM) + ")"

SCHEMAS = {
    "trades": TRADES,
    "active_trades": ACTIVE_TRADES,
    "fills": FILLS,
    "settlements": SETTLEMENTS,
    "positions": POSITIONS,
    "price_log": PRICE_LOG,
}

# Text that is not UTF-8 gets into a file through programs of other languages; Python's own cannot bind it.
BAD_TEXT = "CAST(x'e9ff41' AS TEXT)"


class Sql(NamedTuple):
    """A value that only SQL can write."""

    text: str


def write(path: Path, table: str, rows: Iterable[Mapping[str, Any]], schema: str = "") -> Path:
    """Make the table if it is not there, insert the rows (`Sql` values as they are), return the path."""
    with closing(sqlite3.connect(path)) as connection, connection:
        if connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = ?", (table,)).fetchone() == (0,):
            connection.execute(schema or SCHEMAS[table])
        for row in rows:
            places = ", ".join(value.text if isinstance(value, Sql) else "?" for value in row.values())
            bound = [value for value in row.values() if not isinstance(value, Sql)]
            connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", bound)
    return path


def journal_naming(victim: Path, pages: int) -> bytes:
    """Return the journal of a file of 4 KiB pages that holds none of them, and names a super-journal."""
    magic, name = bytes.fromhex("d9d505f920a163d7"), bytes(victim)
    header = magic + pack(">5I", 0, 0, pages, 512, 4096)
    record = pack(">I", (1 << 30) // 4096 + 1) + name + pack(">II", len(name), sum(name)) + magic
    return header.ljust(512, b"\x00") + record


def execute(path: Path, *statements: str) -> None:
    """Run statements on the file, each in a transaction of its own."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def trade(number: int, **changed: Any) -> dict[str, Any]:
    """Return a clean row of `trades`, as the trade manager leaves a closed trade; prices repeat as real ones do."""
    opened = datetime.fromisoformat("2025-06-02T09:30:00") + timedelta(seconds=37 * number)
    won = number % 3 == 0
    buy, position = 0.5 + number % 47 / 100, 1 + number % 20
    sell, fees = (1.0 if won else 0.0), round(0.07 * position * buy * (1 - buy), 2)
    strike = 104_000 + number % 60 * 250
    event = f"KXBTCD-{opened:%y%b%d%H}".upper()
    return {
        "id": number,
        "status": "closed",
        "date": f"{opened:%Y-%m-%d}",
        "time": f"{opened:%H:%M:%S}",
        "symbol": "BTC",
        "market": "Kalshi",
        "trade_strategy": "Hourly HTC",
        "contract": f"BTC {f'{opened:%-I%p}'.lower()}",
        "strike": f"${strike:,}",
        "side": "YN"[number % 2],
        "prob": round(90 + number % 95 / 10, 1),
        "diff": f"{number % 9 - 4:+d}",
        "buy_price": buy,
        "position": position,
        "sell_price": sell,
        "closed_at": f"{opened + timedelta(minutes=20):%H:%M:%S}",
        "fees": fees,
        "pnl": round((sell - buy) * position - fees, 2),
        "symbol_open": 104_000.25 + number % 5000 / 4,
        "symbol_close": 104_010.5 + number % 5000 / 4,
        "momentum": number % 40 - 20,
        "volatility": number % 30,
        "win_loss": "W" if won else "L",
        "ticker": f"{event}-T{strike - 0.01:.2f}",
        "ticket_id": f"TICKET-{number:07x}-{1_748_871_000_000 + number * 37_000}",
        "market_id": "BTC-USD",
        "momentum_delta": None,
        "entry_method": "manual" if number % 4 else "auto",
        "close_method": "manual",
    } | changed


def active_trade(number: int, trade_id: int, **changed: Any) -> dict[str, Any]:
    """Return a clean row of `active_trades`, as the supervisor keeps an open trade."""
    base = trade(trade_id)
    shared = (
        "ticket_id date time strike side buy_price position contract ticker symbol market trade_strategy symbol_open "
        "momentum prob fees diff"
    )
    return {
        "id": number,
        "trade_id": trade_id,
        **{name: base[name] for name in shared.split()},
        "current_symbol_price": 104_321.5,
        "current_probability": 97.25,
        "buffer_from_entry": 321.25,
        "time_since_entry": 600 + number,
        "current_close_price": 0.97,
        "current_pnl": "0.14",
        "last_updated": "2025-06-02T09:41:07.123456",
        "status": "active",
        "notes": None,
    } | changed


def fill(number: int, **changed: Any) -> dict[str, Any]:
    """Return a clean row of `fills`, as the account sync wrote it: cents in JSON, dollars in the columns."""
    cents = 1 + number % 98
    created = datetime.fromisoformat("2025-06-02T13:30:00") + timedelta(seconds=number, microseconds=number % 1_000_000)
    shown = {"trade_id": f"{number:08x}-5d6f-4c1e-9a0b-000000000000", "yes_price": cents, "no_price": 100 - cents}
    return {
        "trade_id": shown["trade_id"],
        "ticker": "KXBTCD-25JUN0214-T104249.99",
        "order_id": f"{number // 2:08x}-0000-4000-8000-000000000000",
        "side": ("yes", "no")[number % 2],
        "action": ("buy", "sell")[number // 2 % 2],
        "count": 1 + number % 10,
        "yes_price": cents / 100,
        "no_price": (100 - cents) / 100,
        "is_taker": number % 2,
        "created_time": f"{created.isoformat()}Z",
        "raw_json": json.dumps(shown),
    } | changed


def older_fill(number: int, **changed: Any) -> dict[str, Any]:
    """Return a clean row of the older shape of `fills`."""
    base = fill(number)
    return {
        "id": base["trade_id"],
        "user_id": "0001",
        "market_id": base["ticker"],
        "order_id": base["order_id"],
        "side": base["side"],
        "count": base["count"],
        "price": base["yes_price"],
        "created_time": base["created_time"],
    } | changed


def settlement(number: int, **changed: Any) -> dict[str, Any]:
    """Return a clean row of `settlements`."""
    cost = number % 500
    return {
        "ticker": f"KXBTCD-25JUN{1 + number % 30:02d}14-T{104_249 + number // 30}.99",
        "market_result": ("yes", "no")[number % 2],
        "yes_count": number % 7,
        "yes_total_cost": cost / 100,
        "no_count": 0,
        "no_total_cost": 0.0,
        "revenue": number % 7 * (1.0 - number % 2),
        "settled_time": f"2025-06-{1 + number % 30:02d}T18:00:03.{number % 1_000_000:06d}Z",
        "raw_json": json.dumps({"yes_total_cost": cost, "market_result": ("yes", "no")[number % 2]}),
    } | changed


def position(number: int, **changed: Any) -> dict[str, Any]:
    """Return a clean row of `positions`."""
    return {
        "ticker": f"KXBTCD-25JUN0214-T{104_249 + 250 * number}.99",
        "total_traded": 97 * number,
        "position": number % 21 - 10,
        "market_exposure": 13 * number,
        "realized_pnl": number % 401 / 100 - 2,
        "fees_paid": number % 23 / 100,
        "last_updated_ts": f"2025-06-02T18:{number // 60 % 60:02d}:{number % 60:02d}.5Z",
        "raw_json": json.dumps({"position": number % 21 - 10, "resting_orders_count": 0}),
    } | changed


def ticks(start: str, count: int) -> Iterator[dict[str, Any]]:
    """Return rows of `price_log`, one a second from a New York time such as `2025-07-01T12:34:56`."""
    first = datetime.fromisoformat(start)
    for number in range(count):
        yield {
            "timestamp": f"{first + timedelta(seconds=number):%Y-%m-%dT%H:%M:%S}",
            "price": 107_000 + number * 7 % 1000 / 4 + number % 13 / 100,
        }


def with_momentum(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Return rows of the later shape of `price_log`, whose first ones have no older prices to compare with."""
    for number, row in enumerate(rows):
        changes = {name: round((number * 31 + place) % 977 / 1e4 - 0.05, 6) for place, name in enumerate(_MOMENTUM)}
        yield {**row, **(dict.fromkeys(_MOMENTUM) if number < 3 else changes)}


class Dirt(NamedTuple):
    """One dirty value in an otherwise clean trade, and what has to become of it.

    `stored` is the text of what the target holds (numerics without zeros at their end), None for NULL; a row that has
    to go to the quarantine names the column as `quarantined`.
    """

    changed: dict[str, Any]
    stored: str | None = None
    quarantined: str = ""


DIRT: Sequence[Dirt] = (
    Dirt({"ticket_id": "TICKET-8f2-1749"}, stored="TICKET-8f2-1749"),
    Dirt({"ticket_id": 17_498_710}, stored="17498710"),
    Dirt({"pnl": 0.14}, stored="0.14"),
    Dirt({"pnl": -0.0}, stored="0"),
    Dirt({"pnl": 0.1 + 0.2}, stored="0.30000000000000004"),
    Dirt({"pnl": "n/a"}, quarantined="pnl"),
    Dirt({"pnl": ""}, stored=None),
    Dirt({"pnl": 2**62}, stored=str(2**62)),
    Dirt({"strike": "$114,250"}, stored="114250"),
    Dirt({"strike": "114,249.99"}, stored="114249.99"),
    Dirt({"strike": ""}, quarantined="strike"),
    Dirt({"strike": "\uff11\uff11\uff14"}, quarantined="strike"),  # full-width digits, which int() takes
    Dirt({"strike": "0x1F"}, quarantined="strike"),
    Dirt({"diff": "+2"}, stored="2"),
    Dirt({"diff": "-3"}, stored="-3"),
    Dirt({"diff": "two"}, quarantined="diff"),
    Dirt({"prob": "NaN"}, quarantined="prob"),
    Dirt({"prob": "inf"}, quarantined="prob"),
    Dirt({"prob": Sql("1e999")}, quarantined="prob"),
    Dirt({"prob": Sql("-1e999")}, quarantined="prob"),
    Dirt({"prob": 2**62}, stored="4611686018427388000"),
    Dirt({"prob": 1e308}, stored="1" + "0" * 308),
    Dirt({"prob": 5e-324}, stored="0." + "0" * 323 + "5"),
    Dirt({"prob": b"\x00\xff"}, quarantined="prob"),
    Dirt({"buy_price": None}, quarantined="buy_price"),
    Dirt({"buy_price": "free"}, quarantined="buy_price"),
    Dirt({"position": None}, quarantined="position"),
    Dirt({"position": 2.5}, quarantined="position"),
    Dirt({"position": "3"}, stored="3"),
    Dirt({"position": 1e19}, quarantined="position"),
    Dirt({"side": None}, quarantined="side"),
    Dirt({"status": None}, quarantined="status"),
    Dirt({"symbol": Sql(BAD_TEXT)}, quarantined="symbol"),
    Dirt({"symbol": Sql("CAST(x'410042' AS TEXT)")}, quarantined="symbol"),
    Dirt({"symbol": b"BTC"}, quarantined="symbol"),
    Dirt({"symbol": ""}, stored=""),
    Dirt({"contract": "BTC 5pm | 'x' \\N \t \" \u20bf"}, stored="BTC 5pm | 'x' \\N \t \" \u20bf"),
    Dirt({"date": "2025-02-30"}, quarantined="date"),
    Dirt({"date": None}, quarantined="date"),
    Dirt({"time": "25:00:00"}, quarantined="time"),
    Dirt({"time": "soon"}, quarantined="time"),
    Dirt({"closed_at": "2025-05-01T14:22:33.123456-04:00"}, stored="2025-05-01 18:22:33.123456+00"),
    Dirt({"closed_at": "yesterday"}, quarantined="closed_at"),
    Dirt({"win_loss": None}, stored=None),
)

CLEAN_BETWEEN = 3
"""Each dirty row has that many clean ones before it, and they are none the worse for it."""


def dirty_trades(path: Path) -> dict[int, Dirt]:
    """Write trades.db with every kind of dirt and a column nobody knows; return the dirt by id (and rowid)."""
    rows: list[dict[str, Any]] = []
    dirt: dict[int, Dirt] = {}
    for each in DIRT:
        rows += [trade(len(rows) + 1 + more) for more in range(CLEAN_BETWEEN)]
        dirt[len(rows) + 1] = each
        rows.append(trade(len(rows) + 1, **each.changed))
    schema = LOOSE_TRADES[:-1] + ", volatility_delta REAL)"
    write(path, "trades", ({**row, "volatility_delta": 0.5} for row in rows), schema)
    return dirt


def clean_trades(path: Path, count: int, first: int = 1) -> Path:
    """Write trades.db with so many clean trades."""
    names = list(trade(1))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(TRADES)
        connection.executemany(
            f"INSERT INTO trades ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",
            (tuple(trade(number).values()) for number in range(first, first + count)),
        )
    return path


def autumn_ticks(path: Path, *, first_pass: int = 60, second_pass: int = 40) -> Path:
    """Write a price_log through the hour that comes twice (2025-11-02, 01:00 to 02:00 in New York), as it grew.

    The first pass of that hour lasts `first_pass` seconds and the second pass `second_pass`: INSERT OR REPLACE gives
    the replaced seconds new rowids, and a hole remains where the first pass was overwritten.
    """
    names = "INSERT OR REPLACE INTO price_log (timestamp, price) VALUES (:timestamp, :price)"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(PRICE_LOG)
        connection.executemany(names, ticks("2025-11-02T00:59:30", 30))
        connection.executemany(names, ticks("2025-11-02T01:00:00", first_pass))
        second = ({**row, "price": row["price"] + 1000} for row in ticks("2025-11-02T01:00:00", second_pass))
        connection.executemany(names, second)
        connection.executemany(names, ticks("2025-11-02T02:00:00", 30))
    return path
