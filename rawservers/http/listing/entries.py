"""The entries of a folder, and their order."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from heapq import merge
from itertools import islice
from typing import TypeAlias
from urllib.parse import quote

NUMBER = re.compile("0*([0-9]+)")
EPOCH = datetime(1970, 1, 1)  # without a zone, whose offset isoformat would write
EARLIEST, LATEST = -62135596800, 253402300799  # seconds: the years 1 to 9999, all that four digits can tell
RUN = 512  # entries sorted at once, in about half a millisecond


class Entry:
    """One name in a folder.

    name: its bytes, any but NUL and "/"; is_folder: whether it names a folder; size: the file's, in bytes; modified:
    when it changed, in seconds since 1970.
    """

    __slots__ = ("is_folder", "modified", "name", "size")

    def __init__(self, name: bytes, is_folder: bool, size: int, modified: float) -> None:
        self.name = name
        self.is_folder = is_folder
        self.size = size
        self.modified = modified


# What is kept of an entry: whether it is a file, the key that it is sorted by, its name, size, and time of last change.
Row: TypeAlias = tuple[bool, str, bytes, int, float]


def href(name: bytes, is_folder: bool) -> str:
    """The address of an entry, relative to its folder's; safe in an attribute as it stands."""
    return f"./{quote(name, safe='')}{'/' if is_folder else ''}"


def readable(name: bytes) -> str:
    """The text of a name, exact but for bytes that are not UTF-8."""
    return name.decode("utf-8", "backslashreplace")


def moment(seconds: float) -> str:
    """Seconds since 1970 in ISO 8601: 1994-11-06T08:49:37Z."""
    return f"{(EPOCH + timedelta(0, min(max(seconds, EARLIEST), LATEST) // 1)).isoformat()}Z"


# The order


def sorted_runs(entries: Iterable[Entry]) -> Iterator[list[Row]]:
    """Lists of at most RUN entries, each of them backwards: `merged` brings them all in order."""
    entries = iter(entries)
    while run := [
        (not entry.is_folder, natural(readable(entry.name)), entry.name, entry.size, entry.modified)
        for entry in islice(entries, RUN)
    ]:
        run.sort(reverse=True)
        yield run


def merged(runs: list[list[Row]]) -> Iterator[Row]:
    """Folders first, each kind as people count and spell: a2 before A10. Empties the runs as it goes."""
    return merge(*map(drained, runs))


def drained(run: list[Row]) -> Iterator[Row]:
    while run:
        yield run.pop()


def natural(text: str) -> str:
    """A key that takes letters without their case, and digits by the number they make."""
    text = text.casefold()
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text)  # an accent behind its letter: é next to e, not behind z
    return NUMBER.sub(counted, text)


def counted(number: re.Match[str]) -> str:
    """A number in front of which its length stands: sorted as text, 12 comes behind 9, and both where a digit does."""
    digits = number[1]
    return f"0{chr(len(digits))}{digits}"
