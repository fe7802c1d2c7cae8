"""The entries of a directory listing, their order, and the parts that HTML and JSON have in common.

A directory may have any number of entries, and the event loop needs the interpreter meanwhile. So no single operation that
holds the interpreter (a sort, a join) handles more than RUN_SIZE entries, and each entry is kept as a tuple of simple values,
which the garbage collector does not track.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import islice
from typing import TypeAlias

from rawservers.http.dates import utc
from rawservers.http.escapes import percent_encode
from rawservers.http.listing.entry import ListingEntry as ListingEntry

NUMBER = re.compile("0*([0-9]+)")
RUN_SIZE = 512  # entries sorted at once, in about half a millisecond


# An entry for sorting: whether it is a file, sort key, name, size, mtime.
SortRow: TypeAlias = tuple[bool, str, bytes, int, float]


def href(name: bytes, is_directory: bool) -> str:
    """The URL of an entry, relative to its directory's, percent-encoded: safe in an HTML attribute.

    It is the name alone, which crawlers look for, with "./" before one with a colon, lest it be parsed as a scheme
    (javascript:x) by who decodes it first.
    """
    return f"{'./' if b':' in name else ''}{percent_encode(name, '')}{'/' if is_directory else ''}"


def name_text(name: bytes) -> str:
    """The text of a name; bytes that are not UTF-8 become \\xff."""
    return name.decode("utf-8", "backslashreplace")


def iso_time(seconds: float) -> str:
    """Seconds since 1970 in ISO 8601: 1994-11-06T08:49:37Z."""
    return "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z".format(*utc(seconds))


# Order


def sorted_runs(entries: Iterable[ListingEntry]) -> Iterator[list[SortRow]]:
    """Lists of at most RUN_SIZE entries, each in descending order, for `merge_runs`."""
    entries = iter(entries)
    while run := [
        (not entry.is_directory, natural_key(name_text(entry.name)), entry.name, entry.size, entry.modified)
        for entry in islice(entries, RUN_SIZE)
    ]:
        run.sort(reverse=True)
        yield run


def merge_runs(runs: list[list[SortRow]]) -> Iterator[SortRow]:
    """All entries in order: directories first, each kind in natural order (a2 before A10). Empties the runs."""
    return merge(*map(pop_all, runs))


def pop_all(run: list[SortRow]) -> Iterator[SortRow]:
    while run:
        yield run.pop()


def natural_key(text: str) -> str:
    """A sort key that ignores case and orders digits by their numeric value."""
    text = text.casefold()
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text)  # accents after their letter: é is sorted next to e, not after z
    return NUMBER.sub(number_key, text)


def number_key(number: re.Match[str]) -> str:
    """A number with its length in front, so that 9 is sorted before 12 as text, and both in the place of digits."""
    digits = number[1]
    return f"0{chr(len(digits))}{digits}"
