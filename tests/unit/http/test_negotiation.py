"""Content negotiation by Accept: when a listing is JSON, and how much of the field is looked at."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawservers.http import negotiation
from rawservers.http.negotiation import MAX_CHARACTERS, MAX_MEMBERS, parse_accept, prefers_json


@pytest.mark.parametrize(
    ("accept", "json_wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/html", False),
        ("application/json", True),
        ("Application/JSON", True),
        ("application/*", True),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", False),  # a browser
        ("application/json, */*;q=0.5", True),
        ("application/json, */*", True),
        ("application/json, text/plain, */*", True),
        ("text/html, application/json, */*", False),
        ("application/json;q=0, */*;q=0", False),
        ("application/json, text/html", False),
        ("text/html;q=0.9, application/json", True),
        ("application/json;q=0.9, text/html", False),
        ("application/json;q=0.9, text/html;q=0.901", False),
        ("application/json;q=0.902, text/html;q=0.901", True),
        ("application/json;q=0", False),
        ("application/json;q=0, */*", False),
        ("text/html;q=0, */*", True),
        ("text/html;q=0, */*;q=0", False),
        ("*/*;q=0.1, text/*;q=0", True),
        ("text/*;q=0.1, text/html;q=0.9, application/json;q=0.5", False),
        ("text/*, application/*;q=0.9, application/json;q=1, text/html;q=0.2", True),
        ("application/json \t;\t Q=0.5 , text/html;q=0.4", True),
        (",, ,application/json,", True),
        ("application/json;charset=utf-8", True),
        ("text/html;level=1, text/html;q=0.3, application/json;q=0.7", True),
        ("text/html;q=0.3, text/html;level=1, application/json;q=0.7", True),
        ('application/json;x="a, text/html;q=1, b"', True),
        ('text/html;x="\\", application/json', False),
        ("application/json;q=2", False),
        ("application/json;q=nan", False),
        ("application/json;q=-1", False),
        ("application/json;q=", False),
        ("application/json;q=0.1234", False),
        ("application/json;q=1.000", True),
        ("application/jsonp", False),
        ("application/ld+json", False),
        ("json", False),
        ("*", False),
    ],
)
def test_accept(accept: str, json_wanted: bool) -> None:
    assert prefers_json(accept) is json_wanted


@given(st.text(st.characters(max_codepoint=255)))
def test_any_accept_field_is_understood_somehow(accept: str) -> None:
    assert prefers_json(accept) in {True, False}
    assert not prefers_json(f"text/html, {accept}") or '"' in accept or "text/html" in accept.lower()


class Counting:
    """A pattern that counts what it is asked, and how much of it there is."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self.pattern = pattern
        self.calls = self.characters = 0

    def count(self, text: str) -> None:
        self.calls += 1
        self.characters += len(text)

    def fullmatch(self, text: str) -> re.Match[str] | None:
        self.count(text)
        return self.pattern.fullmatch(text)

    def sub(self, replacement: str, text: str) -> str:
        self.count(text)
        return self.pattern.sub(replacement, text)


@pytest.mark.parametrize(
    "piece", ['"', '\\"', '"\\', 'a;b="', ",", ";", "q=0;", "a;q=0,", ";q=0", "a/b;q=0.5;q=1,", '"",', " "]
)
def test_little_is_looked_at_of_a_long_accept_field(monkeypatch: pytest.MonkeyPatch, piece: str) -> None:
    quoted, qualities = Counting(negotiation.QUOTED), Counting(negotiation.QUALITY)
    monkeypatch.setattr(negotiation, "QUOTED", quoted)
    monkeypatch.setattr(negotiation, "QUALITY", qualities)
    ranges = parse_accept(piece * (65536 // len(piece)))
    assert (quoted.calls, quoted.characters) == (1, MAX_CHARACTERS)
    assert len(ranges) <= MAX_MEMBERS
    assert qualities.characters < MAX_CHARACTERS
    if piece == "a;q=0,":
        assert qualities.calls == MAX_MEMBERS


def test_where_an_accept_field_is_cut() -> None:
    many = [f"a/{number};q=0.5" for number in range(MAX_MEMBERS + 5)]
    assert list(parse_accept(",".join(many))) == [f"a/{number}" for number in range(MAX_MEMBERS)]
    assert len(parse_accept(",".join(many[:MAX_MEMBERS]))) == MAX_MEMBERS
    first = "text/html;q=0.1, "
    rest = "application/json;q=0.05"
    fits = first + " " * (MAX_CHARACTERS - len(first + rest)) + rest
    assert parse_accept(fits) == {"text/html": 0.1, "application/json": 0.05}
    assert parse_accept(f"{fits}0") == {"text/html": 0.1}  # it might have gone on in any way
    assert parse_accept(f'{first}"{"," * MAX_CHARACTERS}", {rest}') == {"text/html": 0.1}
