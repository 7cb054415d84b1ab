"""Kalshi's signed requests: who may connect. Pages "API Keys" and "WebSocket Connection" (docs.kalshi.com)."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Container, Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256

STALE_MS = 10_000  # older stamps are refused; those of the future are not. Seen, not documented

PublicKey = RSAPublicKey | Ed25519PublicKey


def refusal(
    headers: Mapping[str, str],
    public_keys: Mapping[str, PublicKey],
    method: str,
    path: str,
    *,
    expired: Container[str],
    now_ms: int,
) -> dict[str, Any] | None:
    """Return why a request is answered with 401, as that answer's body; None if it is signed as it must be."""
    stamp = headers.get("KALSHI-ACCESS-TIMESTAMP", "")
    key_id = headers.get("KALSHI-ACCESS-KEY", "")
    key = public_keys.get(key_id)
    if not re.fullmatch("[0-9]{1,16}", stamp):
        return _error("authentication_error", "INVALID_TIMESTAMP")
    if int(stamp) < now_ms - STALE_MS:
        return _error("header_timestamp_expired", "header timestamp expired")
    if key is None:
        return _error("authentication_error", "NOT_FOUND")
    try:
        signature = b64decode(headers.get("KALSHI-ACCESS-SIGNATURE", ""), validate=True)
        _verify(key, signature, f"{stamp}{method}{path}".encode())
    except (binascii.Error, ValueError, InvalidSignature):
        return _error("authentication_error", "INCORRECT_API_KEY_SIGNATURE")
    return _error("authentication_error", "API_KEY_EXPIRED") if key_id in expired else None


def _verify(key: PublicKey, signature: bytes, text: bytes) -> None:
    if isinstance(key, Ed25519PublicKey):
        key.verify(signature, text)
    else:
        key.verify(signature, text, PSS(mgf=MGF1(SHA256()), salt_length=PSS.DIGEST_LENGTH), SHA256())


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}
