"""SQLite files that are hostile, broken, locked or in use: refused by name, or read as they were at one moment."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import backfill_files as files
import pytest

from recio_ingest.backfill import snapshot
from recio_ingest.backfill import source as source_module
from recio_ingest.backfill.load import Loader
from recio_ingest.backfill.source import BLOCK_BYTES, BLOCK_ROWS, MAX_ROW_BYTES, Source, row_bytes
from recio_ingest.backfill.tables import BadText
from recio_ingest.errors import EXIT_BAD_DATA, BadInputError, ConfigError, TryLaterError


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """Lend a checked source."""
    with snapshot.taken(path, path.parent / "copies") as copy, closing(Source(copy)) as source:
        source.check()
        yield source


def read(path: Path) -> list[tuple[object, ...]]:
    """Return all rows of the first table."""
    with opened(path) as source:
        return [row for block in source.blocks(source.find()[0]) for row in block]


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (
            "CREATE VIEW trades AS WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n) SELECT * FROM n",
            "view",
        ),
        ("CREATE VIRTUAL TABLE trades USING fts5(id)", "is a virtual"),
        (files.TRADES[:-1] + ", big TEXT AS (hex(zeroblob(100000000))))", "generated or hidden column big"),
        (files.TRADES.replace("AUTOINCREMENT", "") + " WITHOUT ROWID", "without rowids"),
        (
            files.TRADES.replace("AUTOINCREMENT", "") + "; CREATE TRIGGER t AFTER INSERT ON trades BEGIN SELECT 1; END",
            "trigger t",
        ),
        (
            f"{files.TRADES}; CREATE INDEX few ON trades (id) WHERE ticker LIKE '%a%'",
            "trades has the partial index few",
        ),
        (
            f"{files.TRADES}; CREATE INDEX lengths ON trades (id, length(ticker))",
            "trades has the index lengths on an expression",
        ),
        (
            f'{files.TRADES}; CREATE TABLE "a""b" (id); CREATE INDEX more ON "a""b" (hex(id))',
            "the index more on an expression",
        ),
        ("CREATE TABLE trades (id INTEGER PRIMARY KEY, status TEXT)", "has no column date, time, strike"),
        ("CREATE TABLE notes (id INTEGER)", "none of the predecessor's tables"),
    ],
)
def test_what_is_no_plain_table_is_refused(tmp_path: Path, statement: str, words: str) -> None:
    """The table and what is odd about it are named; nothing of it is run."""
    path = tmp_path / "trades.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(statement)
    with pytest.raises(BadInputError, match=words), opened(path) as source:
        source.find()


def test_a_name_that_only_looks_like_one_is_another(tmp_path: Path) -> None:
    """Python's lower case of the Kelvin sign is a k and SQLite's is not: no value is read from a column of neither."""
    schema = files.FILLS.replace("ticker", "tic\u212aer").replace("side", "SIDE")
    row = {name.replace("ticker", "tic\u212aer"): value for name, value in files.fill(1).items()}
    with opened(files.write(tmp_path / "fills.db", "fills", [row], schema)) as source:
        (found,) = source.find()
        assert "ticker" not in found.names
        assert found.unknown == ("tic\u212aer",)
        assert dict(zip(("rowid", *found.names), next(source.blocks(found))[0], strict=True))["side"] == row["side"]


def test_a_quoted_name_is_no_text(tmp_path: Path) -> None:
    """Whatever is taken for a column and is none ends in an error: SQLite reads a quoted name alone as a text."""
    path = files.write(tmp_path / "fills.db", "fills", [files.fill(1)])
    with opened(path) as source:
        (found,) = source.find()
        with pytest.raises(BadInputError, match=r"fills cannot be read: no such column: t\.tickler"):
            next(source.blocks(found._replace(names=("tickler",))))


def test_a_giant_row_is_refused(tmp_path: Path) -> None:
    """A row larger than any of the predecessor's ends the reading instead of filling the memory."""
    rows = [files.trade(1), files.trade(2, contract="x" * (MAX_ROW_BYTES + 1))]
    path = files.write(tmp_path / "trades.db", "trades", rows)
    with pytest.raises(BadInputError, match="trades: a row is larger than 1024 KiB"):
        read(path)


def test_a_corrupt_file_is_refused(tmp_path: Path) -> None:
    """Damage that reading might not even notice is found before anything is written."""
    path = files.clean_trades(tmp_path / "trades.db", 500)
    data = bytearray(path.read_bytes())
    page = 4096 * 5
    data[page : page + 64] = b"\xa5" * 64
    path.write_bytes(data)
    with pytest.raises(BadInputError, match=r"trades\.db (is corrupt|cannot be read)"), opened(path):
        pass


def test_a_check_that_takes_too_long_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is that of the file's size; what a schema adds to it is not waited for."""
    path = files.clean_trades(tmp_path / "trades.db", 500)
    monkeypatch.setattr(source_module, "CHECK_S", 0.0)
    monkeypatch.setattr(source_module, "CHECK_S_PER_MB", 0.0)
    with pytest.raises(BadInputError, match=r"trades\.db: SQLite's check of it takes longer than 0 s"):
        read(path)


def test_dirt_is_not_corruption(tmp_path: Path) -> None:
    """SQLite's check complains of a NULL where the schema forbids it; that is a row's fault and not the file's."""
    path = files.write(
        tmp_path / "trades.db", "trades", [files.trade(1), files.trade(2, side=None)], files.LOOSE_TRADES
    )
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = 'trades'", (files.TRADES,))
    assert len(read(path)) == 2


def test_a_locked_file_is_for_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that holds the file exclusively is waited for a little, and then named."""
    monkeypatch.setattr(snapshot, "BUSY_S", 0.2)
    path = files.clean_trades(tmp_path / "trades.db", 3)
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TryLaterError, match=r"trades\.db is locked"), opened(path):
            pass
        writer.execute("COMMIT")
    assert len(read(path)) == 3


def test_writers_go_on_while_the_file_is_loaded(tmp_path: Path) -> None:
    """The lock ends with the copy: a program writes during the load, and the load sees the state before."""
    path = files.clean_trades(tmp_path / "trades.db", 3)
    with opened(path) as source:
        blocks = source.blocks(source.find()[0])
        files.write(path, "trades", [files.trade(4)])
        assert [row[0] for block in blocks for row in block] == [1, 2, 3]
    assert len(read(path)) == 4


def test_the_copy_is_the_file(tmp_path: Path) -> None:
    """The identity of a file without a log is its SHA-256, which anybody can compute; the copy is gone afterwards."""
    path = files.clean_trades(tmp_path / "trades.db", 3)
    left = tmp_path / "copies" / "left-by-a-killed-run"
    left.mkdir(parents=True)
    with opened(path) as source:
        assert source.snapshot.sha256 == sha256(path.read_bytes()).hexdigest()
        assert source.snapshot.size_bytes == path.stat().st_size
        assert not left.exists()
    assert list((tmp_path / "copies").iterdir()) == []


def test_a_journal_of_a_crash_is_rolled_back_in_the_copy(tmp_path: Path) -> None:
    """A file that a crash left in the middle of a transaction is read as it was before, and stays as it is."""
    path = files.clean_trades(tmp_path / "trades.db", 400)
    crashed = tmp_path / "crashed.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("PRAGMA cache_spill = 1")
        writer.execute("PRAGMA cache_size = 1")
        writer.execute("BEGIN")
        writer.execute("UPDATE trades SET contract = 'torn', ticker = 'torn'")
        crashed.write_bytes(path.read_bytes())
        journal = path.with_name("trades.db-journal").read_bytes()
        crashed.with_name("crashed.db-journal").write_bytes(journal)
        writer.execute("ROLLBACK")
    before = crashed.read_bytes()
    assert b"torn" in before
    assert len([row for row in read(crashed) if "torn" in row]) == 0
    assert crashed.read_bytes() == before


def test_a_journal_that_names_another_file_is_refused(tmp_path: Path) -> None:
    """SQLite deletes the file that a journal of several files names, even one that has nothing to do with it."""
    path = files.clean_trades(tmp_path / "trades.db", 3)
    victim = tmp_path / "victim"
    victim.write_bytes(b"kept")
    path.with_name("trades.db-journal").write_bytes(files.journal_naming(victim, path.stat().st_size // 4096))
    with pytest.raises(BadInputError, match=r"trades\.db-journal belongs to a transaction over several") as caught:
        read(path)
    assert caught.value.exit_code == EXIT_BAD_DATA
    assert victim.read_bytes() == b"kept"


@contextmanager
def powerless() -> Iterator[None]:
    """Look as an account that owns nothing; root reads everything."""
    own = os.geteuid()
    if not own:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(own)


def test_what_cannot_be_read_is_named() -> None:
    """A folder that may not be entered, a file that may not be read, and one that is not there: the file's fault."""
    with TemporaryDirectory() as home:  # pytest's own folder may not be entered by others
        folder, closed, copies = Path(home), Path(home) / "closed", Path(home) / "copies"
        folder.chmod(0o755)
        closed.mkdir(mode=0o700)
        copies.mkdir()
        copies.chmod(0o777)
        inside, unreadable = files.clean_trades(closed / "trades.db", 3), files.clean_trades(folder / "own.db", 3)
        unreadable.chmod(0)
        closed.chmod(0)
        for path, words in (
            (inside, "closed/trades.db cannot be read: Permission denied"),
            (unreadable, "own.db cannot be read: Permission denied"),
            (folder / "none.db", "none.db cannot be read: No such file"),
            (folder, "is not a file"),
        ):
            with powerless(), pytest.raises(BadInputError, match=words), snapshot.taken(path, copies):
                pass
        nowhere = snapshot.taken(folder / "none.db", closed / "copies")
        with powerless(), pytest.raises(ConfigError, match="nothing can be written in"), nowhere:
            pass
        closed.chmod(0o700)


def test_a_full_disk_is_for_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room that was there before the copy can be gone under it: the disk's fault and not the file's."""
    path = files.clean_trades(tmp_path / "trades.db", 3)
    usual = Path.open

    def full(self: Path, mode: str = "r") -> Any:
        return usual(Path("/dev/full"), "wb") if mode == "xb" else usual(self, mode)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(TryLaterError, match=r"no room for a copy in .*copies: No space left") as caught, opened(path):
        pass
    assert "state_dir" in caught.value.hint
    assert list((tmp_path / "copies").iterdir()) == []


def test_bad_text_leaves_its_neighbours_alone(tmp_path: Path) -> None:
    """Text that is not UTF-8 comes as its bytes, in its own row, wherever it lies in a block."""
    bad = {1, 2, BLOCK_ROWS, BLOCK_ROWS + 1, 2 * BLOCK_ROWS + 7}
    rows = (
        files.trade(number, **({"symbol": files.Sql(files.BAD_TEXT)} if number in bad else {}))
        for number in range(1, 3 * BLOCK_ROWS)
    )
    found = read(files.write(tmp_path / "trades.db", "trades", rows))
    assert [row[0] for row in found] == list(range(1, 3 * BLOCK_ROWS))
    assert {row[0] for row in found if BadText(b"\xe9\xffA") in row} == bad
    assert all(sum(isinstance(value, bytes) for value in row) == (row[0] in bad) for row in found)


def test_bad_text_in_every_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many blocks have text that is not UTF-8, the next one is read as the first was."""
    monkeypatch.setattr(source_module, "BLOCK_ROWS", 2)
    rows = (files.trade(number, symbol=files.Sql(files.BAD_TEXT)) for number in range(1, 2501))
    found = read(files.write(tmp_path / "trades.db", "trades", rows))
    assert [row[0] for row in found] == list(range(1, 2501))
    assert all(BadText(b"\xe9\xffA") in row for row in found)


def test_blocks_of_large_rows_are_short(tmp_path: Path) -> None:
    """The memory of a block has a limit, wherever the large rows lie; every row comes once, and in its order."""
    large = {3, *range(300, 340)}
    text = "x" * 400_000
    rows = (files.settlement(number, raw_json=text if number in large else "{}") for number in range(1, 1001))
    path = files.write(tmp_path / "settlements.db", "settlements", rows)
    with opened(path) as source:
        blocks = list(source.blocks(source.find()[0]))
    assert max(sum(map(row_bytes, block)) for block in blocks) < BLOCK_BYTES + 500_000
    assert [row[0] for block in blocks for row in block] == list(range(1, 1001))
    assert max(map(len, blocks)) == BLOCK_ROWS


def test_a_row_is_measured_as_a_whole(tmp_path: Path) -> None:
    """SQLite's own limit is one of each value."""
    values = dict.fromkeys(("contract", "ticker", "symbol"), "x" * (MAX_ROW_BYTES // 2))
    path = files.write(tmp_path / "trades.db", "trades", [files.trade(1, **values)])
    with pytest.raises(BadInputError, match="trades: a row is larger than 1024 KiB"):
        read(path)


@pytest.mark.parametrize(
    "changed",
    [{"raw_json": '"' + "x" * 600_000 + '"'}, {"raw_json": "x" * 600_000}, {"revenue": " " * 600_000 + "1"}],
    ids=["loaded", "bad", "blank"],
)
async def test_a_batch_of_large_rows_is_short(database: str, tmp_path: Path, changed: dict[str, str]) -> None:
    """What is held in memory ends a batch, not only the number of its rows."""
    rows = [files.settlement(number, **changed) for number in range(1, 101)]
    schema = files.SETTLEMENTS.replace("revenue REAL", "revenue TEXT")
    path = files.write(tmp_path / "settlements.db", "settlements", rows, schema)
    done: list[int] = []
    with opened(path) as source:
        await Loader(database, source, source.find()[0], "0001").try_out(done.append)
    assert [after - before for before, after in pairwise([0, *done])] == [28, 28, 28, 16]


def test_reading_goes_on_behind_a_rowid(tmp_path: Path) -> None:
    """A load that was cut off asks for the rows behind the last one it has, negative rowids included."""
    path = files.write(tmp_path / "trades.db", "trades", [files.trade(number, id=number - 3) for number in range(1, 8)])
    with opened(path) as source:
        found = source.find()[0]
        assert [row[0] for block in source.blocks(found, -1) for row in block] == [0, 1, 2, 3, 4]
        assert next(source.blocks(found))[0][0] == -2
