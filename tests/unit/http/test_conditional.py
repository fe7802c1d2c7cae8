"""Conditional requests: validators and preconditions, by tables from the RFC's own words, and for any text; 304 and 412."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawservers.http.conditional import ENTITY_TAGS, MAX_TAGS, etag, is_reliable, not_modified, precondition, version
from rawservers.http.dates import http_date
from rawservers.http.ranges import requested_ranges
from rawservers.http.request import Request
from tests.harness.conditional import DATE, EARLIER, FUTURE, HEADERS, LATER, MODIFIED, NOW, TAG, TEXTS, asking

# Validators


def test_the_tag_is_strong_and_tells_times_and_sizes_apart() -> None:
    assert etag(version(784111777_000000001, 13)) == '"ae1b981bc490a01-d"'
    tags = {etag(version(mtime, size)) for mtime in (-1, 0, 1, 10**18, 10**18 + 1) for size in (0, 1, 0x10, 1 << 40)}
    assert len(tags) == 20
    assert all(re.fullmatch(r'"-?[0-9a-f]+-[0-9a-f]+"', tag) for tag in tags)


def test_the_coding_is_in_the_tag() -> None:
    assert etag("1-2", "gzip") == '"1-2-gzip"'
    assert etag("") == etag("", "gzip") == ""


@pytest.mark.parametrize(
    ("modified", "reliable"),
    [
        *[(modified, False) for modified in (-(1 << 62), -1, 0, 1, 315532799, int(NOW) + 1, 1 << 62)],
        *[(modified, True) for modified in (315532800, MODIFIED, int(NOW))],
    ],
)
def test_which_times_tell_versions_apart(modified: int, reliable: bool) -> None:
    assert is_reliable(modified, NOW) is reliable


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


def test_a_file_from_the_future_is_always_sent() -> None:
    ahead = int(NOW) + 1000
    for seconds in (MODIFIED, NOW, ahead, ahead + 1):
        assert precondition(asking(f"If-Modified-Since: {http_date(seconds)}"), TAG, ahead, NOW) is None


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        *[
            ([f"{name}: {date}"], None)
            for name in ("If-Modified-Since", "If-Unmodified-Since")
            for date in (DATE, EARLIER, LATER)
        ],
        (['If-None-Match: "e"'], 304),
        (['If-None-Match: "x"', f"If-Modified-Since: {LATER}"], None),
        (['If-Match: "e"', f"If-Unmodified-Since: {EARLIER}"], None),
        (['If-Match: "x"'], 412),
        ([f"If-Unmodified-Since: {EARLIER}", 'If-None-Match: "e"'], 304),
    ],
)
def test_a_file_without_a_reliable_time(lines: list[str], status: int | None) -> None:
    assert precondition(asking(*lines), TAG, None, NOW) == status


@pytest.mark.parametrize(
    ("line", "status"),
    [
        *[(f"If-None-Match: {tags}", None) for tags in ('"e"', '""', "", '"", "e"')],
        *[(f"If-Match: {tags}", 412) for tags in ('"e"', '""', "", '"", "e"')],
        ("If-None-Match: *", 304),
        ("If-Match: *", None),
    ],
)
def test_a_file_without_a_tag(line: str, status: int | None) -> None:
    assert precondition(asking(line), "", None, NOW) == status


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
    begun = re.match(ENTITY_TAGS, '"a",' * 10_000)
    assert begun
    assert begun.end() == 4 * MAX_TAGS


# Any text


def with_field(name: str, value: str) -> Request:
    """A request with one header field, of a value that no parser may have let through."""
    request = asking()
    request.fields[name] = value
    return request


FIELDS = ("range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since")


@given(
    st.dictionaries(st.sampled_from(FIELDS), TEXTS),
    st.sampled_from(["GET", "HEAD"]),
    st.integers(0, 99),
    st.sampled_from([(TAG, MODIFIED), (TAG, None), ("", None)]),
)
def test_no_text_upsets_it(fields: dict[str, str], method: str, size: int, validators: tuple[str, int | None]) -> None:
    request = asking(method=method)
    request.fields |= fields
    assert precondition(request, *validators, NOW) in {None, 304, 412}
    spans = requested_ranges(request, size, *validators, NOW)
    assert spans is None or all(0 <= first < first + count <= size for first, count in spans)


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


# Answers


def test_a_304_has_what_a_cache_needs_and_no_more() -> None:
    response = not_modified(HEADERS)
    names = [name for name, _ in response.headers]
    assert (response.status, response.body) == (304, b"")
    assert names == ["ETag", "Cache-Control", "Expires", "Vary", "Content-Location"]
    assert set(response.headers) < set(HEADERS)
