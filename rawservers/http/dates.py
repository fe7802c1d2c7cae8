"""HTTP dates, formatted and parsed: RFC 9110 §5.6.7.

Not by strftime and strptime, whose names of days and months depend on the locale; nor by datetime, which takes as long to
import as all of this file's neighbours.
"""

from __future__ import annotations

import re
from functools import lru_cache

DAYS_TO_1970 = 719468  # from 1 March 0000
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


# A year begins in March here, so that the leap day is its last; and 400 years, an era of 146,097 days, on 1 March 0000. See
# https://howardhinnant.github.io/date_algorithms.html, "days_from_civil" and "civil_from_days".


def utc(seconds: float) -> tuple[int, int, int, int, int, int]:
    """Year, month, day, hour, minute and second in UTC, for seconds since 1970.

    The year has four digits, whatever the time is: a file's may be any.
    """
    days, second = divmod(int(min(max(seconds, EARLIEST), LATEST) // 1), 86400)
    era, day = divmod(days + DAYS_TO_1970, 146097)
    year = (day - day // 1460 + day // 36524 - day // 146096) // 365  # of the era
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153
    year += 400 * era + (month > 9)
    day -= (153 * month + 2) // 5 - 1
    return year, (month + 2) % 12 + 1, day, second // 3600, second // 60 % 60, second % 60


def since_1970(year: int, month: int, day: int) -> int:
    """The days since 1970 of a date, which need not exist."""
    era, year = divmod(year - (month < 3), 400)
    return 146097 * era + 365 * year + year // 4 - year // 100 + (153 * ((month + 9) % 12) + 2) // 5 + day - 1 - DAYS_TO_1970


@lru_cache(1024)  # many files have the same modification time
def http_date(seconds: float) -> str:
    """`seconds` since 1970 as an IMF-fixdate: Sun, 06 Nov 1994 08:49:37 GMT."""
    year, month, day, hour, minute, second = utc(seconds)
    weekday = DAYS[(since_1970(year, month, day) + 3) % 7]  # the first one was a Thursday
    return f"{weekday}, {day:02} {MONTHS[month - 1]} {year:04} {hour:02}:{minute:02}:{second:02} GMT"


def parse_date(text: str, now: float) -> int | None:
    """The seconds since 1970 of an HTTP date in any of its three formats; None if it is malformed.

    now: seconds since 1970, which decide the century of a two-digit year. The day of the week is not checked.
    """
    if not text:  # there is no such field
        return None
    match = re.fullmatch(IMF_FIXDATE, text) or re.fullmatch(RFC850_DATE, text) or re.fullmatch(ASCTIME_DATE, text)
    if match is None:
        return None
    month = MONTHS.index(match["month"]) + 1
    year, day, hour, minute, second = (int(match[name]) for name in ("year", "day", "hour", "minute", "second"))
    if len(match["year"]) == 2:  # the latest such year for which the date is no more than 50 years ahead
        today = utc(now)
        last = today[0] + 50
        year = last - (last - year) % 100
        if year == last and (month, day, hour, minute, second) > today[1:]:
            year -= 100
    midnight = 86400 * since_1970(year, month, day)
    if not year or utc(midnight)[:3] != (year, month, day):  # there is no such day
        return None
    return midnight + 3600 * hour + 60 * minute + second
