"""Kalshi as configured: signatures that the venue can verify, keys that are none, and advice for each refusal."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import orjson
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import dsa, ec, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.asymmetric.rsa import (
    RSAPrivateKey,
    RSAPrivateNumbers,
    RSAPublicNumbers,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from recio_ingest.demo.kalshi_auth import PublicKey, refusal
from recio_ingest.errors import ConfigError
from recio_ingest.feeds.kalshi_feed import advise, feed, headers
from recio_ingest.feeds.kalshi_session import KalshiSession
from recio_ingest.settings import Kalshi

PATH = "/trade-api/ws/v2"
NOW_MS = 1_790_000_000_123
RSA = generate_private_key(public_exponent=65537, key_size=2048)
ED = Ed25519PrivateKey.generate()


def pem(key: Any, form: PrivateFormat = PrivateFormat.PKCS8, password: bytes | None = None) -> bytes:
    """A key's file."""
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return bytes(key.private_bytes(Encoding.PEM, form, encryption))


def judged(key: PublicKey, signed: Any, now_ms: int = NOW_MS) -> Any:
    """What the venue says to a handshake, as its page tells it to judge."""
    return refusal(signed, {"id": key}, "GET", PATH, expired=(), now_ms=now_ms)


@pytest.mark.parametrize(
    ("key", "form"),
    [(RSA, PrivateFormat.PKCS8), (RSA, PrivateFormat.TraditionalOpenSSL), (ED, PrivateFormat.PKCS8)],
    ids=["RSA", "RSA PKCS1", "Ed25519"],
)
def test_the_venue_lets_it_in(key: RSAPrivateKey | Ed25519PrivateKey, form: PrivateFormat) -> None:
    """A handshake is signed over its time, method and path as the venue verifies it, and over nothing else."""
    signed = headers("id", pem(key, form), PATH, NOW_MS)
    assert judged(key.public_key(), signed) is None
    assert signed.keys() == {"KALSHI-ACCESS-KEY", "KALSHI-ACCESS-TIMESTAMP", "KALSHI-ACCESS-SIGNATURE"}
    assert signed["KALSHI-ACCESS-TIMESTAMP"] == str(NOW_MS)
    assert judged(key.public_key(), {**signed, "KALSHI-ACCESS-TIMESTAMP": str(NOW_MS + 1)}) is not None


def test_the_salt_is_as_long_as_the_digest() -> None:
    """An RSA signature verifies with a salt of 32 bytes, and with no other."""
    signed = headers("id", pem(RSA), PATH, NOW_MS)
    signature, text = b64decode(signed["KALSHI-ACCESS-SIGNATURE"], validate=True), f"{NOW_MS}GET{PATH}".encode()
    RSA.public_key().verify(signature, text, PSS(mgf=MGF1(SHA256()), salt_length=32), SHA256())
    for salt_bytes in (0, 20, 222):  # the last is the longest for this key
        with pytest.raises(InvalidSignature):
            RSA.public_key().verify(signature, text, PSS(mgf=MGF1(SHA256()), salt_length=salt_bytes), SHA256())


@pytest.mark.parametrize("key", [RSA, ED], ids=["RSA", "Ed25519"])
def test_each_signature_is_new(key: RSAPrivateKey | Ed25519PrivateKey) -> None:
    """Two handshakes a millisecond apart have two signatures, of which each is good for its own time only."""
    first, second = (headers("id", pem(key), PATH, NOW_MS + n) for n in range(2))
    assert first["KALSHI-ACCESS-SIGNATURE"] != second["KALSHI-ACCESS-SIGNATURE"]
    mixed = {**first, "KALSHI-ACCESS-SIGNATURE": second["KALSHI-ACCESS-SIGNATURE"]}
    assert judged(key.public_key(), mixed) is not None


SECRET = pem(RSA).splitlines()[5]
OTHERS = {
    "EC": pem(ec.generate_private_key(ec.SECP256R1())),
    "DSA": pem(dsa.generate_private_key(2048)),
    "X25519": pem(x25519.X25519PrivateKey.generate()),
    "encrypted": pem(RSA, password=b"open sesame"),
    "encrypted PKCS1": pem(RSA, PrivateFormat.TraditionalOpenSSL, b"open sesame"),
    "public": RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    "cut off": pem(RSA)[:800],
    "a letter wrong": pem(RSA).replace(SECRET, b"A" * len(SECRET)),
    "OpenSSH": pem(ED, PrivateFormat.OpenSSH),
    "no PEM": b"open sesame",
    "binary": bytes(range(256)),
    "empty": b"",
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_keys_are_refused(name: str) -> None:
    """A key that cannot sign is a mistake of the configuration; no part of it stands in what is said about it."""
    with pytest.raises(ConfigError) as caught:
        headers("id", OTHERS[name], PATH, NOW_MS)
    said = f"{caught.value} {caught.value.hint} {caught.value.__cause__}"
    assert "key_file" in said
    assert "PEM file" in caught.value.hint
    for line in OTHERS[name].splitlines():
        assert len(line) < 20 or line.decode("latin-1") not in said
    assert "sesame" not in said


def test_an_rsa_key_too_short_to_sign_is_refused() -> None:
    """A key that loads and is too short for such a signature is a mistake of the configuration too."""
    p, q, e = 2**256 - 189, 2**255 - 19, 65_537  # two primes that everybody knows
    d = pow(e, -1, (p - 1) * (q - 1))
    numbers = RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), RSAPublicNumbers(e, p * q))
    with pytest.raises(ConfigError, match="too short"):
        headers("id", pem(numbers.private_key()), PATH, NOW_MS)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"error": {"code": "header_timestamp_expired", "message": "header timestamp expired"}}, "clock"),
        ({"error": {"code": "authentication_error", "message": "INVALID_TIMESTAMP"}}, "clock"),
        ({"error": {"code": "authentication_error", "message": "NOT_FOUND"}}, "does not know"),
        ({"error": {"code": "authentication_error", "message": "INCORRECT_API_KEY_SIGNATURE"}}, "does not belong"),
        ({"error": {"code": "authentication_error", "message": "API_KEY_EXPIRED"}}, "has expired"),
        ({"error": {"code": "authentication_error", "message": "something new"}}, "read again at every attempt"),
        ({"error": "unauthorized"}, "read again at every attempt"),
        ([], "read again at every attempt"),
        (5, "read again at every attempt"),
    ],
)
def test_advice_for_each_refusal(body: object, word: str) -> None:
    """What the venue says about a refused key leads to what to do about it; what it does not say, to what may be."""
    assert word in advise(orjson.dumps(body))


@pytest.mark.parametrize("body", [b"", b"<html>expired signature</html>", b"\xff\xfe", b"{", b"[" * 100_000])
def test_a_body_of_another_shape_leads_to_the_general_advice(body: bytes) -> None:
    """A proxy's page is not searched for words."""
    assert advise(body) == advise(b"{}")


def test_without_a_key() -> None:
    """Without a key there is no socket and no signature; REST is all, and what that leaves out is said."""
    made = feed(Kalshi(series=("KXBTCD", "KXBTC")))
    assert (made.url, made.sign) == ("", None)
    assert made.rest_url == Kalshi().rest_url
    assert made.enquiry is not None
    assert made.describe == {"series": ["KXBTCD", "KXBTC"], "by": "rest"}
    assert "trades" in made.warning
    assert "feeds.kalshi.key_id" in made.warning


def test_half_a_key() -> None:
    """An id without a file is a mistake; a file without an id is no key, which is said."""
    with pytest.raises(ConfigError, match="key_file is not") as caught:
        feed(Kalshi(key_id="id"))
    assert "PEM" in caught.value.hint
    assert feed(Kalshi(key_file="/nowhere")).url == ""


def test_with_a_key() -> None:
    """With a key the socket is signed for by the path of its address, and its conversation asks for the markets."""
    made = feed(Kalshi(key_id="id", key_file="/nowhere", url="wss://host.example:8443/trade-api/ws/v2"))
    assert (made.url, made.warning) == ("wss://host.example:8443/trade-api/ws/v2", "")
    assert made.describe["by"] == "socket"
    assert made.sign is not None
    assert judged(ED.public_key(), made.sign(pem(ED), NOW_MS)) is None
    assert isinstance(made.converse(), KalshiSession)
    assert made.converse() is not made.converse()
