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
RUN_SIZE = 512  # entries sorted at once, in about half a millisecond


class ListingEntry:
    """One name in a folder.

    name: its bytes, any but NUL and "/"; is_folder: whether it names a folder; size: the file's, in bytes; modified:
    when it changed, in seconds since 1970.
    """

    __slots__ = ("is_directory", "modified", "name", "size")

    def __init__(self, name: bytes, is_directory: bool, size: int, modified: float) -> None:
        self.name = name
        self.is_directory = is_directory
        self.size = size
        self.modified = modified


# What is kept of an entry: whether it is a file, the key that it is sorted by, its name, size, and time of last change.
SortRow: TypeAlias = tuple[bool, str, bytes, int, float]


def href(name: bytes, is_directory: bool) -> str:
    """The address of an entry, relative to its folder's; safe in an attribute as it stands."""
    return f"./{quote(name, safe='')}{'/' if is_directory else ''}"


def name_text(name: bytes) -> str:
    """The text of a name, exact but for bytes that are not UTF-8."""
    return name.decode("utf-8", "backslashreplace")


def iso_time(seconds: float) -> str:
    """Seconds since 1970 in ISO 8601: 1994-11-06T08:49:37Z."""
    return f"{(EPOCH + timedelta(0, min(max(seconds, EARLIEST), LATEST) // 1)).isoformat()}Z"


# The order


def sorted_runs(entries: Iterable[ListingEntry]) -> Iterator[list[SortRow]]:
    """Lists of at most RUN entries, each of them backwards: `merged` brings them all in order."""
    entries = iter(entries)
    while run := [
        (not entry.is_directory, natural_key(name_text(entry.name)), entry.name, entry.size, entry.modified)
        for entry in islice(entries, RUN_SIZE)
    ]:
        run.sort(reverse=True)
        yield run


def merge_runs(runs: list[list[SortRow]]) -> Iterator[SortRow]:
    """Folders first, each kind as people count and spell: a2 before A10. Empties the runs as it goes."""
    return merge(*map(pop_all, runs))


def pop_all(run: list[SortRow]) -> Iterator[SortRow]:
    while run:
        yield run.pop()


def natural_key(text: str) -> str:
    """A key that takes letters without their case, and digits by the number they make."""
    text = text.casefold()
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text)  # an accent behind its letter: é next to e, not behind z
    return NUMBER.sub(number_key, text)


def number_key(number: re.Match[str]) -> str:
    """A number in front of which its length stands: sorted as text, 12 comes behind 9, and both where a digit does."""
    digits = number[1]
    return f"0{chr(len(digits))}{digits}"
