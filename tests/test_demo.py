"""The simulated venues together, as `--demo` runs them."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from structlog.testing import capture_logs
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from recio_ingest import demo
from recio_ingest.errors import ConfigError
from recio_ingest.settings import Kalshi, Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings as somebody has them who records live venues into a database of their own."""
    live: dict[str, Any] = {
        "state_dir": tmp_path / "state",
        "database": {"dsn": "postgresql://db.example/live"},
        "feeds": {
            "coinbase": {"products": ("ETH-USD",), "enabled": False},
            "kalshi": {"series": ("KXBTC", "KXBTCD"), "enabled": False, "key_id": "mine", "key_file": "/mine.pem"},
        },
    }
    return Settings.model_validate(live)


def _headers(section: Kalshi) -> dict[str, str]:
    """Sign a handshake with what the settings name."""
    key = load_pem_private_key(Path(section.key_file).read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    stamp = str(time.time_ns() // 1_000_000)
    return {
        "KALSHI-ACCESS-KEY": section.key_id,
        "KALSHI-ACCESS-TIMESTAMP": stamp,
        "KALSHI-ACCESS-SIGNATURE": base64.b64encode(key.sign(f"{stamp}GET/trade-api/ws/v2".encode())).decode(),
    }


async def test_settings_lead_to_both_venues(settings: Settings) -> None:
    """The demo's settings reach both venues, websocket and REST, and nothing that was configured as live."""
    async with demo.venues(settings) as simulated, aiohttp.ClientSession() as http:
        coinbase, kalshi = simulated.feeds.coinbase, simulated.feeds.kalshi
        assert coinbase.enabled
        assert kalshi.enabled
        assert simulated.database.dsn == ""
        assert simulated.state_dir == settings.state_dir / "demo"
        async with connect(coinbase.url) as ws:
            await ws.send('{"type":"subscribe","product_ids":["ETH-USD"],"channels":["heartbeat"]}')
            assert json.loads(await ws.recv())["type"] == "subscriptions"
        async with http.get(f"{coinbase.rest_url}/products/ETH-USD/trades?limit=1") as response:
            assert len(await response.json()) == 1
        for series in ("KXBTC", "KXBTCD"):
            async with http.get(f"{kalshi.rest_url}/markets?series_ticker={series}") as response:
                assert (await response.json())["markets"]
        assert Settings.model_validate(simulated.model_dump()) == simulated, "as good as read from a file"


async def test_key_opens_the_websocket(settings: Settings) -> None:
    """The key that the settings name is let in, until the next start makes another."""
    async with demo.venues(settings) as simulated:
        kalshi = simulated.feeds.kalshi
        old = _headers(kalshi)
        async with connect(kalshi.url, additional_headers=old) as ws:
            await ws.send(
                '{"id":1,"cmd":"subscribe","params":{"channels":["cfbenchmarks_value"],"index_ids":["BRTI"]}}'
            )
            assert json.loads(await ws.recv())["type"] == "subscribed"
            prints = json.loads(await ws.recv())["msg"]
            assert abs(prints["received_at"] / 1000 - time.time()) < 3, "the market's time is the real one"
    async with demo.venues(settings) as simulated:
        with pytest.raises(InvalidStatus):
            await connect(simulated.feeds.kalshi.url, additional_headers=old)
        async with connect(simulated.feeds.kalshi.url, additional_headers=_headers(simulated.feeds.kalshi)):
            pass


async def test_key_is_its_owners(settings: Settings) -> None:
    """The key file and the folder made for it have no right for others, whatever lay there before."""
    async with demo.venues(settings) as simulated:
        file = Path(simulated.feeds.kalshi.key_file)
        assert file.parent == settings.state_dir / "demo"
        assert (file.parent.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)
    file.chmod(0o644)
    async with demo.venues(settings):
        assert file.stat().st_mode & 0o777 == 0o600


async def test_one_line_tells_both_urls(settings: Settings) -> None:
    """The start is one line in the log, with where both venues listen and nothing of the key."""
    with capture_logs() as lines:
        async with demo.venues(settings) as simulated:
            feeds = simulated.feeds
    (line,) = lines
    assert (line["event"], line["coinbase"], line["kalshi"]) == ("demo.started", feeds.coinbase.url, feeds.kalshi.url)
    assert line.keys() == {"event", "log_level", "coinbase", "kalshi", "hint"}


async def test_nothing_to_simulate_is_a_mistake(settings: Settings) -> None:
    """Without a product or without a series the configuration is refused, before anything is made."""
    sections = settings.feeds
    for name in ("coinbase", "kalshi"):
        nothing = {"coinbase": {"products": ()}, "kalshi": {"series": ()}}[name]
        feeds = sections.model_copy(update={name: getattr(sections, name).model_copy(update=nothing)})
        with pytest.raises(ConfigError, match="nothing to simulate"):
            async with demo.venues(settings.model_copy(update={"feeds": feeds})):
                pass
    assert not settings.state_dir.exists()


async def test_key_without_a_place_is_a_mistake(settings: Settings) -> None:
    """Where the key cannot be written, the error names its file and says what to do."""
    settings.state_dir.write_text("a file, no folder")
    with pytest.raises(ConfigError, match=r"kalshi\.pem cannot be written") as caught:
        async with demo.venues(settings):
            pass
    assert "state_dir" in caught.value.hint
