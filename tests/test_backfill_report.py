"""The report of a backfill: the same facts as JSON and for people."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console

from recio_ingest.backfill import report
from recio_ingest.backfill.report import NAMED, SHOWN, Difference, Loaded, Verdict, check

GOOD = Verdict(
    (check("counts", "rows", 10, 10), check("sums", "trades_0001.pnl", "0.14", "0.14")), rows=10, lasted_s=0.5
)
LOADED = Loaded(
    "trades.db", "ab" * 32, "trades", "users.trades_0001", 7, 10, 6, 1, {"not_a_number": 2, "blob": 1}, 0.25
)


def difference(number: int, **changed: Any) -> Difference:
    """Return a difference in `pnl` of one row."""
    found = Difference("trades_0001", number, str(number), "pnl", "0.14", "0.41")
    return found._replace(**changed)


def bad(count: int) -> Verdict:
    """Return a verdict with so many differences, of which the first are named."""
    named = tuple(difference(number) for number in range(1, min(count, NAMED) + 1))
    return Verdict((check("sums", "trades_0001.pnl", "1", "2"),), named, count, rows=10, lasted_s=1.0)


def printed(loads: list[Loaded]) -> str:
    """Return what a terminal of 160 columns shows."""
    console = Console(width=160, force_terminal=False)
    with console.capture() as capture:
        console.print(report.table(loads))
        for line in report.lines(loads):
            console.print(line, markup=False, soft_wrap=True)
    return capture.get()


def test_the_json_adds_up_and_is_json() -> None:
    """Rows, inserted, already there and quarantined by reason are in it, and the rate; all of it survives JSON."""
    found = json.loads(json.dumps(report.as_json([LOADED._replace(verdict=GOOD)])))
    assert found["ok"] is True
    (load,) = found["loads"]
    assert load["source_rows"] == load["inserted"] + load["already_there"] + load["quarantined"] == 10
    assert load["quarantined_by_reason"] == {"blob": 1, "not_a_number": 2}
    assert (load["rows_per_s"], load["verification"]["rows_per_s"]) == (40, 20)
    assert load["verification"]["checks"][1] == {
        "group": "sums", "name": "trades_0001.pnl", "source": "0.14", "database": "0.14", "ok": True,
    }  # fmt: skip


def test_rows_that_do_not_add_up_are_not_well() -> None:
    """One row too few makes the report not ok, whatever the verification says, and people are told."""
    short = LOADED._replace(inserted=5, verdict=GOOD)
    assert report.as_json([LOADED._replace(verdict=GOOD), short])["ok"] is False
    assert "trades.db, trades: the rows do not add up" in report.lines([short])


def test_a_failed_check_alone_is_a_failure() -> None:
    """Without one named difference, a sum that is off makes the verdict bad."""
    verdict = Verdict((check("sums", "trades_0001.pnl", "1", "2"),))
    assert (verdict.ok, GOOD.ok, Verdict((), differing=1).ok) == (False, True, False)


def test_people_see_the_first_differences_and_how_many_more() -> None:
    """A table line says yes or no; below it the first differences by row, key, column and both values."""
    text = printed([LOADED._replace(verdict=GOOD), LOADED._replace(file="[other].db", verdict=bad(50))])
    assert "[other].db" in text
    assert "no: 1 checks, 50 differences" in text
    assert "row 1, key 1, pnl: the file has 0.14, the database 0.41" in text
    assert text.count("the file has 0.14") == SHOWN
    assert f"... and {50 - SHOWN} more differences" in text
    assert "sums, trades_0001.pnl: the file has 1, the database 2" in text
    assert "2 in the quarantine: not_a_number" in text


def test_long_values_are_cut() -> None:
    """A raw message that differs does not fill the terminal; its length is told."""
    verdict = bad(1)._replace(differences=(difference(1, source="x" * 5000),))
    (_, line) = report.lines([LOADED._replace(quarantined={"blob": 3}, verdict=verdict)])[-2:]
    assert len(line) < 400
    assert "(5,000 characters)" in line


def test_what_was_passed_over_is_told() -> None:
    """Columns that go nowhere and keys that come twice are in the JSON and below the table."""
    load = LOADED._replace(not_loaded=["volatility_delta"], verdict=GOOD._replace(duplicates=2))
    assert report.as_json([load])["loads"][0]["columns_not_loaded"] == ["volatility_delta"]
    assert "trades.db, trades: columns that go nowhere: volatility_delta" in report.lines([load])
    assert "trades.db, trades: 2 keys come more than once in the file" in report.lines([load])


def test_a_dry_run_has_no_verdict() -> None:
    """Without a verification the table has a dash and the report is about the books alone."""
    assert report.as_json([LOADED])["loads"][0]["verification"] is None
    assert LOADED.ok
    assert "verified" in printed([LOADED])
