"""Preconditions and ranges: tables from the RFC's own words, and what holds for any text."""

from __future__ import annotations

import email.policy
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from email.message import Message
from email.parser import BytesParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rawservers.core.peer import Clock, Peer
from rawservers.core.protocol import FileSlice, OpenFile, ResponseEnd
from rawservers.http import dates
from rawservers.http.conditional import ENTITY_TAGS, MAX_TAGS, etag, not_modified, precondition, precondition_failed
from rawservers.http.conversation import Conversation
from rawservers.http.dates import http_date, parse_date
from rawservers.http.ranges import MAX_MEMBERS, MAX_RANGES, Span, partial_content, range_not_satisfiable, requested_ranges
from rawservers.http.request import Request, parse
from rawservers.http.response import AccessRecord, CommonHeaders, PreparedResponse, Response

NOW = 2_000_000_000.5  # Wed, 18 May 2033 03:33:20 GMT
MODIFIED = 784111777
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
EARLIER, LATER, FUTURE = http_date(MODIFIED - 1), http_date(MODIFIED + 1), http_date(NOW + 1)
TAG = '"e"'


def asking(*lines: str, method: str = "GET") -> Request:
    """A request with these header lines."""
    return parse("\r\n".join([f"{method} /f HTTP/1.0", *lines, "", ""]).encode("latin-1"))


def with_field(name: str, value: str) -> Request:
    """A request with one header field, of a value that no parser may have let through."""
    request = asking()
    request.fields[name] = value
    return request


# Validators


def test_the_tag_is_strong_and_tells_times_and_sizes_apart() -> None:
    assert etag(784111777_000000001, 13) == '"ae1b981bc490a01-d"'
    tags = {etag(mtime, size) for mtime in (-1, 0, 1, 10**18, 10**18 + 1) for size in (0, 1, 0x10, 1 << 40)}
    assert len(tags) == 20
    assert all(re.fullmatch(r'"-?[0-9a-f]+-[0-9a-f]+"', tag) for tag in tags)


@pytest.mark.parametrize("text", [DATE, "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"])
def test_the_three_forms_of_a_date(text: str) -> None:
    assert parse_date(text, NOW) == MODIFIED


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Wed, 31 Dec 1969 23:59:59 GMT", -1),
        ("Tue, 29 Feb 2000 00:00:00 GMT", 951782400),
        ("Sun Nov 16 08:49:37 1994", MODIFIED + 864000),
        ("Sat, 31 Dec 2016 23:59:60 GMT", 1483228800),
        ("Mon, 06 Nov 1994 08:49:37 GMT", MODIFIED),  # a Sunday, in truth
        ("Fri, 31 Dec 9999 23:59:59 GMT", 253402300799),
    ],
)
def test_a_date(text: str, seconds: int) -> None:
    assert parse_date(text, NOW) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "784111777",
        "yesterday",
        "sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, 06 nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 gmt",
        "Sun, 06 Nov 1994 08:49:37 UTC",
        "Sun, 06 Nov 1994 08:49:37 +0000",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 GMT ",
        "Sun, 06 Nov 1994 08:49:37 GMT\n",
        " Sun, 06 Nov 1994 08:49:37 GMT",
        f"{DATE}, {DATE}",
        f"{DATE}; length=1234",
        "Sun,  06 Nov 1994 08:49:37 GMT",
        "Sun 06 Nov 1994 08:49:37 GMT",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 94 08:49:37 GMT",
        "Sun, 06 Nov 1994 8:49:37 GMT",
        "Sun, 06 Nov 1994 24:00:00 GMT",
        "Sun, 06 Nov 1994 08:60:00 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Sun, 31 Nov 1994 08:49:37 GMT",
        "Thu, 29 Feb 1900 08:49:37 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, 06-Nov-94 08:49:37 GMT",
        "Sunday, 06-Nov-1994 08:49:37 GMT",
        "Sunday, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 31-Nov-94 08:49:37 GMT",
        "Sun Nov 6 08:49:37 1994",
        "Sun Nov 06 08:49:37 94",
        "Sun Nov  0 08:49:37 1994",
        "Sun Nov  6 08:49:37 1994 GMT",
        "Sun, 0\N{ARABIC-INDIC DIGIT SIX} Nov 1994 08:49:37 GMT",
    ],
)
def test_no_date(text: str) -> None:
    assert parse_date(text, NOW) is None


@pytest.mark.parametrize(
    ("text", "now", "year"),
    [
        ("Sunday, 06-Nov-94 08:49:37 GMT", "2026-01-01", 1994),
        ("Sunday, 06-Nov-26 08:49:37 GMT", "2026-01-01", 2026),
        ("Sunday, 06-Nov-75 08:49:37 GMT", "2026-01-01", 2075),
        ("Sunday, 06-Nov-76 08:49:37 GMT", "2026-01-01", 1976),
        ("Sunday, 06-Nov-76 08:49:37 GMT", "2026-11-06T08:49:36", 1976),
        ("Sunday, 06-Nov-76 08:49:37 GMT", "2026-11-06T08:49:37", 2076),
        ("Sunday, 06-Nov-76 08:49:37 GMT", "2026-11-07", 2076),
        ("Sunday, 06-Nov-77 08:49:37 GMT", "2026-11-07", 1977),
        ("Sunday, 06-Nov-05 08:49:37 GMT", "2090-01-01", 2105),
        ("Sunday, 06-Nov-00 08:49:37 GMT", "1999-01-01", 2000),
        ("Saturday, 29-Feb-76 00:00:00 GMT", "2024-02-29", 1976),
        ("Thursday, 01-Mar-74 00:00:00 GMT", "2024-02-29", 1974),
        ("Wednesday, 28-Feb-74 00:00:00 GMT", "2024-02-29", 2074),
    ],
)
def test_a_two_digit_year_is_at_most_50_years_ahead(text: str, now: str, year: int) -> None:
    seconds = parse_date(text, datetime.fromisoformat(now).replace(tzinfo=UTC).timestamp())
    assert seconds is not None
    assert datetime.fromtimestamp(seconds, UTC).year == year


@settings(deadline=None)
@given(st.integers(-62135596800, 253402300799), st.floats(0, 4e9))
def test_what_http_date_writes_is_read_back(seconds: int, now: float) -> None:
    assert parse_date(http_date(seconds), now) == seconds


@settings(deadline=None)
@given(st.integers(0, 4_000_000_000), st.integers(-49 * 31_536_000, 49 * 31_536_000))
def test_the_three_forms_agree(now: int, ahead: int) -> None:
    when = datetime.fromtimestamp(now + ahead, UTC)
    long = f"{when:%A, %d-%b-%y %H:%M:%S} GMT"
    short = f"{when:%a %b} {when.day:2} {when:%H:%M:%S} {when.year:04}"
    assert parse_date(http_date(now + ahead), now) == parse_date(long, now) == parse_date(short, now) == now + ahead


# Preconditions


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([], None),
        # §13.1.2, a table of weak comparison; a list, a star
        (['If-None-Match: "e"'], 304),
        (['If-None-Match: W/"e"'], 304),
        (['If-None-Match: "a", "e"'], 304),
        (['If-None-Match: "a" ,\t,"e" ,'], 304),
        (['If-None-Match: "a"', 'If-None-Match: "e"'], 304),
        (['If-None-Match: "a,", W/"e"'], 304),
        (["If-None-Match: *"], 304),
        (['If-None-Match: "x"'], None),
        (['If-None-Match: "E"'], None),
        (["If-None-Match:"], None),
        (["If-None-Match: ,"], None),
        # what is no list of tags matches nothing
        (["If-None-Match: e"], None),
        (['If-None-Match: "e'], None),
        (['If-None-Match: w/"e"'], None),
        (['If-None-Match: W/ "e"'], None),
        (['If-None-Match: "e" "a"'], None),
        (['If-None-Match: "a""e"'], None),
        (['If-None-Match: "e", a'], None),
        (['If-None-Match: *, "e"'], None),
        (['If-None-Match: "a "e"'], None),
        (['If-None-Match: "a b", "e"'], None),
        # §13.1.3
        ([f"If-Modified-Since: {DATE}"], 304),
        (["If-Modified-Since: Sunday, 06-Nov-94 08:49:37 GMT"], 304),
        (["If-Modified-Since: Sun Nov  6 08:49:37 1994"], 304),
        ([f"If-Modified-Since: {LATER}"], 304),
        ([f"If-Modified-Since: {EARLIER}"], None),
        ([f"If-Modified-Since: {http_date(NOW)}"], 304),
        ([f"If-Modified-Since: {FUTURE}"], None),
        (["If-Modified-Since: today"], None),
        ([f"If-Modified-Since: {DATE}", f"If-Modified-Since: {DATE}"], None),
        # §13.1.3: If-None-Match is the better knowledge
        ([f"If-Modified-Since: {DATE}", 'If-None-Match: "x"'], None),
        ([f"If-Modified-Since: {EARLIER}", 'If-None-Match: "e"'], 304),
        # §13.1.1, strong comparison
        (['If-Match: "e"'], None),
        (['If-Match: "a", "e"'], None),
        (["If-Match: *"], None),
        (['If-Match: "x"'], 412),
        (['If-Match: W/"e"'], 412),
        (["If-Match: e"], 412),
        (["If-Match:"], 412),
        # §13.1.4
        ([f"If-Unmodified-Since: {EARLIER}"], 412),
        ([f"If-Unmodified-Since: {DATE}"], None),
        ([f"If-Unmodified-Since: {LATER}"], None),
        ([f"If-Unmodified-Since: {FUTURE}"], None),
        (["If-Unmodified-Since: never"], None),
        ([f"If-Unmodified-Since: {EARLIER}", 'If-Match: "e"'], None),
        ([f"If-Unmodified-Since: {LATER}", 'If-Match: "x"'], 412),
        # §13.2.2: first whether the request may be met at all, then whether it need be
        (['If-Match: "x"', 'If-None-Match: "e"'], 412),
        (['If-Match: "e"', 'If-None-Match: "e"'], 304),
        ([f"If-Unmodified-Since: {EARLIER}", f"If-Modified-Since: {DATE}"], 412),
        ([f"If-Unmodified-Since: {DATE}", f"If-Modified-Since: {DATE}"], 304),
        (["Range: bytes=0-1", 'If-Range: "x"', 'If-None-Match: "e"'], 304),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_precondition(lines: list[str], status: int | None, method: str) -> None:
    assert precondition(asking(*lines, method=method), TAG, MODIFIED, NOW) == status


@pytest.mark.parametrize(
    ("method", "lines", "status"),
    [
        ("PUT", ['If-None-Match: "e"'], 412),
        ("PUT", ["If-None-Match: *"], 412),
        ("PUT", ['If-None-Match: "x"'], None),
        ("PUT", ['If-Match: "x"'], 412),
        ("POST", [f"If-Modified-Since: {DATE}"], None),
        ("DELETE", [f"If-Unmodified-Since: {EARLIER}"], 412),
        ("OPTIONS", ['If-Match: "x"'], None),
        ("TRACE", ['If-None-Match: "e"'], None),
        ("CONNECT", [f"If-Unmodified-Since: {EARLIER}"], None),
    ],
)
def test_precondition_of_another_method(method: str, lines: list[str], status: int | None) -> None:
    assert precondition(asking(*lines, method=method), TAG, MODIFIED, NOW) == status


def test_a_weak_tag_matches_weakly_and_never_strongly() -> None:
    for value in ('"e"', 'W/"e"'):
        assert precondition(asking(f"If-None-Match: {value}"), 'W/"e"', MODIFIED, NOW) == 304
        assert precondition(asking(f"If-Match: {value}"), 'W/"e"', MODIFIED, NOW) == 412
        assert requested_ranges(asking("Range: bytes=0-1", f"If-Range: {value}"), 9, 'W/"e"', MODIFIED, NOW) is None


def test_a_file_from_the_future_is_always_sent() -> None:
    ahead = int(NOW) + 1000
    for seconds in (MODIFIED, NOW, ahead, ahead + 1):
        assert precondition(asking(f"If-Modified-Since: {http_date(seconds)}"), TAG, ahead, NOW) is None


# Ranges


@pytest.mark.parametrize(
    ("value", "spans"),
    [
        ("bytes=0-0", [(0, 1)]),
        ("bytes=10-20", [(10, 11)]),
        ("bytes=10-", [(10, 90)]),
        ("bytes=-25", [(75, 25)]),
        ("bytes=0-99", [(0, 100)]),
        ("bytes=99-99", [(99, 1)]),
        ("bytes=90-100", [(90, 10)]),
        ("bytes=-100", [(0, 100)]),
        ("bytes=-101", [(0, 100)]),
        ("bytes=0-99999999999999999999999", [(0, 100)]),
        ("bytes=-99999999999999999999999", [(0, 100)]),
        ("bytes=0000000000000000000000005-0000000000000000000000006", [(5, 2)]),
        ("bytes=00000000000000000000000-00000000000000000000000", [(0, 1)]),
        ("Bytes=0-1", [(0, 2)]),
        # nothing of it lies inside the file
        ("bytes=100-", []),
        ("bytes=100-200", []),
        ("bytes=-0", []),
        ("bytes=-00000000000000000000000", []),
        ("bytes=99999999999999999999999-", []),
        ("bytes=100-,-0", []),
        # not what the grammar says
        ("bytes=", []),
        ("bytes=,", []),
        ("bytes=-", []),
        ("bytes=--1", []),
        ("bytes=a-b", []),
        ("bytes=1", []),
        ("bytes=1-2-3", []),
        ("bytes=5-2", []),
        ("bytes=0 - 1", []),
        ("bytes=+1-2", []),
        ("bytes=1_0-20", []),
        ("bytes=0x1-2", []),
        ("bytes=0-1;5-6", []),
        ("bytes=0-1, 5-2", []),
        ("bytes=0-1, x", []),
        ("bytes=0-1, bytes=5-6", []),
        # another unit, or none
        ("lines=0-1", None),
        ("seconds=1-2", None),
        ("", None),
        ("bytes", None),
        ("bytes 0-1", None),
        ("bytes = 0-1", None),
        ("=0-1", None),
        # lists
        ("bytes=0-1,5-6", [(0, 2), (5, 2)]),
        ("bytes=0-1,,5-6", [(0, 2), (5, 2)]),
        ("bytes=, \t,0-1 ,\t5-6 , ", [(0, 2), (5, 2)]),
        ("bytes=5-6,0-1", [(5, 2), (0, 2)]),
        ("bytes=0-1,200-,5-6", [(0, 2), (5, 2)]),
        ("bytes=0-1,-0", [(0, 2)]),
        ("bytes=0-0,-1", [(0, 1), (99, 1)]),
        # coalesced
        ("bytes=0-1,2-3", [(0, 4)]),
        ("bytes=0-1,3-4", [(0, 2), (3, 2)]),
        ("bytes=2-3,0-1", [(0, 4)]),
        ("bytes=0-50,10-20", [(0, 51)]),
        ("bytes=0-0,0-0,0-0", [(0, 1)]),
        ("bytes=0-,-1,50-", [(0, 100)]),
        ("bytes=50-60,0-10,55-70", [(50, 21), (0, 11)]),
        ("bytes=80-90,40-50,0-10,45-60", [(80, 11), (40, 21), (0, 11)]),
        ("bytes=60-70,0-9,20-29,10-19", [(60, 11), (0, 30)]),
    ],
)
def test_ranges(value: str, spans: list[Span] | None) -> None:
    assert requested_ranges(asking(f"Range: {value}"), 100, TAG, MODIFIED, NOW) == spans


@pytest.mark.parametrize(
    ("value", "spans"),
    [("0-", []), ("0-0", []), ("5-9", []), ("-0", []), ("-5", None), ("0-,-5", None), ("x", []), ("5-2", [])],
)
def test_ranges_of_an_empty_file(value: str, spans: list[Span] | None) -> None:
    assert requested_ranges(asking(f"Range: bytes={value}"), 0, TAG, MODIFIED, NOW) == spans


def test_ranges_beyond_4_gib() -> None:
    size = 5 << 30
    value = f"bytes={(1 << 31) - 1}-{1 << 31},{(1 << 32) - 1}-{1 << 32},-1"
    assert requested_ranges(asking(f"Range: {value}"), size, TAG, MODIFIED, NOW) == [
        ((1 << 31) - 1, 2),
        ((1 << 32) - 1, 2),
        (size - 1, 1),
    ]


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
def test_only_get_has_ranges(method: str) -> None:
    assert requested_ranges(asking("Range: bytes=0-1", method=method), 100, TAG, MODIFIED, NOW) is None


def test_no_range_is_no_range() -> None:
    assert requested_ranges(asking(), 100, TAG, MODIFIED, NOW) is None
    assert requested_ranges(asking(f"If-Range: {TAG}"), 100, TAG, MODIFIED, NOW) is None


@pytest.mark.parametrize(
    ("value", "holds"),
    [
        ('"e"', True),
        ('"x"', False),
        ('W/"e"', False),
        ("e", False),
        ('"e', False),
        ("*", False),
        ('"e", "a"', False),
        ("", False),
        (DATE, True),
        ("Sunday, 06-Nov-94 08:49:37 GMT", True),
        ("Sun Nov  6 08:49:37 1994", True),
        (EARLIER, False),
        (LATER, False),
        ("yesterday", False),
    ],
)
def test_if_range(value: str, holds: bool) -> None:
    request = asking("Range: bytes=0-1", f"If-Range: {value}")
    assert requested_ranges(request, 100, TAG, MODIFIED, NOW) == ([(0, 2)] if holds else None)


def test_a_date_of_this_second_may_not_be_the_last() -> None:
    request = asking("Range: bytes=0-1", f"If-Range: {DATE}")
    assert requested_ranges(request, 100, TAG, MODIFIED, MODIFIED + 0.9) is None
    assert requested_ranges(request, 100, TAG, MODIFIED, MODIFIED + 1.0) == [(0, 2)]


def test_a_failed_if_range_comes_before_a_bad_range() -> None:
    assert requested_ranges(asking("Range: bytes=100-", 'If-Range: "x"'), 100, TAG, MODIFIED, NOW) is None


def test_too_many_ranges_get_the_whole() -> None:
    def ask(count: int, spec: str) -> list[Span] | None:
        value = ",".join(spec.format(2 * i) for i in range(count))
        return requested_ranges(asking(f"Range: bytes={value}"), 1000, TAG, MODIFIED, NOW)

    assert ask(MAX_RANGES, "{0}-{0}") == [(2 * i, 1) for i in range(MAX_RANGES)]
    assert ask(MAX_RANGES + 1, "{0}-{0}") is None
    assert ask(MAX_RANGES, "0-") == [(0, 1000)]
    assert ask(MAX_RANGES + 1, "0-") is None


SPECS = st.one_of(
    st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda ends: f"{min(ends)}-{max(ends)}"),
    st.integers(0, 40).map("{}-".format),
    st.integers(0, 40).map("-{}".format),
)


def selected(spec: str, size: int) -> set[int]:
    """The positions that a well-formed range-spec stands for."""
    first, _, last = spec.partition("-")
    if first:
        return set(range(int(first), int(last) + 1 if last else size)) & set(range(size))
    return set(list(range(size))[-int(last) :] if int(last) else ())


@settings(deadline=None)
@given(st.integers(1, 36), st.lists(SPECS, min_size=1, max_size=MAX_RANGES))
def test_the_spans_are_the_bytes_asked_for_once_each(size: int, specs: list[str]) -> None:
    sets = [selected(spec, size) for spec in specs]
    spans = requested_ranges(asking(f"Range: bytes={', '.join(specs)}"), size, TAG, MODIFIED, NOW)
    assert spans is not None
    positions = [position for first, count in spans for position in range(first, first + count)]
    assert sorted(positions) == sorted(set().union(*sets))
    assert all(count > 0 for _, count in spans)
    edges = {first for first, _ in spans}
    assert not edges & {first + count for first, count in spans}  # none begins where another ends
    places = [min(i for i, some in enumerate(sets) if some and min(some) in range(a, a + n)) for a, n in spans]
    assert places == sorted(places)


FIELDS = ("range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since")
SCRAPS = st.sampled_from(
    ["bytes=", "0-1", "-5", "5-", "9" * 30, ",", " ", "\t", '"', '"e"', "W/", "*", "=", "-", DATE, "\u0661", "\ud800"]
)  # fmt: skip
LATIN = st.binary(max_size=60).map(lambda octets: octets.decode("latin-1"))  # whatever the wire may bring
TEXTS = st.one_of(LATIN, st.lists(SCRAPS, max_size=12).map("".join))


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), TEXTS), st.sampled_from(["GET", "HEAD", "PUT"]), st.integers(0, 99))
def test_no_text_upsets_it(fields: dict[str, str], method: str, size: int) -> None:
    request = asking(method=method)
    request.fields |= fields
    assert precondition(request, TAG, MODIFIED, NOW) in {None, 304, 412}
    spans = requested_ranges(request, size, TAG, MODIFIED, NOW)
    assert spans is None or all(0 <= first < first + count <= size for first, count in spans)


@settings(deadline=None)
@given(st.one_of(TEXTS, st.from_regex(dates.RFC850_DATE), st.from_regex(dates.ASCTIME_DATE)))
def test_no_text_upsets_the_dates(text: str) -> None:
    assert isinstance(parse_date(text, NOW), int | None)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    "value",
    [
        "bytes=" + "0-1," * 25_000,
        "bytes=" + "," * 100_000,
        "bytes=0-1" + " " * 100_000 + "x",
        "bytes=" + "9" * 100_000 + "-",
        "bytes=0-" + "9" * 100_000,
        "bytes=-" + "0" * 100_000,
        "bytes=" + "-" * 100_000,
        '"a",' * 25_000 + "x",
        '"a" ' * 25_000,
        '"a"' + " " * 100_000 + "x",
        "\t, " * 33_000 + "x",
        '"' * 100_000,
        "W/" * 50_000,
        '"' + "a" * 100_000,
        f"{DATE}, " * 3_000,
    ],
    ids=range(15),
)
def test_a_long_value_costs_little(field: str, value: str) -> None:
    request = with_field(field, value)
    request.fields.setdefault("range", "bytes=0-1")
    began = time.process_time()
    precondition(request, TAG, MODIFIED, NOW)
    requested_ranges(request, 100, TAG, MODIFIED, NOW)
    assert time.process_time() - began < 0.1


def test_tags_behind_the_first_many_are_not_looked_at() -> None:
    def none_match(value: str) -> int | None:
        return precondition(asking(f"If-None-Match: {value}"), TAG, MODIFIED, NOW)

    def match(value: str) -> int | None:
        return precondition(asking(f"If-Match: {value}"), TAG, MODIFIED, NOW)

    others = ['W/"x"', '"y"'] * (MAX_TAGS // 2)
    last, behind = ", ".join([*others[:-1], TAG]), ", ".join([*others, TAG])
    assert (none_match(last), match(last)) == (304, None)
    assert (none_match(f"{last}, , no tag"), match(f"{last}, no tag")) == (304, None)
    assert (none_match(behind), match(behind)) == (None, 412)
    assert (none_match(f"{TAG}, no tag"), match(f"{TAG}, no tag")) == (None, 412)
    begun = ENTITY_TAGS.match('"a",' * 10_000)
    assert begun
    assert begun.end() == 4 * MAX_TAGS


def test_members_of_a_range_behind_the_first_many_are_not_looked_at() -> None:
    def ask(members: str) -> list[Span] | None:
        return requested_ranges(asking(f"Range: bytes={members}"), 100, TAG, MODIFIED, NOW)

    assert ask("," * (MAX_MEMBERS - 1) + "0-1") == [(0, 2)]
    assert ask("," * MAX_MEMBERS + "0-1") is None
    assert ask("0-1" + "," * MAX_MEMBERS) is None


# Answers

HEADERS = [
    ("Content-Type", "text/plain; charset=utf-8"),
    ("Content-Encoding", "gzip"),
    ("Last-Modified", DATE),
    ("ETag", TAG),
    ("Accept-Ranges", "bytes"),
    ("Cache-Control", "max-age=60"),
    ("Expires", LATER),
    ("Vary", "Accept-Encoding"),
    ("Content-Location", "/f.gz"),
    ("X-Own", "yes"),
]


def test_a_304_has_what_a_cache_needs_and_no_more() -> None:
    response = not_modified(HEADERS)
    names = [name for name, _ in response.headers]
    assert (response.status, response.body) == (304, b"")
    assert names == ["ETag", "Cache-Control", "Expires", "Vary", "Content-Location"]
    assert set(response.headers) < set(HEADERS)


def test_a_304_tells_the_date_only_without_a_tag() -> None:
    untagged = [field for field in HEADERS if field[0] != "ETag"]
    assert ("Last-Modified", DATE) in not_modified(untagged).headers
    assert not_modified([("last-modified", DATE), ("etag", TAG)]).headers == [("etag", TAG)]


def test_a_412_explains_itself() -> None:
    response = precondition_failed()
    assert (response.status, bool(response.body)) == (412, True)


def test_a_416_tells_the_size() -> None:
    response = range_not_satisfiable(5 << 30)
    assert (response.status, bool(response.body)) == (416, True)
    assert ("Content-Range", "bytes */5368709120") in response.headers


def test_one_span_is_sent_as_it_is() -> None:
    response = partial_content(HEADERS, b"0123456789", [(2, 3)], 10)
    assert (response.status, response.body) == (206, b"234")
    assert response.headers == [*HEADERS, ("Content-Range", "bytes 2-4/10")]


def content(response: Response) -> bytes:
    """The bytes of a body, read from its file where it has one."""
    pieces = response.body if isinstance(response.body, tuple) else (response.body,)
    return b"".join(
        piece if isinstance(piece, bytes) else os.pread(piece.file.fd, piece.count, piece.offset) for piece in pieces
    )


def parts_of(response: Response) -> Sequence[Message]:
    """The parts of a multipart response, as Python's own reader of MIME sees them."""
    head = "".join(f"{name}: {value}\r\n" for name, value in response.headers)
    message = BytesParser(policy=email.policy.HTTP).parsebytes(head.encode() + b"\r\n" + content(response))
    assert message.get_content_type() == "multipart/byteranges"
    assert not message.defects
    assert (message.preamble, message.epilogue) == (None, "")
    return list(message.iter_parts())


def open_file(tmp_path: Path, data: bytes) -> OpenFile:
    path = tmp_path / "file"
    path.write_bytes(data)
    return OpenFile(os.open(path, os.O_RDONLY), os.close)


DATA = b"".join(b"%06d\n" % i for i in range(1000))
SPANS = [(7, 7), (0, 1), (6000, 1000)]


@pytest.mark.parametrize("large", [False, True])
def test_several_spans_are_parts(large: bool, tmp_path: Path) -> None:
    body: bytes | FileSlice = DATA
    if large:
        body = FileSlice(open_file(tmp_path, b"before" + DATA), 6, len(DATA))
    response = partial_content(HEADERS, body, SPANS, 7000)
    assert response.status == 206
    assert isinstance(response.body, tuple) == large
    names = [name for name, _ in response.headers]
    assert names.count("Content-Type") == 1
    assert not {"Content-Range", "Content-Encoding"} & set(names)
    assert set(HEADERS[2:]) < set(response.headers)
    parts = parts_of(response)
    for part, (first, count) in zip(parts, SPANS, strict=True):
        assert {*HEADERS[:2], ("Content-Range", f"bytes {first}-{first + count - 1}/7000")} == set(part.raw_items())
        assert part.get_payload(decode=True) == DATA[first : first + count]


def test_the_exact_bytes_of_a_multipart() -> None:
    response = partial_content([("Content-Type", "text/plain")], b"0123456789", [(0, 2), (5, 2)], 10)
    boundary = response.headers[0][1].partition("boundary=")[2].encode()
    assert response.body == (
        b"--%b\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/10\r\n\r\n01\r\n"
        b"--%b\r\nContent-Type: text/plain\r\nContent-Range: bytes 5-6/10\r\n\r\n56\r\n"
        b"--%b--\r\n"
    ) % (boundary, boundary, boundary)


def test_the_boundary_is_the_same_for_the_same_and_another_for_another() -> None:
    def boundary(tag: str, spans: list[Span]) -> str:
        return partial_content([("ETag", tag)], DATA, spans, 7000).headers[0][1]

    assert boundary('"a"', SPANS) == boundary('"a"', SPANS)
    assert len({boundary('"a"', SPANS), boundary('"b"', SPANS), boundary('"a"', SPANS[1:])}) == 3
    assert re.fullmatch(r"multipart/byteranges; boundary=[0-9a-f]{30}", boundary('"a"', SPANS))


class Saying:
    """A service that answers every request alike."""

    def __init__(self, response: Response) -> None:
        self.response = response
        self.common_headers = CommonHeaders()

    def lookup(self, data: bytes) -> PreparedResponse | None:
        return None

    def max_body(self, request: Request) -> int:
        return 0

    def respond(self, request: Request) -> PreparedResponse:
        return PreparedResponse(self.response, request)

    def prepare(self, request: Request, future: Future[Response]) -> PreparedResponse:
        raise AssertionError("nothing was promised")


def conversation_that_says(response: Response) -> Conversation:
    return Conversation(Peer(("192.0.2.1", 4711), Clock(100.0, NOW)), Saying(response))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_conversation_sends_the_parts_in_order(method: str, tmp_path: Path) -> None:
    body = FileSlice(open_file(tmp_path, DATA), 0, len(DATA))
    response = partial_content(HEADERS, body, SPANS, 7000)
    conversation = conversation_that_says(response)
    said = conversation.receive(f"{method} /f HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    head, *pieces, answered = said
    assert isinstance(head, bytes)
    assert isinstance(answered, ResponseEnd)
    assert isinstance(answered.record, AccessRecord)
    assert head.endswith(b"\r\n\r\n")
    assert b"\r\nContent-Length: %d\r\n" % len(content(response)) in head
    assert tuple(pieces) == (response.body if method == "GET" else ())
    assert (answered.record.status, answered.record.head_size) == (206, len(head))
    assert answered.record.body_size == (len(content(response)) if method == "GET" else 0)


def test_a_pipeline_of_parts_stops_at_the_mark(tmp_path: Path) -> None:
    body = FileSlice(open_file(tmp_path, DATA * 10), 0, 70_000)
    response = partial_content(HEADERS, body, [(0, 40_000), (50_000, 20_000)], 70_000)
    conversation = conversation_that_says(response)
    said = [conversation.receive(b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n" * 5)]
    while chunks := conversation.resume():
        said.append(chunks)
    assert [sum(isinstance(chunk, ResponseEnd) for chunk in chunks) for chunks in said] == [2, 2, 1]
