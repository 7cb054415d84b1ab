"""What can be wrong between the daemon and a venue's door: certificates, names, proxies."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
import warnings
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from harness.streaming import recorded, recording, venue, welcome
from harness.waiting import until
from structlog.testing import capture_logs

from recio_ingest import opening
from recio_ingest.feeds import Feed, Request, coinbase
from recio_ingest.rest import RestError, asking
from recio_ingest.settings import Coinbase

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import AsyncIterator
    from pathlib import Path

    from websockets.asyncio.server import ServerConnection

    from recio_ingest.records import Frame
    from recio_ingest.stream import Stream

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ws_proxy", "wss_proxy", "socks_proxy")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "CLOSE_TIMEOUT_S", 0.05)
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


class Authority:
    """A certificate authority of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Recio test authority")])
        own = self._certificate(self.name, self.key, days=1, authority=True)
        self.file = folder / "authority.pem"
        self.file.write_bytes(own.public_bytes(Encoding.PEM))

    def _certificate(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, *, days: int, authority: bool = False, host: str = ""
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        building = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=10))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if host:
            names: list[x509.GeneralName] = [x509.IPAddress(ip_address(host))]
            building = building.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return building.sign(self.key, hashes.SHA256())

    def server(self, *, host: str = "127.0.0.1", days: int = 1) -> ssl.SSLContext:
        """Make the context of a server with a certificate of this authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        certificate = self._certificate(name, key, days=days, host=host)
        file = self.folder / "server.pem"
        file.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            + certificate.public_bytes(Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


def _old(context: ssl.SSLContext) -> ssl.SSLContext:
    """Let a server speak TLS 1.0 and nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


@pytest.mark.parametrize("fault", ["none", "expired", "wrong host", "self-signed"])
async def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """W25: only a certificate that is valid, of a known authority and for this host is taken; nothing is downgraded."""
    known = Authority(tmp_path)
    (tmp_path / "other").mkdir()
    signer = Authority(tmp_path / "other") if fault == "self-signed" else known
    context = signer.server(
        host="127.0.0.2" if fault == "wrong host" else "127.0.0.1", days=-1 if fault == "expired" else 1
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(known.file))
    served: list[str] = []

    async def handler(connection: ServerConnection) -> None:
        served.append("in")
        await welcome(connection)
        await connection.wait_closed()

    with capture_logs() as lines:
        async with venue(handler, ssl=context) as url:
            secure = url.replace("ws://", "wss://")
            async with recording(tmp_path, secure) as (reader, spool):
                if fault == "none":
                    await until(lambda: asyncio.sleep(0, reader.status.connected), within_s=5, what="the connection")
                    return
                await until(lambda: asyncio.sleep(0, lines), within_s=5, what="the line")
                assert spool.durable_count == 0
    assert served == []
    assert [line["cause"] for line in lines] == ["tls"]


async def test_an_old_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W25: a venue that speaks TLS 1.0 and nothing else is refused, and never asked in plain text."""
    known = Authority(tmp_path)
    context, heard = _old(known.server()), []
    monkeypatch.setenv("SSL_CERT_FILE", str(known.file))

    def serve_one(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, suppress(ssl.SSLError):
            heard.append(connection.recv(5, socket.MSG_PEEK)[:3])
            context.wrap_socket(connection, server_side=True)

    with socket.create_server(("127.0.0.1", 0)) as listener, capture_logs() as lines:
        serving = asyncio.create_task(asyncio.to_thread(serve_one, listener))
        async with recording(tmp_path, f"wss://127.0.0.1:{listener.getsockname()[1]}"):
            await until(lambda: asyncio.sleep(0, lines), within_s=5, what="the line")
        await serving
    assert [line["cause"] for line in lines] == ["tls"]
    assert heard == [b"\x16\x03\x01"]  # the record of a ClientHello


@pytest.mark.parametrize(("fault", "cause"), [("fails", "dns"), ("hangs", "timeout")])
async def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, cause: str) -> None:
    """W26: a name that is unknown, or not answered, is that venue's trouble; another one is recorded meanwhile."""
    monkeypatch.setattr(opening, "OPEN_TIMEOUT_S", 0.3)
    loop = asyncio.get_running_loop()
    resolve = loop.getaddrinfo

    async def trouble(host: str, port: int, **options: Any) -> Any:
        if host != "venue.invalid":
            return await resolve(host, port, **options)
        if fault == "hangs":
            await asyncio.to_thread(time.sleep, 1.0)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(loop, "getaddrinfo", trouble)

    async def handler(connection: ServerConnection) -> None:
        await welcome(connection)
        while True:
            await connection.send('{"type":"odd"}')
            await asyncio.sleep(0.01)

    with capture_logs() as lines:
        async with venue(handler) as url, recording(tmp_path / "bad", "ws://venue.invalid") as (bad, _):
            frames = await _recorded_meanwhile(tmp_path / "good", url, bad, cause)
    between_s = [(after.recv_ns - before.recv_ns) / 1e9 for before, after in pairwise(frames)]
    assert max(between_s) < 0.5
    assert cause in [line["cause"] for line in lines if line["event"] == "feed.disconnected"]


async def _recorded_meanwhile(folder: Path, url: str, bad: Stream, cause: str) -> list[Frame]:
    async with recording(folder, url) as (good, spool):
        await recorded(spool, 30)
        await until(lambda: asyncio.sleep(0, bad.status.cause == cause), within_s=5, what=cause)
        assert good.status.connected
        return await recorded(spool, 60)


class Proxy:
    """A proxy that takes CONNECT, and answers anything else itself."""

    def __init__(self) -> None:
        self.port = 0
        self.asked: list[str] = []

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Serve one client."""
        with suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.asked.append(head.split("\r\n")[0])
            method, target = head.split()[:2]
            if method == "CONNECT":
                host, _, port = target.rpartition(":")
                there, back = await asyncio.open_connection(host, int(port))
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, back))
                    group.create_task(self._pump(there, writer))
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nproxy")
        writer.close()

    async def _pump(self, source: StreamReader, sink: StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                sink.write(data)
                await sink.drain()
        sink.close()


@asynccontextmanager
async def _proxied(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Proxy]:
    proxy = Proxy()
    async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0) as server:
        proxy.port = server.sockets[0].getsockname()[1]
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        yield proxy


def _feed(url: str, *, proxy: bool) -> Feed:
    return coinbase.feed(Coinbase(url=url, proxy=proxy))


@pytest.mark.parametrize("use", [False, True], ids=["by default", "switched on"])
async def test_a_proxy_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, use: bool) -> None:
    """W29: a socket goes through the proxy that a variable names only where the configuration says so."""

    async def handler(connection: ServerConnection) -> None:
        await welcome(connection)
        await connection.wait_closed()

    async with _proxied(monkeypatch) as proxy, venue(handler) as url:
        assert Coinbase(url=url).proxy is False
        async with recording(tmp_path, url, _feed(url, proxy=use)) as (reader, _):
            await until(lambda: asyncio.sleep(0, reader.status.connected), within_s=5, what="the connection")
        assert proxy.asked == ([f"CONNECT {url.removeprefix('ws://')} HTTP/1.1"] if use else [])


@pytest.mark.parametrize("use", [False, True], ids=["by default", "switched on"])
async def test_a_proxy_for_rest(monkeypatch: pytest.MonkeyPatch, *, use: bool) -> None:
    """W29: a question by REST goes through the proxy that a variable names only where the configuration says so."""

    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="venue")

    application = web.Application()
    application.router.add_get("/x", hello)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with _proxied(monkeypatch) as proxy, asking("sim", url, proxy=use) as client:
        assert await client.get(Request("/x", {})) == (b"proxy" if use else b"venue")
        assert bool(proxy.asked) is use
    await runner.cleanup()


async def test_a_proxy_that_is_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W29: where the proxy cannot be used, the venue is not asked without it, and a password in it is not told."""

    async def handler(connection: ServerConnection) -> None:
        raise AssertionError(connection)

    async with venue(handler) as url:
        for wrong in ("http://me:secret@127.0.0.1:9", "ftp://me:secret@127.0.0.1:9"):
            monkeypatch.setenv("HTTP_PROXY", wrong)
            monkeypatch.setenv("HTTPS_PROXY", wrong)
            with capture_logs() as lines:
                async with recording(tmp_path / wrong[:3], url, _feed(url, proxy=True)):
                    await until(lambda lines=lines: asyncio.sleep(0, lines), within_s=5, what="the line")  # type: ignore[misc]
            assert {line["event"] for line in lines} == {"feed.disconnected"}
            assert "secret" not in repr(lines)
    with pytest.raises(RestError):
        async with asking("sim", url.replace("ws", "http"), proxy=True) as client:
            await client.get(Request("/x", {}))
