"""What the converter sends by COPY, shown by PostgreSQL, is what `expect` says: two programs of one set of rules."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from recio_ingest import numeric
from recio_ingest.backfill import convert, expect, fingerprint, leaf, rules
from recio_ingest.backfill.tables import TABLES, BadText, Column, Kind, Table

BEGIN = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
END = struct.pack("!h", -1)

COLUMNS = (
    Column("whole", Kind.INTEGER),
    Column("number", Kind.NUMERIC),
    Column("label", Kind.TEXT),
    Column("day", Kind.DATE),
    Column("clock", Kind.TIME),
    Column("there", Kind.TIMESTAMP),
    Column("here", Kind.TIMESTAMP, zone="UTC"),
    Column("flag", Kind.BOOLEAN),
    Column("raw", Kind.JSON),
    Column("must", Kind.NUMERIC, required=True),
)
TABLE = Table("every_kind", "pg_temp", "every_kind", (Column("id", Kind.INTEGER, required=True), *COLUMNS), key=("id",))

NUMBERS = [
    0, -0.0, 1, 1.0, 0.14, 0.1 + 0.2, 1e308, -5e-324, 2**53, 2**53 + 1, float(2**53), 2**62, float(2**62), 2**63 - 1,
    -(2**63), 1e19, -9.223372036854776e18, 9.223372036854776e18, float("inf"), float("-inf"), 1e16, 1e-7, 123456789.5,
]  # fmt: skip
TEXTS = [
    "", " ", "$114,250", "-$1,234.50", "+2", "12,34", "1,2345", "$", "1e5", "1E-5", "1.5e-400", "12e999", "1e999",
    "1e9999", "NaN", "inf", "0x1F",
    "1_000", "\uff11", "\u0661", "00012", " 7 ", "\xa07", "0.50", ".5", "5.", "--1", "$-5",
    "-0",
    "'", "\\", "a|b", "O'Brien\\n", "\x00", "a\x00b", "\u20bf\U0001f600", "NULL", "null", "{}", '{"a": NaN}',
    '{"a": 1e999, "b": "\\u0000"}',
    '{"a": 12345678901234567890123}', '["\\ud800"]', "[1,]", "[" * 60 + "]" * 60,
    '"\t"', "true",
    "2025-02-29", "2024-02-29", "0000-01-01", "9999-12-31", "20250601", "2025-6-1", "24:00:00", "23:59:60", "9:30:00",
    "09:30", "09:30:00.5", "09:30:00.123456", "09:30:00.1234567", "2025-06-02T09:30:00", "2025-06-02 09:30:00.25",
    "2025-06-02T09:30:00Z", "2025-06-02T09:30:00.123456-04:00", "2025-06-02T09:30:00+05:75",
    "2025-06-02T09:30:00+24:00", "2025-06-02T09:30:00-0400", "2025-11-02T01:30:00", "2025-11-02T01:30:00-05:00",
    "2025-03-09T02:30:00",
    "2025-03-09T01:59:59.999999", "2025-03-09T03:00:00", "2025-06-02T24:00:00",
    "2025-06-02t09:30:00", "2025-06-02T09:30:00 ", "1", "0", "True", "FALSE", "yes", "2",
]  # fmt: skip

anything: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.sampled_from(NUMBERS),
    st.sampled_from(TEXTS),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.decimals(allow_nan=False, allow_infinity=False, places=2).map(str),
    st.builds(lambda number, sign: f"{sign}${number:,}", st.integers(0, 10**9), st.sampled_from(["", "-", "+"])),
    st.binary(max_size=8),
    st.binary(max_size=8).map(BadText),
    st.datetimes(datetime.fromisoformat("1970-01-01"), datetime.fromisoformat("2100-01-01")).map(
        lambda moment: moment.isoformat()
    ),
    st.dates().map(str),
    st.times().map(str),
)
rows_of_anything = st.lists(st.tuples(*(anything for _ in COLUMNS)), min_size=1, max_size=30)


@pytest.fixture
def ask(database: str) -> Callable[[bytes], list[asyncpg.Record]]:
    """Copy binary rows into an empty table of every kind, and return what PostgreSQL shows of them."""
    return lambda data: asyncio.run(_copied(database, data))


async def _copied(dsn: str, data: bytes) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn, server_settings={"timezone": "UTC"})
    try:
        columns = ", ".join(f'"{column.name}" {column.kind.value}' for column in TABLE.columns)
        await connection.execute(f"CREATE TEMP TABLE every_kind ({columns})")

        async def source() -> Any:
            yield data

        await connection.copy_to_table("every_kind", source=source(), format="binary")
        fields = ", ".join(f"concat({leaf.shown(column)})" for column in TABLE.columns)
        shown: list[asyncpg.Record] = await connection.fetch(
            f"SELECT id, ARRAY[{fields}] AS fields, {leaf.text_of(TABLE.columns)} AS row FROM every_kind ORDER BY id"
        )
        return shown
    finally:
        await connection.close()


def compared(rows: list[tuple[Any, ...]], ask: Callable[[bytes], list[asyncpg.Record]]) -> int:
    """Compare both programs on rows of one value per kind; return how many rows were stored."""
    numbered = [(number, number, *row) for number, row in enumerate(rows)]
    names = [column.name for column in TABLE.columns]
    made = convert.Converter(TABLE, names, ["TEXT"] * len(names), {}).convert(numbered)
    values = dict(zip(names, list(zip(*numbered, strict=True))[1:], strict=True))
    shown = fingerprint.Expected(TABLE).columns(values, [None] * len(rows))
    refused = {column.name: {at for at, text in enumerate(texts) if text is None} for column, texts in zip(
        TABLE.columns, shown, strict=True)}  # fmt: skip
    bad: dict[str, set[int]] = {name: set() for name in names}
    for each in made.bad:
        for _, column, _ in each.reasons:
            bad[column].add(each.row[0])
    assert bad == refused, [(name, values[name][at]) for name in names for at in bad[name] ^ refused[name]]
    head = rules.copy_head(len(names))
    found = ask(BEGIN + b"".join(head + fields for fields in made.fields) + END)
    assert [each["id"] for each in found] == [row[0] for row in made.rows]
    for each in found:
        wanted = [texts[each["id"]] for texts in shown]
        assert each["fields"] == wanted
        assert each["row"] == "|".join(map(str, wanted))
    return len(found)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])  # it keeps nothing
@given(rows=rows_of_anything)
@example(rows=[tuple(each for _ in COLUMNS) for each in (*NUMBERS, *TEXTS, None, b"", b"5", BadText(b"\xff"))])
@example(rows=[(*(each for _ in COLUMNS[:-1]), 1) for each in (*NUMBERS, *TEXTS, None)])
def test_both_programs_agree(ask: Callable[[bytes], list[asyncpg.Record]], rows: list[tuple[Any, ...]]) -> None:
    """For any value in a column of any kind: refused by both, or shown by the server as expected, to the letter."""
    compared(rows, ask)


def test_both_programs_agree_on_thousands_of_values(ask: Callable[[bytes], list[asyncpg.Record]]) -> None:
    """Each kind gets thousands of values that fit it, or nearly: 30,000 in all, most of them stored."""
    chance = random.Random(20251102)
    makers: dict[str, Callable[[], Any]] = {
        "whole": lambda: _number(chance, whole=True),
        "number": lambda: _number(chance, whole=False),
        "label": lambda: chance.choice([_word(chance), _number(chance, whole=chance.random() < 0.5)]),
        "day": lambda: _moment(chance)[:10],
        "clock": lambda: _moment(chance)[11:],
        "there": lambda: _moment(chance) + chance.choice(["", "", "Z", "-04:00", "+05:30"]),
        "here": lambda: _moment(chance).replace("T", chance.choice("T ")),
        "flag": lambda: chance.choice([0, 1, "0", "1", "true", "False", None]),
        "raw": lambda: f'{{"a": "{_word(chance).replace(chr(92), "").replace(chr(34), "")}", "b": {chance.random()}}}',
        "must": lambda: _number(chance, whole=False),
    }
    rows = [tuple(makers[column.name]() for column in COLUMNS) for _ in range(3000)]
    assert compared(rows, ask) > 1500


def _number(chance: random.Random, *, whole: bool) -> Any:
    value = chance.choice([chance.randint(-(10**6), 10**6), chance.randint(-(2**63), 2**63 - 1)])
    if whole:
        return chance.choice([value, str(value), f"{value:,}", f" {value} ", float(value % 10**9)])
    part = chance.choice([value / 100, round(chance.uniform(-1, 1), chance.randint(0, 17)), chance.gauss(0, 1) * 1e12])
    return chance.choice([part, repr(part), f"{part:.2f}", f"${abs(part):,.4f}", value, f"{part:e}"])


def _word(chance: random.Random) -> str:
    return "".join(chance.choices("abcXYZ 0123'\\|\"\u20bf\U0001f600\n\t$,", k=chance.randint(0, 12)))


def _moment(chance: random.Random) -> str:
    moment = datetime(1990, 1, 1, tzinfo=UTC) + timedelta(seconds=chance.randint(0, 4 * 10**9))
    return moment.replace(microsecond=chance.choice([0, 0, 500_000, 123, 999_999]), tzinfo=None).isoformat()


@pytest.mark.parametrize("side", ["yes", "no", "", None, "YES"])
def test_a_price_goes_to_its_side(side: str | None) -> None:
    """The older fills have one price, of the row's side; without a side both programs refuse the row."""
    names = ["id", "side", "price"]
    older = TABLES["fills"]._replace(
        columns=(
            Column("trade_id", Kind.TEXT, required=True, source="id"),
            Column("side", Kind.TEXT),
            Column("yes_price", Kind.NUMERIC, source="price", side="yes"),
            Column("no_price", Kind.NUMERIC, source="price", side="no"),
        )
    )
    made = convert.Converter(older, names, ["TEXT"] * 3, {}).convert([(1, "a", side, 0.42), (2, "b", side, None)])
    shown = fingerprint.Expected(older).columns(
        {"id": ["a", "b"], "side": [side] * 2, "price": [0.42, None]}, [None] * 2
    )
    assert [texts[1] for texts in shown[2:]] == ["", ""]
    wanted = {"yes": ["0.42", ""], "no": ["", "0.42"]}
    assert [texts[0] for texts in shown[2:]] == wanted.get(str(side), [None, None])
    assert [each.row[0] for each in made.bad] == ([] if side in wanted else [1])


def test_what_two_types_share_is_not_mixed_up() -> None:
    """1 and 1.0, 0.0 and -0.0, 2^62 as INTEGER and as REAL are equal to Python; each is shown as itself."""
    label, number = expect.memo(Column("a", Kind.TEXT)), expect.memo(Column("b", Kind.NUMERIC))
    assert [label[value] for value in (1, 1.0, "1", 1)] == ["'1'", "'1.0'", "'1'", "'1'"]
    assert [number[value] for value in (2**62, float(2**62), 2**62)] == [str(2**62), "4611686018427388000", str(2**62)]
    assert [number[value] for value in (-0.0, 0.0, 0, "-0.00")] == ["0"] * 4


def test_memory_is_bounded() -> None:
    """A column of values that never repeat does not grow without end, and long texts are not kept."""
    known = expect.memo(Column("a", Kind.TEXT))
    for number in range(expect.REMEMBERED + 10):
        assert known[f"ticket {number}"] == f"'ticket {number}'"
    assert len(known) <= expect.REMEMBERED
    assert known["x" * 1000] == "'" + "x" * 1000 + "'"
    assert "x" * 1000 not in known


def test_columns_that_do_not_repeat_are_made_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """A column that is made all at once has the fields, keys and bad rows that it has value by value."""
    columns = (("id", Kind.INTEGER), ("number", Kind.NUMERIC), ("label", Kind.TEXT))
    table = Table("some", "pg_temp", "some", tuple(Column(name, kind) for name, kind in columns), key=("id",))
    names = [name for name, _ in columns]
    chance = random.Random(7)
    rows = [(at, at, chance.randrange(-(10**9), 10**9) / 10 ** chance.randrange(8), f"T-{at}") for at in range(500)]
    odd: list[tuple[Any, ...]] = [
        (500, 500, "$1,250", None), (501, 501, float("inf"), "a"), (502, 502, 7, "a\x00"), (503, None, 0.5, "b"),
    ]  # fmt: skip
    blocks = [rows[:250], rows[250:], odd, [*rows[:3], *odd], []]

    def made() -> list[convert.Block]:
        converter = convert.Converter(table, names, ["INTEGER", "REAL", "TEXT"], {})
        return [converter.convert(block) for block in blocks]

    one_by_one = made()
    monkeypatch.setattr(convert, "REMEMBERED", -1)
    assert made() == one_by_one
    assert [len(block.bad) for block in one_by_one] == [0, 0, 2, 2, 0]
    assert one_by_one[0].fields[0] == b"".join(rules.rule_of(column)(rows[0][1 + at]) for at, column in enumerate(
        table.columns))  # fmt: skip


@given(number=st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.builds(lambda whole, scale: whole / 10**scale, st.integers(-(10**13), 10**13), st.integers(0, 6)),
))  # fmt: skip
@example(number=-0.0)
@example(number=99_999_999.9999)
@example(number=1e8)
@example(number=-0.0001)
@example(number=1e-5)
@example(number=0.1 + 0.2)
def test_a_real_keeps_the_digits_of_its_shortest_form(number: float) -> None:
    """The short way from a REAL to its field gives what its text gives, the decimals that are shown included."""
    shown = repr(number)
    packed = numeric.encode(format(Decimal(shown), "f") if "e" in shown else shown)
    assert rules.numeric_field(number) == struct.pack("!i", len(packed)) + packed
