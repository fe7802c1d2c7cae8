"""HTTP dates: the three forms, and what is none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawservers.http import dates
from rawservers.http.dates import http_date, parse_date
from tests.harness.conditional import DATE, MODIFIED, NOW, TEXTS


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


@given(st.integers(-62135596800, 253402300799), st.floats(0, 4e9))
def test_what_http_date_writes_is_read_back(seconds: int, now: float) -> None:
    assert parse_date(http_date(seconds), now) == seconds


@given(st.integers(0, 4_000_000_000), st.integers(-49 * 31_536_000, 49 * 31_536_000))
def test_the_three_forms_agree(now: int, ahead: int) -> None:
    when = datetime.fromtimestamp(now + ahead, UTC)
    long = f"{when:%A, %d-%b-%y %H:%M:%S} GMT"
    short = f"{when:%a %b} {when.day:2} {when:%H:%M:%S} {when.year:04}"
    assert parse_date(http_date(now + ahead), now) == parse_date(long, now) == parse_date(short, now) == now + ahead


@given(st.one_of(TEXTS, st.from_regex(dates.RFC850_DATE), st.from_regex(dates.ASCTIME_DATE)))
def test_no_text_upsets_the_dates(text: str) -> None:
    assert isinstance(parse_date(text, NOW), int | None)


@given(st.integers(dates.EARLIEST, dates.LATEST))
def test_the_calendar_is_that_of_datetime(seconds: int) -> None:
    when = datetime(1970, 1, 1) + timedelta(0, seconds)
    assert dates.utc(seconds) == when.timetuple()[:6]
    assert dates.since_1970(*when.timetuple()[:3]) == (when - datetime(1970, 1, 1)).days
    assert http_date(seconds) == f"{when:%a, %d %b} {when.year:04} {when:%H:%M:%S} GMT"
