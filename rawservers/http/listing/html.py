r"""A folder's content, as a page for people or as JSON for programs.

A name is whatever bytes the file system has: markup, line ends, broken UTF-8. It is told in two ways. Its href is
made from the raw bytes, percent-encoded, and always leads back to exactly that name; it begins with "./", so that no
name can pass for a scheme (javascript:x) or a host. Its text is for reading: HTML-escaped, and what cannot be seen,
or would turn the line around, is spelled out: \xff for a byte that is not UTF-8, \x0a for a line end, \u{202e} for a
right-to-left override.

All addresses are relative to the folder's own, which ends with a slash: the page holds behind a proxy that serves the
site under a prefix. It loads nothing, and is complete without its script, which only adds buttons that sort; `policy`
lets a browser run that script alone. Folders and files are two bodies of one table, so that folders stay first
however each is sorted.

A folder may hold any number of entries, and other threads have work to do as well. So nothing here that holds the interpreter
for as long as it takes (a sort, a join, the encoding of JSON) is ever done with more than RUN entries at once, and what is
kept of each is a tuple, which the garbage collector soon forgets.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from functools import cache
from html import escape
from pathlib import Path
from typing import NamedTuple

from rawservers.http.listing.entries import ListingEntry, href, iso_time, merge_runs, name_text, sorted_runs


class Template(NamedTuple):
    """style.css, and the parts of page.html in the order in which they are sent: script.js is in the last but one."""

    style: str
    head: str
    folders: bytes
    files: bytes
    table_end: bytes
    end: bytes


@cache
def template() -> Template:
    """The page without its content, from the files beside this one. OSError if they cannot be read."""
    head, *parts = re.split("<!-- .* -->\n", read("page.html").replace("{script}", read("script.js")))
    return Template(read("style.css"), head, *(part.encode() for part in parts))


def read(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8")


@cache
def content_security_policy() -> str:
    """A Content-Security-Policy to send with the page: should a name ever pass for markup, it would still be inert."""
    style, script = csp_hash("\n" + read("style.css")), csp_hash("\n" + read("script.js"))
    return f"default-src 'none'; img-src data:; style-src {style}; script-src {script}"


def csp_hash(source: str) -> str:
    """What a Content-Security-Policy calls an inline script or style that may be used."""
    from hashlib import sha256  # here, since it loads OpenSSL, and most servers list nothing

    return f"'sha256-{b64encode(sha256(source.encode()).digest()).decode()}'"


# What has no shape of its own, or is not allowed in HTML: controls, line separators, bidirectional marks, zero widths
# but the joiners that some scripts and emoji need, and the code points that are no characters.
INVISIBLE = (
    *(*range(0x20), *range(0x7F, 0xA0), 0xAD, 0x61C, 0x180E, 0x200B, 0x200E, 0x200F, *range(0x2028, 0x202F)),
    *(*range(0x2060, 0x2070), *range(0xFDD0, 0xFDF0), 0xFEFF, *range(0xFFF9, 0xFFFC)),
    *(plane << 16 | low for plane in range(17) for low in (0xFFFE, 0xFFFF)),
)
# \x85 would be a byte that is not UTF-8, so braces tell the character from it.
ESCAPES = {code: f"\\x{code:02x}" if code < 0x80 else f"\\u{{{code:x}}}" for code in INVISIBLE}

UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def render(path: bytes, entries: Iterable[ListingEntry]) -> Iterator[bytes]:
    """The page in fragments, about one for each entry: UTF-8, for the folder at `path`, its decoded bytes from "/" to "/"."""
    runs = []
    files = total = 0
    for run in sorted_runs(entries):
        files += sum([row[0] for row in run])
        total += len(run)
        runs.append(run)
    page = template()
    yield page.head.format(
        title=escape_name(name_text(path)),
        style=page.style,
        breadcrumbs=breadcrumbs(path),
        summary=('<a href="../">Parent folder</a> · ' if path != b"/" else "") + summary(total - files, files),
    ).encode()
    if total:
        yield page.folders
        in_files = False
        for is_file, _, name, size, modified in merge_runs(runs):
            if is_file and not in_files:
                in_files = True
                yield page.files
            yield table_row(name, not is_file, size, modified).encode()
        if not in_files:
            yield page.files
        yield page.table_end
    yield page.end


# Parts of the page


def table_row(name: bytes, is_directory: bool, size: int, modified: float) -> str:
    text, when = escape_name(name_text(name)), iso_time(modified)
    size_cell = "" if is_directory else f'<data value="{size}" title="{size:,} bytes">{human_size(size)}</data>'
    return (
        f'<tr><td><a href="{href(name, is_directory)}"><bdi>{text}</bdi>{"/" if is_directory else ""}</a>'
        f'<td>{size_cell}<td><time datetime="{when}">{when[:10]} {when[11:16]}</time>\n'
    )


def breadcrumbs(path: bytes) -> str:
    """The folder's ancestors, each a link, and the folder itself."""
    *ancestors, current = ["/", *(f"<bdi>{escape_name(part)}</bdi>/" for part in name_text(path).split("/")[1:-1])]
    links = [f'<a href="{"../" * (len(ancestors) - depth)}">{name}</a>' for depth, name in enumerate(ancestors)]
    return "".join([*links, f'<span aria-current="page">{current}</span>'])


def summary(folders: int, files: int) -> str:
    if not folders + files:
        return "This folder is empty."
    counts = ((folders, "folder"), (files, "file"))
    return ", ".join([f"{count:,} {noun}{'s' if count > 1 else ''}" for count, noun in counts if count])


# One entry


def escape_name(text: str) -> str:
    """A name as markup, with every character to be seen."""
    return escape(text if text.isprintable() else text.translate(ESCAPES))


def human_size(size: int) -> str:
    """A count of bytes in at most four digits: 0 B, 1.5 KiB, 12 MiB, 1023 GiB."""
    if size < 1024:
        return f"{size} B"
    amount, power = size / 1024, 0
    while amount >= 1023.5 and power < len(UNITS) - 1:  # what would be written as 1024 is 1.0 of the next unit
        amount, power = amount / 1024, power + 1
    return f"{amount:.1f} {UNITS[power]}" if amount < 9.95 else f"{amount:.0f} {UNITS[power]}"
