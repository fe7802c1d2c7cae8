"""Percent-encoding, and escapes of HTML: the same as those of the standard library."""

from __future__ import annotations

import html
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawservers.http.escapes import escape, percent_decode, percent_encode


@pytest.mark.parametrize("safe", ["", "/", " =:/'"])
@given(octets=st.binary())
def test_encoding(safe: str, octets: bytes) -> None:
    assert percent_encode(octets, safe) == urllib.parse.quote(octets, safe)
    assert percent_decode(percent_encode(octets, safe)) == octets


@given(st.lists(st.sampled_from(["%", "%25", "%2f", "%2F", "%fF", "%00", "a", "/", "é", "+"])).map("".join))
def test_decoding(text: str) -> None:
    text = text.replace("%%", "%25%").removesuffix("%") if not text.endswith("%25") else text
    if all(len(part) >= 2 and {*part[:2].lower()} <= {*"0123456789abcdef"} for part in text.split("%")[1:]):
        assert percent_decode(text) == urllib.parse.unquote_to_bytes(text)


@given(st.text())
def test_html(text: str) -> None:
    assert escape(text) == html.escape(text)
    assert html.unescape(escape(text)) == html.unescape(html.escape(text))
