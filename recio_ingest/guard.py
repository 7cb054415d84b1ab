"""A connection that gives up on a peer which keeps the rules of the protocol, or does not, and is no use either way.

The library refuses what is malformed or too large. What it takes for as long as it lasts is bounded here: a message
that is never finished, fragments without end, pings without end, a peer that was told to go and stays.
"""

from __future__ import annotations

import asyncio
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.frames import CloseCode
from websockets.protocol import State

from recio_ingest.errors import PeerError
from recio_ingest.wire import limit_unacknowledged

# A venue that says nothing is found within the sum of these three: an answer awaited at the worst moment, and the
# wait for the answer to our own close, whose default of 10 s would be added to every dead peer's detection. Whatever
# comes is an answer: in a burst the one to a ping stands behind megabytes of data (seen: left as dead while it sent).
PING_INTERVAL_S, PING_TIMEOUT_S, CLOSE_TIMEOUT_S = 4.0, 4.0, 1.0
SILENT_S = PING_INTERVAL_S + PING_TIMEOUT_S
# Who looks so late has been asleep, and has not read what came meanwhile.
ASLEEP_S = 1.0
# What was sent and never acknowledged: the kernel would go on trying for a quarter of an hour.
UNACKNOWLEDGED_S = 8.0
# The largest message of these channels is under 2 kB, the list of what is subscribed to under 100 kB; past this limit
# the peer is closed with 1009.
MAX_MESSAGE_BYTES = 2**20
# Sooner than the next unanswered ping, which such a peer cannot answer in the middle of a frame: it has its own cause.
MESSAGE_WITHIN_S = 5.0
# Fragments need not hold anything, so the limit of the message does not bound them. No venue here uses any.
MAX_FRAGMENTS = 1000
# Each is an answer to a ping, or a command of ours; there are some tens when a connection begins.
MAX_SENT_PER_S = 500
# What arrives at once is looked at in such pieces: a hundred thousand empty frames fit into one read.
PIECE_BYTES = 16_384


class Guarded(ClientConnection):
    """Looks at itself after every read, never for each message."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401  # what the library gives it
        super().__init__(*args, **options)
        self._began_s: float | None = None
        """When what is incomplete now began."""
        self._fragments = 0
        self._sent, self._sent_since_s = 0, 0.0
        self._leaving = False
        self._came_s, self._held, self._due_s = 0.0, False, float("inf")
        """When something came last, whether it is us who do not read, and when to look whether it is long ago."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; a pause that is ours is not the peer's slowness."""
        super().connection_made(transport)
        limit_unacknowledged(transport, UNACKNOWLEDGED_S)
        pause, resume = self.recv_messages.pause, self.recv_messages.resume

        def hold() -> None:
            self._held = True
            pause()

        def go_on() -> None:
            self._began_s, self._held, self._came_s = None, False, self.loop.time()
            resume()

        self.recv_messages.pause, self.recv_messages.resume = hold, go_on
        self._came_s = self.loop.time()
        self._listen()

    def _listen(self) -> None:
        """Give up on a peer that answers nothing; look again when it would have been silent for too long."""
        if self.protocol.state is State.CLOSED or self._leaving:
            return
        now_s = self.loop.time()
        asleep = now_s - self._due_s > ASLEEP_S
        silent = self.protocol.state is State.OPEN and not self._held and not asleep
        since_s = self._came_s if silent else now_s
        if now_s - since_s >= SILENT_S:
            self._give_up("ping", f"nothing came for {SILENT_S:.0f} s, nor an answer to a ping")
        else:
            self._due_s = since_s + SILENT_S
            self.loop.call_at(self._due_s, self._listen)

    def data_received(self, data: bytes) -> None:
        """Take in what arrived, and judge it."""
        self._came_s = self.loop.time()
        if len(data) <= PIECE_BYTES:
            self._take(data)
            return
        for at in range(0, len(data), PIECE_BYTES):
            self._take(data[at : at + PIECE_BYTES])

    def _take(self, data: bytes) -> None:
        protocol, queue = self.protocol, self.recv_messages.frames
        before = len(queue)
        super().data_received(data)
        if protocol.state is State.OPEN:
            if protocol.current_size is not None or protocol.reader.buffer or self._sent:
                self._judge(len(queue) - before)
            else:  # almost always: whole messages, and nothing was asked
                self._began_s, self._fragments = None, 0
        elif protocol.state is State.CLOSING:
            self._leave()

    def send_data(self) -> None:
        """Write what is to be written, and count it."""
        self._sent += len(self.protocol.writes)
        super().send_data()

    def _judge(self, completed: int) -> None:
        now_s, unfinished = self.loop.time(), self.protocol.current_size is not None
        if now_s - self._sent_since_s > 1:
            self._sent, self._sent_since_s = 0, now_s
        self._fragments = self._fragments + completed if unfinished else 0
        if not (unfinished or self.protocol.reader.buffer):
            self._began_s = None
        elif self._began_s is None or (completed and not unfinished):
            self._began_s = now_s
        elif now_s - self._began_s > MESSAGE_WITHIN_S:
            self._give_up("slow", f"a message is not complete within {MESSAGE_WITHIN_S:.0f} s")
        if self._fragments > MAX_FRAGMENTS:
            self._give_up("protocol", f"a message of more than {MAX_FRAGMENTS} fragments")
        elif self._sent > MAX_SENT_PER_S:
            self._give_up("protocol", f"more than {MAX_SENT_PER_S} pings within a second")

    def _give_up(self, cause: str, words: str) -> None:
        self.set_connection_exc(PeerError(cause, words))
        self.protocol.fail(CloseCode.POLICY_VIOLATION, words)
        self.send_data()
        self._leave()

    def _leave(self) -> None:
        """Leave in a moment: it is the server that ends the connection, if it does as it should."""
        if not self._leaving:
            self._leaving = True
            self.loop.call_later(CLOSE_TIMEOUT_S, self.transport.abort)
