"""Logging: one event a line to standard error, JSON for machines, columns for a person at a terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import orjson
import structlog

# A venue's or a database's words may hold anything. Control characters and line separators could forge lines or move a
# terminal's cursor, marks of direction could reorder them, and half of a surrogate pair cannot be written at all.
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(0x7F, 0xA0))} | {
    code: f"\\u{code:04x}"
    for code in (
        *(0x061C, 0x200E, 0x200F, 0x2028, 0x2029),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
        *range(0xD800, 0xE000),
    )
}
_LONGEST = 2000
_TOO_LARGE = 2**63  # for orjson


def configure(style: str, level: str) -> None:
    """Set logging up for the whole process; called once."""
    json = style == "json" or (style == "auto" and not sys.stderr.isatty())
    render: Any = (
        structlog.processors.JSONRenderer(serializer=_dumps)
        if json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _harmless,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Other people's loggers: websockets at DEBUG would print handshake headers, signatures among them.
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    logging.getLogger("aiohttp").setLevel(logging.ERROR)


def _harmless(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:  # noqa: ANN401
    for key, value in event.items():
        if key == "exception":
            # A traceback has lines; a line of ours never begins with blanks.
            event[key] = "\n".join(f"  {_text(line)}" for line in str(value).split("\n"))
        else:
            event[key] = _plain(value)
    return event


def _plain(value: Any) -> Any:  # noqa: ANN401  # whatever was logged
    """Return the value as something that can be written, whatever it holds: a log line must never raise."""
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {_text(str(key)): _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < _TOO_LARGE):
        return value
    return _text(str(value))


def _text(value: str) -> str:
    return value.translate(_CONTROL)[:_LONGEST]


def _dumps(event: Any, **_: Any) -> str:  # noqa: ANN401  # structlog's signature
    return orjson.dumps(event).decode()
