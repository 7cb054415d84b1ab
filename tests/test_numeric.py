"""Decimal text to PostgreSQL's binary numeric and back, without a server."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recio_ingest.numeric import MAX_DIGITS, decode, encode, pack

DIGITS = st.text("0123456789", min_size=1, max_size=20)
PLAIN = st.builds(
    lambda sign, whole, fraction: sign + whole + (f".{fraction}" if fraction else ""),
    st.sampled_from(["", "-"]),
    DIGITS | st.just("0") | DIGITS.map(lambda digits: "0000" + digits[:16]),
    st.just("") | DIGITS | DIGITS.map(lambda digits: digits[:10] + "0000000000"),
)

WRONG = [
    "",
    "-",
    "--1",
    "+1",
    " 1",
    "1 ",
    "1\n",
    "1 000",
    "1_000",
    "1,5",
    ".5",
    "1.",
    ".",
    "1.2.3",
    "-.5",
    "1.-5",
    "1-",
]
SPECIAL = ["NaN", "nan", "sNaN", "Infinity", "-Infinity", "inf", "1e5", "1E-5", "1e", "0x10", "1\x00", "\x001", "one"]
OTHER_SCRIPTS = ["１２", "١٢", "1.٥", "²", "½", "1．5"]  # noqa: RUF001  # digits, but not ASCII's

# The layout is PostgreSQL's numeric_send: count, weight, sign, scale, then base-10000 digits, 16 bits each.
LITERAL = {
    "0": "0000 0000 0000 0000",
    "0.00": "0000 0000 0000 0002",
    "-0.00": "0000 0000 0000 0002",
    "1": "0001 0000 0000 0000 0001",
    "-12.3400": "0002 0000 4000 0004 000c 0d48",
    "10000": "0001 0001 0000 0000 0001",
    "60123.45": "0003 0001 0000 0002 0006 007b 1194",
    "0.00001303": "0001 fffe 0000 0008 0517",
}


@given(PLAIN)
@example("-0.00")
@example("0" * 20 + "." + "0" * 20)
@example("9" * 20 + "." + "9" * 20)
@example("10000000000000000000")
@example("0.00000000000000000001")
def test_what_goes_in_comes_out(text: str) -> None:
    """Any plain decimal comes back with its value and as many decimals as it was written with."""
    back = decode(encode(text))
    assert back == Decimal(text)
    assert back.as_tuple().exponent == Decimal(text).as_tuple().exponent


@pytest.mark.parametrize(("text", "layout"), LITERAL.items())
def test_bytes_are_the_servers(text: str, layout: str) -> None:
    """The bytes are those that the server's documented layout prescribes, written out by hand."""
    assert encode(text) == bytes.fromhex(layout)


@given(st.integers(-(10**30), 10**30) | st.integers(-(10**8), 10**8), st.integers(0, 20))
@example(-100_000_000, 8)
@example(99_990_000, 4)
def test_integers_are_packed_as_their_text(unscaled: int, scale: int) -> None:
    """A whole number of a decimal's units gives the bytes of its text; these stay as they are when encoded again."""
    packed = pack(unscaled, scale)
    assert packed == encode(format(Decimal(f"{unscaled}E-{scale}"), "f"))
    assert encode(packed) is packed


@pytest.mark.parametrize("text", WRONG + SPECIAL + OTHER_SCRIPTS)
def test_anything_else_is_refused(text: str) -> None:
    """Exponents, NaN, infinities, blanks, underscores, other scripts' digits and half-written numbers are refused."""
    with pytest.raises(ValueError, match="not a plain decimal"):
        encode(text)


@given(st.text(max_size=12))
def test_what_is_taken_is_plain(text: str) -> None:
    """Whatever text is taken consists of ASCII digits, one point at most and one minus at most."""
    try:
        encode(text)
    except ValueError:
        return
    assert set(text) <= set("-.0123456789")
    assert Decimal(text).is_finite()


def test_length_is_bounded() -> None:
    """A thousand digits are taken, and one more is refused before anything is computed with them."""
    assert decode(encode("7" * MAX_DIGITS)) == int("7" * 1000)
    with pytest.raises(ValueError, match="not a plain decimal"):
        encode("7" * 1001)


@pytest.mark.parametrize("sign", [0xC000, 0xD000, 0xF000], ids=["NaN", "Infinity", "-Infinity"])
def test_what_is_not_finite_is_not_read(sign: int) -> None:
    """NaN and the infinities, should a table ever hold them, are an error and not a number."""
    with pytest.raises(ValueError, match="not finite"):
        decode(bytes(4) + sign.to_bytes(2, "big") + bytes(2))
