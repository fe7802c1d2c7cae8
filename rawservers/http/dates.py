"""HTTP dates, formatted and parsed: RFC 9110 §5.6.7.

Not by strftime and strptime, whose names of days and months depend on the locale.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from functools import lru_cache

EPOCH = datetime(1970, 1, 1)  # without a time zone, as all times here: they are in UTC
EARLIEST, LATEST = -62135596800, 253402300799  # seconds since 1970: the years 1 to 9999, which have four digits
DAY = "Mon|Tue|Wed|Thu|Fri|Sat|Sun"
MONTH = "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
DAYS, MONTHS = DAY.split("|"), MONTH.split("|")
TIME = "(?P<hour>[01][0-9]|2[0-3]):(?P<minute>[0-5][0-9]):(?P<second>[0-5][0-9]|60)"  # 60: a leap second
IMF_FIXDATE = rf"(?:{DAY}), (?P<day>[0-9]{{2}}) (?P<month>{MONTH}) (?P<year>[0-9]{{4}}) {TIME} GMT"
RFC850_DATE = (
    rf"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, (?P<day>[0-9]{{2}})-(?P<month>{MONTH})-(?P<year>[0-9]{{2}}) {TIME} GMT"
)
ASCTIME_DATE = rf"(?:{DAY}) (?P<month>{MONTH}) (?P<day>[0-9]{{2}}| [0-9]) {TIME} (?P<year>[0-9]{{4}})"


def utc(seconds: float) -> datetime:
    """The date and time in UTC, of a year with four digits: a file's time may be any."""
    return EPOCH + timedelta(0, min(max(seconds, EARLIEST), LATEST) // 1)


@lru_cache(1024)  # many files have the same modification time
def http_date(seconds: float) -> str:
    """`seconds` since 1970 as an IMF-fixdate: Sun, 06 Nov 1994 08:49:37 GMT."""
    when = utc(seconds)
    return f"{DAYS[when.weekday()]}, {when.day:02} {MONTHS[when.month - 1]} {when.year:04} {when.time()} GMT"


def parse_date(text: str, now: float) -> int | None:
    """The seconds since 1970 of an HTTP date in any of its three formats; None if it is malformed.

    now: seconds since 1970, which decide the century of a two-digit year. The day of the week is not checked.
    """
    match = re.fullmatch(IMF_FIXDATE, text) or re.fullmatch(RFC850_DATE, text) or re.fullmatch(ASCTIME_DATE, text)
    if match is None:
        return None
    month = MONTHS.index(match["month"]) + 1
    year, day, hour, minute, second = (int(match[name]) for name in ("year", "day", "hour", "minute", "second"))
    if len(match["year"]) == 2:  # the latest such year for which the date is no more than 50 years ahead
        today = utc(now)
        last = today.year + 50
        year = last - (last - year) % 100
        if year == last and (month, day, hour, minute, second) > today.timetuple()[1:6]:
            year -= 100
    try:
        since_epoch = datetime(year, month, day, hour, minute) - EPOCH
    except ValueError:  # there is no such day
        return None
    return int(since_epoch.total_seconds()) + second
