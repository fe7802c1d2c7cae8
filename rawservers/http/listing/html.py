r"""Directory listings as HTML pages, for people.

A file name may contain any bytes: markup, line ends, invalid UTF-8. The page has it twice. The href is the exact name,
percent-encoded. The text is for reading: HTML-escaped, with escapes for characters that are invisible or change the direction
of text: \xff for a byte that is not UTF-8, \x0a for a line end, \u{202e} for a right-to-left override.

All URLs are relative to the directory's own, which ends with a slash, so that the page works behind a proxy that adds a prefix.
They lead to its entries and to its parent, and nowhere else: programs that copy what is below a folder follow the others.
The page loads nothing. Its script only adds buttons for sorting, and a link to "/" for people; its Content-Security-Policy
allows that script alone.
Directories and files are two bodies of one table, so that directories stay first in any order.

The page is page.html, with style.css and script.js. Comments in page.html separate its parts.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import islice

from rawservers.http.escapes import escape
from rawservers.http.listing.entries import ListingEntry, href, iso_time, merge_runs, name_text, sorted_runs
from rawservers.settings import read_data


@cache
def template() -> list[str]:
    """style.css, and the parts of page.html: head, directories, files, end of the table with script.js, end. Raises OSError."""
    return [read("style.css"), *re.split("<!-- .* -->\n", read("page.html").replace("{script}", read("script.js")))]


def read(name: str) -> str:
    return read_data(f"http/listing/{name}")


@cache
def content_security_policy() -> str:
    """The Content-Security-Policy of the pages. Even if a file name were parsed as markup, no script of it would run."""
    from hashlib import sha256  # here, since it loads OpenSSL, and most sites have no listings

    hashes = [
        b2a_base64(sha256(f"\n{read(name)}".encode()).digest(), newline=False).decode() for name in ("style.css", "script.js")
    ]
    return "default-src 'none'; img-src data:; style-src 'sha256-{}'; script-src 'sha256-{}'".format(*hashes)


# Characters without a shape, or not allowed in HTML: controls, line separators, bidirectional marks, zero-width characters
# except the joiners that some scripts and emoji need, and noncharacters.
NONCHARACTERS = "".join([chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF)])
INVISIBLE = (
    "[\0-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufdd0-\ufdef\ufeff\ufff9-\ufffb"
    f"{NONCHARACTERS}]"
)

UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def render(path: bytes, entries: Iterable[ListingEntry]) -> Iterator[bytes]:
    """The page in UTF-8, in fragments, about one for each entry. path: the decoded path in bytes, from "/" to "/"."""
    runs = []
    files = total = 0
    for run in sorted_runs(entries):
        files += sum([row[0] for row in run])
        total += len(run)
        runs.append(run)
    style, head, directories_begin, files_begin, table_end, end = template()
    depth = path.count(b"/") - 1
    top = f' data-top="{"../" * depth}"' if depth > 1 else ""  # one level down, the parent is home
    parent = f'<a href="../"{top}>Parent folder</a> · ' if depth else ""
    counts = parent + summary(total - files, files)
    yield head.format(title=name_html(path), style=style, path=path_html(path), summary=counts).encode()
    if runs:
        rows = (table_row(name, not is_file, size, modified).encode() for is_file, _, name, size, modified in merge_runs(runs))
        yield directories_begin.encode()
        yield from islice(rows, total - files)
        yield files_begin.encode()
        yield from rows
        yield table_end.encode()
    yield end.encode()


# Parts of the page


def table_row(name: bytes, is_directory: bool, size: int, modified: float) -> str:
    when = iso_time(modified)
    size_cell = "" if is_directory else f'<data value="{size}" title="{size:,} bytes">{human_size(size)}</data>'
    return (
        f'<tr><td><a href="{href(name, is_directory)}"><bdi>{name_html(name)}</bdi>{"/" if is_directory else ""}</a>'
        f'<td>{size_cell}<td><time datetime="{when}">{when[:10]} {when[11:16]}</time>\n'
    )


def path_html(path: bytes) -> str:
    """The path, each name of which keeps its own direction of text. No links: crawlers would follow them in circles."""
    return "/" + "".join([f"<bdi>{name_html(name)}</bdi>/" for name in path.split(b"/")[1:-1]])


def summary(folders: int, files: int) -> str:
    counts = [(folders, "folder"), (files, "file")]
    said = [f"{count:,} {noun}{'s' if count > 1 else ''}" for count, noun in counts if count]
    return ", ".join(said) or "This folder is empty."


# One entry


def name_html(name: bytes) -> str:
    """The text of a name as HTML, with escapes for invisible characters."""
    return escape(re.sub(INVISIBLE, escape_character, name_text(name)))


def escape_character(character: re.Match[str]) -> str:
    """Beyond ASCII with braces, since \\x85 is the escape of a byte that is not UTF-8."""
    code = ord(character[0])
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{{{code:x}}}"


def human_size(size: int) -> str:
    """A size in bytes with at most four digits: 0 B, 1.5 KiB, 12 MiB, 1023 GiB."""
    if size < 1024:
        return f"{size} B"
    amount, power = size / 1024, 0
    while amount >= 1023.5 and power < len(UNITS) - 1:  # 1024 after rounding is 1.0 of the next unit
        amount, power = amount / 1024, power + 1
    return f"{amount:.1f} {UNITS[power]}" if amount < 9.95 else f"{amount:.0f} {UNITS[power]}"
