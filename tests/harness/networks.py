"""Networks of a test's own: two namespaces with a wire between them, whose packets can be made to vanish.

They need root, `ip` and `nft`; without them a test says so, and in CI it fails.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import pytest
from required_tool import required_tool

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
# Of the range for tests of network devices (RFC 2544), which no network uses.
ADDRESSES = ("198.18.77.1", "198.18.77.2")
DROP = "type filter hook {way} priority 0; policy drop;"
WAYS = ("input", "output")


def run(*command: str) -> None:
    """Run a short command that must succeed."""
    subprocess.run(command, check=True, timeout=10, capture_output=True, text=True)


def require_root() -> None:
    """Without root fail in CI, and skip elsewhere."""
    if os.geteuid() == 0:
        return
    reason = "not root, so no network namespace was made and lost packets were not checked"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@contextmanager
def two_networks(label: str) -> Iterator[tuple[str, str]]:
    """Two namespaces, each with its loopback and an end of the wire; `ADDRESSES` are theirs."""
    ours, theirs = names = (f"recio{os.getpid()}{label}a", f"recio{os.getpid()}{label}b")
    ip = required_tool("ip", "iproute2")
    required_tool("nft", "nftables")
    require_root()
    made: list[str] = []
    try:
        for name in names:
            run(ip, "netns", "add", name)
            made.append(name)
        run(ip, "-n", ours, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", theirs)
        for name, address in zip(names, ADDRESSES, strict=True):
            run(ip, "-n", name, "link", "set", "lo", "up")
            run(ip, "-n", name, "address", "add", f"{address}/30", "dev", "wire")
            run(ip, "-n", name, "link", "set", "wire", "up")
        yield names
    finally:
        for name in made:
            run(ip, "netns", "del", name)


def enter(name: str) -> None:
    """Move this thread into a namespace; its sockets, its later threads and its processes are there too."""
    with open(f"/run/netns/{name}") as namespace:  # noqa: PTH123  # a descriptor is wanted
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


async def inside(name: str, work: Callable[[], T]) -> T:
    """Do something in a namespace, in a thread that nobody uses afterwards: it stays there."""

    def entered() -> T:
        enter(name)
        return work()

    with ThreadPoolExecutor(1) as threads:
        return await asyncio.get_running_loop().run_in_executor(threads, entered)


async def living_in(name: str, life: Callable[[], Coroutine[None, None, T]]) -> T:
    """Run a loop of its own in a namespace, with all that it starts."""
    return await inside(name, lambda: asyncio.run(life()))


def swallow(name: str, *ways: str) -> None:
    """Let every packet of a namespace vanish, or only those that come (`input`) or go (`output`)."""
    chains = (f"add chain inet cut {way} {{ {DROP.format(way=way)} }};" for way in ways or WAYS)
    _nft(name, "add table inet cut; " + " ".join(chains))


def heal(name: str) -> None:
    """Let packets through again."""
    _nft(name, "delete table inet cut")


def _nft(name: str, rules: str) -> None:
    run(required_tool("ip", "iproute2"), "netns", "exec", name, required_tool("nft", "nftables"), rules)


def pull(name: str) -> None:
    """Pull the wire out of a namespace."""
    run(required_tool("ip", "iproute2"), "-n", name, "link", "set", "wire", "down")
