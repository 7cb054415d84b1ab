"""Log lines: one event a line, whatever the values hold, for machines and for people."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

FORGED = "2026-01-01T00:00:00.000000Z [info     ] service.stopped"
HOSTILE = [
    f"a\n{FORGED}",
    f"a\r\n{FORGED}",
    f"a\r{FORGED}",
    f"a\x0b{FORGED}",
    f"a\x0c{FORGED}",
    f"a\x1e{FORGED}",
    f"a\x85{FORGED}",
    f"a\u2028{FORGED}",
    f"a\u2029{FORGED}",
    "\x1b[2J\x1b[31mred",
    "\x9b2J",
    "\x1b]0;title\x07",
    "\x00\x08\x7f",
    "\u202egnol\u202c",
    "\u2066a\u2069\u200e\u200f\u061c",
    "half \ud800 pair \udfff",
]
FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
OURS = {"json": re.compile(r'\{.*"event":"something\.happened".*\}'), "console": re.compile(r"20.*Z \[.*\] something")}

SCRIPT = """
import logging
import pathlib
import structlog
from recio_ingest import logs
from recio_ingest.records import Outcome

class Trouble(Exception): ...

logs.configure({style!r}, "info")
log = structlog.get_logger()
"""


def logged(style: str, code: str) -> list[str]:
    """Run code in a process that logs in this style; return what it wrote to standard error."""
    command = [sys.executable, "-W", "error", "-c", SCRIPT.format(style=style) + code]
    result = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert (result.returncode, result.stdout) == (0, b""), result.stderr
    return result.stderr.decode().removesuffix("\n").split("\n")


styles = pytest.mark.parametrize("style", ["json", "console"])


@styles
def test_no_value_forges_a_line(style: str) -> None:
    """Control characters, line ends and marks of direction are escaped wherever in a value they are."""
    values = "(text, [text], {text: text}, Trouble(text), (1, {'a': {text}}), pathlib.Path('/' + text))"
    code = f"for value in {values}:\n        log.warning('something.happened', error=value)"
    lines = logged(style, f"for text in {HOSTILE!a}:\n    {code}")
    assert len(lines) == 6 * len(HOSTILE)
    assert [line for line in lines if FORBIDDEN.search(line) or not OURS[style].match(line)] == []


@styles
def test_no_event_forges_a_line(style: str) -> None:
    """The event's own name is escaped as well."""
    lines = logged(style, f"for text in {HOSTILE!a}:\n    log.warning('something.happened' + text)")
    assert len(lines) == len(HOSTILE)
    assert [line for line in lines if FORBIDDEN.search(line) or "something.happened" not in line] == []


@styles
def test_no_traceback_forges_a_line(style: str) -> None:
    """A traceback's lines are not at the margin, where ours begin, and hold no control characters."""
    code = "try:\n        raise Trouble(text)\n    except Trouble:\n        log.exception('something.happened')"
    lines = logged(style, f"for text in {HOSTILE!a}:\n    {code}")
    assert [line for line in lines if FORBIDDEN.search(line)] == []
    ours = [line for line in lines if not line.startswith("  ")]
    assert len(ours) == len(HOSTILE)
    assert [line for line in ours if not OURS[style].match(line)] == []
    assert "Trouble: half" in "".join(lines)


@styles
def test_whatever_is_logged_is_written(style: str) -> None:
    """No value makes the log raise, and none makes a line without end."""
    strange = "2**63, -(2**70), float('nan'), b'\\xff\\n', {1: 2}, {(1, 2): 3}, object, None, {'a'}, 'x' * 10**6"
    lines = logged(style, f"for value in ({strange}):\n    log.warning('something.happened', value=value)")
    assert len(lines) == 10
    assert [line for line in lines if not OURS[style].match(line) or len(line) > 3000] == []


def test_json_for_machines() -> None:
    """A line is one JSON object with the event, the level, the time in UTC and the facts as they are."""
    facts = "count=3, seconds=0.5, names=('a',), nothing=None, yes=True, outcome=Outcome.STATE, text='§ ü €'"
    (line,) = logged("json", f"log.warning('something.happened', {facts})")
    event = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", event.pop("timestamp"))
    assert event == {
        "event": "something.happened",
        "level": "warning",
        "count": 3,
        "seconds": 0.5,
        "names": ["a"],
        "nothing": None,
        "yes": True,
        "outcome": "state",
        "text": "§ ü €",
    }


def test_columns_for_people() -> None:
    """Without a terminal there are no colours: time, level, event, facts."""
    (line,) = logged("console", "log.warning('something.happened', feed='coinbase', count=3)")
    assert re.fullmatch(r"[-0-9T:.]{26}Z \[warning  \] something\.happened +count=3 feed=coinbase", line)


def test_auto_is_json_where_no_terminal_is() -> None:
    """Under systemd, or with the output redirected, `auto` means JSON."""
    (line,) = logged("auto", "log.info('something.happened')")
    assert json.loads(line)["event"] == "something.happened"


def test_what_is_below_the_level_is_silent() -> None:
    """At `info` nothing for debugging is written, and other people's handshake headers never are."""
    others = "logging.getLogger('websockets.client').error('> Authorization: secret')"
    assert logged("json", f"log.debug('something.small')\n{others}") == [""]
