"""A DNS server that never answers, until it is told to: then every name is this machine."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

# Three, as a machine may have: glibc asks each twice, for some seconds, so that one lookup takes half a minute.
SERVERS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
PORT = 53
HEAD_BYTES = 12
TYPE_A = b"\x00\x01"
# A name as a pointer to the question's, type A, class IN, no time to live, four bytes: 127.0.0.1.
LOOPBACK = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04\x7f\x00\x00\x01"


class Resolver:
    """Counts what it is asked; answers only while `answering`."""

    def __init__(self) -> None:
        self.asked = 0
        self.answering = False

    def answer(self, query: bytes) -> bytes:
        """Answer a query of one question: 127.0.0.1 for an address of IPv4, nothing for anything else (RFC 1035, 4)."""
        end = query.index(b"\x00", HEAD_BYTES) + 5
        question = query[HEAD_BYTES:end]
        count = int(question[-4:-2] == TYPE_A)
        return query[:2] + b"\x81\x80\x00\x01" + bytes((0, count)) + b"\x00" * 4 + question + LOOPBACK * count


class _Port(asyncio.DatagramProtocol):
    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._resolver.asked += 1
        if self._resolver.answering:
            self._transport.sendto(self._resolver.answer(data), addr)


@asynccontextmanager
async def resolving() -> AsyncIterator[Resolver]:
    """Listen on all addresses of `SERVERS`, which a network namespace of the test's own must be free for."""
    resolver, loop = Resolver(), asyncio.get_running_loop()
    ports = [(await loop.create_datagram_endpoint(lambda: _Port(resolver), (address, PORT)))[0] for address in SERVERS]
    try:
        yield resolver
    finally:
        for port in ports:
            port.close()


def with_resolvers(folder: Path) -> list[str]:
    """Return the beginning of a command that runs the rest with `SERVERS` in a resolv.conf of its own."""
    file = folder / "resolv.conf"
    file.write_text("".join(f"nameserver {address}\n" for address in SERVERS))
    script = f'mount --bind "{file}" /etc/resolv.conf && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh"]
