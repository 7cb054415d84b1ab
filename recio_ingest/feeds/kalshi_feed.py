"""Kalshi as a live stream: where to connect, how to sign, what to ask.

Source: the venue's pages "API Keys" and "WebSocket Connection". Every handshake is signed: RSA-PSS (SHA-256, MGF1 with
SHA-256, a salt as long as the digest) or Ed25519, over time (ms), method and path. Markets are public by REST.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from urllib.parse import urlsplit

import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from recio_ingest.errors import ConfigError
from recio_ingest.feeds import Feed
from recio_ingest.feeds.kalshi_exchange import Exchange
from recio_ingest.feeds.kalshi_fields import VENUE
from recio_ingest.feeds.kalshi_markets import Markets
from recio_ingest.feeds.kalshi_repair import KalshiRepair
from recio_ingest.feeds.kalshi_session import KalshiSession
from recio_ingest.settings import Kalshi

# The index comes every second, and the lifecycle of all markets of the venue more often; a key without the right to the
# first, in a maintenance without the second, is what this leaves time for.
IDLE_TIMEOUT_S = 60.0
_WORDS_AT_MOST = 300

_NO_KEY = (
    "no key: Kalshi lets nobody into its stream without one. Descriptions and quotes are polled by REST every few "
    "seconds; trades, the steps between two polls and the BRTI index are not recorded. "
    "Set feeds.kalshi.key_id and feeds.kalshi.key_file"
)
_KEY_HINT = "key_file is the PEM file that Kalshi gave out with the key, RSA or Ed25519, without a password"
_ADVICE = (
    ("timestamp", "set this machine's clock (timedatectl set-ntp true)"),
    ("expire", "the key has expired: make a new one at Kalshi, set feeds.kalshi.key_id, put it into key_file"),
    ("not_found", "Kalshi does not know feeds.kalshi.key_id: was the key deleted, or is it of the demo environment?"),
    ("signature", "key_file does not belong to feeds.kalshi.key_id: they must be of the same key"),
)
_ADVICE_FOR_ALL = "is the key deleted, expired, or of the other environment? key_file is read again at every attempt"


def feed(settings: Kalshi) -> Feed:
    """Return the live stream of the configured series; without a key it is what REST tells.

    Raises ConfigError for half a key.
    """
    if settings.key_id and not settings.key_file:
        raise ConfigError("feeds.kalshi.key_id is set and feeds.kalshi.key_file is not", hint=_KEY_HINT)
    markets = Markets(settings.series)
    path = urlsplit(settings.url).path
    return Feed(
        name=VENUE,
        url=settings.url if settings.key_id else "",
        idle_timeout_s=IDLE_TIMEOUT_S,
        describe={"series": list(settings.series), "by": "socket" if settings.key_id else "rest"},
        converse=lambda: KalshiSession(markets),
        rest_url=settings.rest_url,
        enquiry=Exchange(markets),
        repair=KalshiRepair(settings.series),
        proxy=settings.proxy,
        key_file=settings.key_file,
        sign=(lambda pem, now_ms: headers(settings.key_id, pem, path, now_ms)) if settings.key_id else None,
        advise=advise,
        warning="" if settings.key_id else _NO_KEY,
    )


def headers(key_id: str, pem: bytes, path: str, now_ms: int) -> Mapping[str, str]:
    """Return what signs a handshake made now. Raises ConfigError for a key that cannot sign."""
    text = f"{now_ms}GET{path}".encode()
    key = _key(pem)
    if isinstance(key, Ed25519PrivateKey):
        signature = key.sign(text)
    else:
        try:
            signature = key.sign(text, PSS(mgf=MGF1(SHA256()), salt_length=PSS.DIGEST_LENGTH), SHA256())
        except ValueError:
            raise ConfigError("the key in feeds.kalshi.key_file is too short to sign with", hint=_KEY_HINT) from None
    return {
        "KALSHI-ACCESS-KEY": key_id,
        "KALSHI-ACCESS-TIMESTAMP": str(now_ms),
        "KALSHI-ACCESS-SIGNATURE": b64encode(signature).decode(),
    }


def advise(body: bytes) -> str:
    """Return what to do about a refused handshake. Kalshi says why in words that it does not document."""
    try:
        orjson.loads(body)
        words = body.decode().lower()
    except ValueError:  # a proxy's page, which may hold any of the words
        words = ""
    return next((advice for word, advice in _ADVICE if word in words), _ADVICE_FOR_ALL)


def _key(pem: bytes) -> RSAPrivateKey | Ed25519PrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # not the library's words: they may quote the key
        raise ConfigError("feeds.kalshi.key_file holds no private key that can be read", hint=_KEY_HINT) from None
    if not isinstance(key, RSAPrivateKey | Ed25519PrivateKey):
        raise ConfigError("the key in feeds.kalshi.key_file is neither RSA nor Ed25519", hint=_KEY_HINT)
    return key
