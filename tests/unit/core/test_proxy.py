"""The PROXY protocol: headers of both versions, whole and in pieces."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawservers.core.peer import Address
from rawservers.core.phases import Done, PreambleError
from rawservers.core.proxy import V2_LIMIT, ProxyHeader, crc32c
from tests.harness import wire

CASES = wire.load("proxy")
GOOD = [case for case in CASES if "client" in case]


def expected_of(case: dict[str, Any]) -> object:
    if "client" not in case:
        return case.get("error")
    host = wire.unescape(case["client"]).decode("ascii", "surrogateescape")
    address: Address | None = (host, case["port"]) if host else None
    return Done(wire.unescape(case["rest"]), address)


def result_of(packets: list[bytes]) -> object:
    """A Done whose rest is all that came after the header, the error, or None if more is needed."""
    header = ProxyHeader()
    for number, packet in enumerate(packets, 1):
        try:
            done = header.feed(packet)
        except PreambleError as error:
            return str(error)
        if done is not None:
            return Done(done.rest + b"".join(packets[number:]), done.address)
    return None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_header_at_any_cut(case: dict[str, Any]) -> None:
    for packets in wire.cuts(wire.unescape(case["send"])):
        assert result_of(packets) == expected_of(case)


def test_a_thousand_random_cuts() -> None:
    source = random.Random(1)
    for case in source.choices(GOOD, k=1000):
        send = wire.unescape(case["send"])
        ends = sorted(source.sample(range(1, len(send)), source.randrange(1, min(20, len(send)))))
        packets = [send[start:end] for start, end in zip([0, *ends], [*ends, len(send)], strict=True)]
        assert result_of(packets) == expected_of(case)


@pytest.mark.parametrize("case", [case for case in GOOD if case["client"]], ids=lambda case: case["name"])
def test_no_part_of_a_header_is_one(case: dict[str, Any]) -> None:
    header = wire.unescape(case["send"]).removesuffix(wire.unescape(case["rest"]))
    for end in range(1, len(header)):
        assert result_of([header[:end]]) is None


@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=5))
def test_any_bytes_are_a_header_or_refused(packets: list[bytes]) -> None:
    assert result_of(packets) == result_of([b"".join(packets)])


@given(st.data())
def test_a_header_with_a_changed_byte(data: st.DataObject) -> None:
    """Wherever it is: a header, none, or the beginning of one; and no cut makes another of it."""
    send = bytearray(wire.unescape(data.draw(st.sampled_from(GOOD))["send"]))
    send[data.draw(st.integers(0, len(send) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(send) - 1))
    assert result_of([bytes(send[:cut]), bytes(send[cut:])]) == result_of([bytes(send)])


def test_the_longest_header() -> None:
    size = V2_LIMIT - 16
    header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + size.to_bytes(2) + bytes([192, 0, 2, 1, 198, 51, 100, 2, 0, 1, 0, 2])
    tlv = b"\x04" + (size - 15).to_bytes(2) + bytes(size - 15)
    assert result_of([header + tlv + b"rest"]) == Done(b"rest", ("192.0.2.1", 1))


def test_the_checksum_of_the_specification() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the usual check value
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720 §B.4
