"""Kalshi: `ticker`, `trade`, `market_lifecycle_v2` and `cfbenchmarks_value`, and the answers to `GET /markets`.

Source: the venue's AsyncAPI and OpenAPI documents. What they say, in short: a subscription has a `sid`, valid within
its connection; `seq` begins with 1 for each and rises by one with everything sent on it, data, `ok` and `error` alike
(tickers have none); the lifecycle channel is about all markets of the venue; `settled` may come several times for one
market; more types may come.

A message that is refused leaves no trace but its number, where that can be read: it did come.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson

from recio_ingest.errors import BadMessageError
from recio_ingest.feeds import Recalled, kalshi_repair, repair
from recio_ingest.feeds import kalshi_fields as fields
from recio_ingest.feeds import kalshi_rows as rows
from recio_ingest.feeds.kalshi_answers import Answers
from recio_ingest.feeds.kalshi_errors import Remedy, remedy
from recio_ingest.feeds.kalshi_feed import feed
from recio_ingest.feeds.ledger import ANY, Recent, Sequences
from recio_ingest.feeds.outage import Outage
from recio_ingest.records import Decoded, Frame, Gap, Kind, MarketEvent, Micros, Outcome, Row, is_repair, micros

__all__ = ["NAME", "RECALL", "RULES", "SPOTS", "KalshiParser", "feed", "parser", "recognises", "venue_time"]

NAME = fields.VENUE
SPOTS = (rows.SPOT,)
RULES = (rows.RULE,)
RECALL = ("kalshi_trades", "kalshi_prints", "kalshi_settled", "kalshi_states", "kalshi_quotes", "kalshi_refused")

SOCKET = ("ticker", "trade", "market_lifecycle_v2", "cfbenchmarks_value")
REST = "rest"
_CHANNELS = {
    **{name: name for name in (*SOCKET, REST)},
    "event_lifecycle": "market_lifecycle_v2",
    "event_fee_update": "market_lifecycle_v2",
}
"""The channel of each type of message."""
NUMBERED = frozenset(SOCKET) - {"ticker"}

# A trade can only come twice by two subscriptions at about the same time, a print by a new connection; all markets of
# an hour are settled, again and again, within some minutes. The statements of RECALL give back exactly as many: the
# same frames give the same rows, wherever a restart falls.
MAX_TRADES = 5000
MAX_PRINTS = 600
MAX_SETTLED = 5000


class KalshiParser:
    """Remembers the line, the numbering of each subscription, the series followed, and what the tables hold already."""

    def __init__(self, state: Mapping[str, Any], recalled: Recalled | None = None) -> None:
        known = {name: (recalled or {}).get(name, ()) for name in RECALL}
        self._outage = Outage(NAME, state.get("line", {}), (*SOCKET, REST), NUMBERED)
        self._sids = Sequences(NAME, state.get("sids", {}))
        self._series: list[str] | None = state.get("series")
        self._by_rest: bool = state.get("by_rest", False)
        trades = known["kalshi_trades"]
        self._trades = Recent(MAX_TRADES, (name for name, by in trades if by == "trade"))
        # Apart: a thousand old ones must not push out the newest.
        self._repaired = Recent(MAX_TRADES, (name for name, by in trades if by != "trade"))
        self._prints = Recent(MAX_PRINTS, (_print_name(*row) for row in known["kalshi_prints"]))
        self._settled = Recent(MAX_SETTLED, (name for (name,) in known["kalshi_settled"]))
        self._answers = Answers(known["kalshi_states"], known["kalshi_quotes"], known["kalshi_refused"])
        self._types = {
            "ticker": self._ticker,
            "trade": self._trade,
            "market_lifecycle_v2": self._lifecycle,
            "event_lifecycle": self._event,
            "event_fee_update": self._event,
            "cfbenchmarks_value": self._print,
            "subscribed": self._subscribed,
            "unsubscribed": self._answer,
            "ok": self._answer,
            "error": self._answer,
        }

    def state(self) -> dict[str, Any]:
        """Return what no table holds, as plain JSON."""
        return {
            "line": self._outage.state(),
            "sids": self._sids.state(),
            "series": self._series,
            "by_rest": self._by_rest,
            "refused": self._answers.refused(),
        }

    def decode(self, frame: Frame) -> Decoded:
        """Return what the frame gives."""
        if frame.kind != Kind.DATA:
            return Decoded(Outcome.CONTROL, self._mark(frame))
        try:
            message = orjson.loads(frame.data)
        except orjson.JSONDecodeError as exc:
            raise BadMessageError("json", str(exc)) from None
        if isinstance(message, dict) and "markets" in message and "type" not in message:
            outcome, found = self._answers.take(frame, quoted=self._sids.holds("ticker"))
            decoded = Decoded(outcome, found, frame.recv_ns // 1000 if self._by_rest else None)
            if not self._by_rest:
                return decoded  # an answer to a question says nothing about the socket
        elif isinstance(message, dict) and "trading_active" in message and "type" not in message:
            return Decoded(Outcome.STATE)  # of the whole exchange: it says when silence is no fault
        else:
            try:
                handler = self._types[message["type"]]
            except (KeyError, TypeError):
                if is_repair(frame):
                    return kalshi_repair.decode(frame, self._series, (self._trades, self._repaired), self._answers)
                raise BadMessageError("unknown_type", "no table for a message of this type") from None
            try:
                decoded = handler(frame, message)
            except BadMessageError as exc:
                exc.rows = self._number(frame, message)
                raise
        ended = self._outage.seen(frame, self._channel(message), decoded.venue_time)
        return decoded._replace(rows=decoded.rows + ended) if ended else decoded

    def _number(self, frame: Frame, message: dict[str, Any]) -> tuple[Gap, ...]:
        """Take in that a message came which is of no use; return the gap before it."""
        try:
            sid, seq = fields.number(message, "sid"), fields.number(message, "seq")
            return self._sids.see(sid, seq, frame, _CHANNELS.get(message["type"], ANY))[1]
        except BadMessageError:
            return ()

    def _mark(self, frame: Frame) -> tuple[Gap, ...]:
        if frame.kind in (Kind.CONNECTED, Kind.DISCONNECTED, Kind.LOST):
            self._sids.forget()  # what is lost may be the marks between two connections
        gaps = self._outage.mark(frame)
        if frame.kind != Kind.CONNECTED:
            return gaps
        facts = orjson.loads(frame.data)
        self._series, self._by_rest = facts.get("series"), facts.get("by") == "rest"
        return gaps + self._outage.expect(frame, (REST,) if self._by_rest else SOCKET)

    def _channel(self, message: dict[str, Any]) -> str | None:
        """Return which channel a message shows to be received."""
        kind = message.get("type", REST)
        if kind != "subscribed":
            return _CHANNELS.get(kind)
        channel: str = message["msg"]["channel"]
        # It comes every second, or it does not come: an index that is confirmed and stays silent is still missing.
        return None if channel == "cfbenchmarks_value" and self._outage.lacks(channel) else channel

    def _ticker(self, frame: Frame, message: dict[str, Any]) -> Decoded:
        row = rows.ticker(frame, message)
        return self._take(frame, message, (row,), row.timestamp)

    def _trade(self, frame: Frame, message: dict[str, Any]) -> Decoded:
        row = rows.trade(frame, message)
        if str(row.trade_id) in self._repaired:  # REST was quicker
            return self._take(frame, message, (), row.timestamp)._replace(outcome=Outcome.DUPLICATE)
        return self._take(frame, message, (row,), row.timestamp, self._trades, str(row.trade_id))

    def _lifecycle(self, frame: Frame, message: dict[str, Any]) -> Decoded:
        if not self._follows(message, "market_ticker"):
            return self._take(frame, message)
        found = rows.lifecycle(frame, message)
        event = found[0]
        if isinstance(event, MarketEvent) and event.event_type == "settled":
            return self._take(frame, message, found, None, self._settled, str(event.ticker))
        return self._take(frame, message, found)

    def _event(self, frame: Frame, message: dict[str, Any]) -> Decoded:
        followed = self._follows(message, "event_ticker")
        return self._take(frame, message, (rows.event_step(frame, message),) if followed else ())

    def _print(self, frame: Frame, message: dict[str, Any]) -> Decoded:
        fields.number(message, "seq")
        row = rows.index_print(frame, message)
        return self._take(frame, message, (row,), row.timestamp, self._prints, _print_name(row.symbol, row.timestamp))

    def _subscribed(self, frame: Frame, message: dict[str, Any]) -> Decoded:
        about = message.get("msg")
        if not isinstance(about, dict):
            raise BadMessageError("schema", "msg is not an object")
        sid, channel = fields.number(about if "sid" in about else message, "sid"), fields.name(about, "channel")
        lost: tuple[Gap, ...] = ()
        # A channel has one subscription (another command for it adds to that one): an older one is gone, and where the
        # venue had forgotten it (code 7, which names no sid) nothing else says so.
        for old in self._sids.of(channel, but=sid):
            lost += self._outage.lose(frame, self._sids.end(old), "channel_lost")
        self._sids.begin(sid, channel, frame.recv_ns)
        return Decoded(Outcome.STATE, lost)

    def _answer(self, frame: Frame, message: dict[str, Any]) -> Decoded:
        if "sid" not in message:
            return Decoded(Outcome.STATE)
        decoded = self._take(frame, message)
        about = message.get("msg")
        code = about.get("code") if message["type"] == "error" and isinstance(about, dict) else None
        if message["type"] != "unsubscribed" and (code is None or remedy(code) is not Remedy.AGAIN):
            return decoded
        lost = self._outage.lose(frame, self._sids.end(message["sid"]), "channel_lost")
        return decoded._replace(rows=decoded.rows + lost)

    def _follows(self, message: dict[str, Any], field: str) -> bool:
        """Tell whether a message of the channel that is about everything concerns a series asked for."""
        body = message.get("msg")
        if not isinstance(body, dict):
            raise BadMessageError("schema", "msg is not an object")
        return self._series is None or fields.name(body, field).partition("-")[0] in self._series

    def _take(  # noqa: PLR0917  # one call for every kind of message, in the order of the checks
        self,
        frame: Frame,
        message: dict[str, Any],
        found: tuple[Row, ...] = (),
        moment: Micros | None = None,
        seen: Recent | None = None,
        name: str = "",
    ) -> Decoded:
        """Take a message in of which everything else was checked: first by its number, then by its name."""
        sid = fields.number(message, "sid")
        gaps: tuple[Any, ...] = ()
        channel = _CHANNELS.get(message["type"], ANY)
        if "seq" in message:
            new, gaps = self._sids.see(sid, fields.number(message, "seq"), frame, channel)
            if not new:
                return Decoded(Outcome.DUPLICATE, (), moment)
        elif channel == "ticker":
            self._sids.learn(sid, channel, frame.recv_ns)
        if seen is not None and not seen.see(name):
            return Decoded(Outcome.DUPLICATE, gaps, moment)
        return Decoded(Outcome.SHIPPED if found else Outcome.STATE, found + gaps, moment)


def _print_name(symbol: str, moment: Micros) -> str:
    return f"{symbol} {moment // 1000}"


def venue_time(message: Any) -> Micros | None:  # noqa: ANN401  # any JSON value
    """Return the venue's own time of a message, where it has one."""
    try:
        if "markets" in message:
            times = [market["updated_time"] for market in message["markets"] if "updated_time" in market]
            return max((micros(datetime.fromisoformat(time)) for time in times), default=None)
        body = message["msg"]
        for field, unit_us in (
            ("ts_ms", 1000),
            ("received_at", 1000),
            ("settled_ts", 10**6),
            ("determination_ts", 10**6),
        ):
            if type(body.get(field)) is int and 0 < body[field] * unit_us < fields.LAST_S * 10**6:
                return int(body[field] * unit_us)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return None
    return None


def recognises(message: Any) -> bool:  # noqa: ANN401  # any JSON value
    """Tell whether a message has this venue's shape: a `type` beside `msg` or `sid`, or a list of markets.

    An answer for a gap is this venue's where no numbers were asked for.
    """
    if not isinstance(message, dict):
        return False
    if (answered := repair.head(message)) is not None:
        return answered["numbers"] is None
    if "type" in message:
        return bool(message.keys() & {"msg", "sid"})
    return isinstance(message.get("markets"), list)


def parser(state: Mapping[str, Any], recalled: Recalled) -> KalshiParser:
    """Return a parser that goes on from a committed state and what the tables hold."""
    return KalshiParser(state, recalled)
