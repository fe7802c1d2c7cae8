"""HTTP dates, formatted and parsed: RFC 9110 §5.6.7."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime
from functools import lru_cache

YEAR_1 = -62135596800  # seconds since 1970; a file's time may be earlier, but a date has a year of four digits
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
DAY = "|".join(DAYS)
LONG_DAY = "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday"
MONTH = "|".join(MONTHS)
TIME = "([01][0-9]|2[0-3]):([0-5][0-9]):([0-5][0-9]|60)"  # 60: a leap second
IMF_FIXDATE = re.compile(rf"(?:{DAY}), ([0-9]{{2}}) ({MONTH}) ([0-9]{{4}}) {TIME} GMT")
RFC850_DATE = re.compile(rf"(?:{LONG_DAY}), ([0-9]{{2}})-({MONTH})-([0-9]{{2}}) {TIME} GMT")
ASCTIME_DATE = re.compile(rf"(?:{DAY}) ({MONTH}) ([0-9]{{2}}| [0-9]) {TIME} ([0-9]{{4}})")
EPOCH = date(1970, 1, 1).toordinal()


@lru_cache(1024)  # many files have the same modification time
def http_date(seconds: float) -> str:
    """`seconds` since 1970 as an IMF-fixdate: Sun, 06 Nov 1994 08:49:37 GMT."""
    when = datetime.fromtimestamp(max(int(seconds), YEAR_1), UTC)
    day = f"{DAYS[when.weekday()]}, {when.day:02} {MONTHS[when.month - 1]} {when.year:04}"
    return f"{day} {when.hour:02}:{when.minute:02}:{when.second:02} GMT"  # strftime takes three times as long


def parse_date(text: str, now: float) -> int | None:
    """The seconds since 1970 of an HTTP date in any of its three formats; None if it is malformed.

    now: seconds since 1970, which decide the century of a two-digit year. The day of the week is not checked.
    """
    if match := IMF_FIXDATE.fullmatch(text):
        day, month, year, *time = match.groups()
        return _seconds(int(year), month, day, time)
    if match := RFC850_DATE.fullmatch(text):
        day, month, year, *time = match.groups()
        return _seconds(_full_year(int(year), month, day, time, now), month, day, time)
    if match := ASCTIME_DATE.fullmatch(text):
        month, day, *time, year = match.groups()
        return _seconds(int(year), month, day, time)
    return None


def _seconds(year: int, month: str, day: str, time: Sequence[str]) -> int | None:
    try:
        days = date(year, MONTHS.index(month) + 1, int(day)).toordinal() - EPOCH
    except ValueError:  # there is no such day
        return None
    hour, minute, second = time
    return days * 86400 + int(hour) * 3600 + int(minute) * 60 + int(second)


def _full_year(digits: int, month: str, day: str, time: Sequence[str], now: float) -> int:
    """The latest year with these last two digits for which the date is no more than 50 years ahead of `now`."""
    today = datetime.fromtimestamp(now, UTC)
    last = today.year + 50
    year = last - (last - digits) % 100
    if year == last and (MONTHS.index(month) + 1, int(day), *map(int, time)) > today.timetuple()[1:6]:
        year -= 100
    return year
