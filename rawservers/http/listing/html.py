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

import json
import re
import unicodedata
from base64 import b64encode
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from functools import cache
from heapq import merge
from html import escape
from itertools import islice
from typing import TypeAlias
from urllib.parse import quote

STYLE = r"""
:root { color-scheme: light dark; --faint: color-mix(in srgb, currentColor 9%, transparent) }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }
h1 { font-size: 1.35rem; font-weight: 600; margin: 0 }
h1, td { overflow-wrap: anywhere; white-space: pre-wrap }
h1 a:first-of-type { margin-inline: -.3em; padding-inline: .3em }
a { text-decoration: none }
a:link { color: light-dark(#0b57d0, #a8c7fa) }
a:hover, a:focus-visible { text-decoration: underline }
small, p, th, td + td { color: color-mix(in srgb, currentColor 72%, transparent) }
p { margin: .25rem 0 1rem }
table { border-collapse: collapse; width: 100% }
th { background: Canvas; font-weight: 500; position: sticky; text-align: start; top: 0 }
th, td { border-bottom: 1px solid var(--faint); padding: .35rem .5rem; vertical-align: baseline }
th + th, td + td { font-variant-numeric: tabular-nums; text-align: end; white-space: nowrap; width: 1% }
tbody tr:hover { background: var(--faint) }
button { all: unset; cursor: pointer }
th + th button { display: inline-flex; flex-direction: row-reverse }
button:focus-visible { outline: 2px solid }
button::after { content: "\2191" / ""; padding-inline: .3em; visibility: hidden }
[aria-sort] button::after { visibility: visible }
[aria-sort=descending] button::after { content: "\2193" / "" }
td a { background: no-repeat 0 .2em / 1.1em; display: block; padding-inline-start: 1.7em }
.folders a { background-image: url("data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E\
%3Cpath fill='%23d9a13b' d='M1 3l1-1h4l2 2h6l1 1v8l-1 1H2l-1-1z'/%3E%3C/svg%3E") }
.files a { background-image: url("data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E\
%3Cpath fill='none' stroke='%238a8f98' d='M3.5 1.5h6l3 3v10h-9zm6 0v3h3'/%3E%3C/svg%3E") }
@media (max-width: 40rem) {
  body { margin: 1rem auto }
  tr { border-bottom: 1px solid var(--faint); display: flex; flex-wrap: wrap; gap: 0 1.25rem; padding: .4rem 0 }
  th, td { border: 0; padding: 0 }
  th + th, td + td { width: auto }
  td:first-child { flex: 0 0 100% }
  td + td { font-size: .875rem; order: 1 }
  td:last-child { order: 0; padding-inline-start: 1.95em }
}
"""

SCRIPT = """
const table = document.querySelector("table"), heads = [...table.tHead.rows[0].cells]
const order = new Map([...table.querySelectorAll("tbody tr")].map((row, place) => [row, place]))
const keys = [
  row => order.get(row),
  row => Number(row.querySelector("data")?.value ?? 0),
  row => Date.parse(row.querySelector("time").dateTime),
]
heads.forEach((head, column) => {
  const button = document.createElement("button"), key = keys[column]
  button.append(...head.childNodes)
  head.append(button)
  button.onclick = () => {
    const sign = head.getAttribute("aria-sort") == "ascending" ? -1 : 1
    for (const other of heads) other.removeAttribute("aria-sort")
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending")
    const compare = (a, b) => sign * (key(a) - key(b)) || order.get(a) - order.get(b)
    for (const body of table.tBodies) for (const row of [...body.rows].sort(compare)) body.append(row)
  }
})
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Index of {title}</title>
<style>{style}</style>
<h1><small>Index of</small> {crumbs}</h1>
<p>{summary}</p>
"""
FOLDERS = b"""<table>
<thead><tr><th aria-sort="ascending">Name<th>Size<th>Modified (UTC)
<tbody class="folders">
"""
FILES = b"""<tbody class="files">
"""
TABLE_END = f"""</table>
<script>{SCRIPT}</script>
""".encode()
PAGE_END = b"""</html>
"""


@cache
def policy() -> str:
    """A Content-Security-Policy to send with the page: should a name ever pass for markup, it would still be inert."""
    return f"default-src 'none'; img-src data:; style-src {trusted(STYLE)}; script-src {trusted(SCRIPT)}"


def trusted(source: str) -> str:
    """What a Content-Security-Policy calls an inline script or style that may be used."""
    from hashlib import sha256  # here, since it loads OpenSSL, and most servers list nothing

    return f"'sha256-{b64encode(sha256(source.encode()).digest()).decode()}'"


# What has no shape of its own, or is not allowed in HTML: controls, line separators, bidirectional marks, zero widths
# but the joiners that some scripts and emoji need, and the code points that are no characters.
UNSEEN = (
    *(*range(0x20), *range(0x7F, 0xA0), 0xAD, 0x61C, 0x180E, 0x200B, 0x200E, 0x200F, *range(0x2028, 0x202F)),
    *(*range(0x2060, 0x2070), *range(0xFDD0, 0xFDF0), 0xFEFF, *range(0xFFF9, 0xFFFC)),
    *(plane << 16 | low for plane in range(17) for low in (0xFFFE, 0xFFFF)),
)
# \x85 would be a byte that is not UTF-8, so braces tell the character from it.
SPELLED_OUT = {code: f"\\x{code:02x}" if code < 0x80 else f"\\u{{{code:x}}}" for code in UNSEEN}
NUMBER = re.compile("0*([0-9]+)")

UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
EPOCH = datetime(1970, 1, 1)  # without a zone, whose offset isoformat would write
EARLIEST, LATEST = -62135596800, 253402300799  # seconds: the years 1 to 9999, all that four digits can tell

RUN = 512  # entries sorted at once, in about half a millisecond

# What is looked at of an Accept or Accept-Encoding field. A browser sends a dozen members, in less than 200 characters.
MEMBERS = 64
CHARACTERS = 2048

QUOTED = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
QUALITY = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")


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


# The two forms


def as_html(path: bytes, entries: Iterable[Entry]) -> bytes:
    """The page, in UTF-8, for the folder at `path`: its decoded bytes from "/" to "/"."""
    return b"".join(html(path, entries))


def as_json(path: bytes, entries: Iterable[Entry]) -> bytes:
    """The same folder as JSON: see `json_text`."""
    return b"".join(json_text(path, entries))


def html(path: bytes, entries: Iterable[Entry]) -> Iterator[bytes]:
    """The page in fragments, about one for each entry."""
    runs = []
    files = total = 0
    for run in sorted_runs(entries):
        files += sum([row[0] for row in run])
        total += len(run)
        runs.append(run)
    yield PAGE.format(
        title=visible(readable(path)),
        style=STYLE,
        crumbs=crumbs(path),
        summary=('<a href="../">Parent folder</a> · ' if path != b"/" else "") + summary(total - files, files),
    ).encode()
    if total:
        yield FOLDERS
        among_files = False
        for is_file, _, name, size, modified in merged(runs):
            if is_file and not among_files:
                among_files = True
                yield FILES
            yield row(name, not is_file, size, modified).encode()
        if not among_files:
            yield FILES
        yield TABLE_END
    yield PAGE_END


def json_text(path: bytes, entries: Iterable[Entry]) -> Iterator[bytes]:
    r"""The same folder as an object in ASCII: {"path", "entries": [{"name", "href", "type", "size", "modified"}]}.

    In fragments, about one for each entry. A name, and the path, is its text, with \xff in place of a byte that is not
    UTF-8; href is exact, and relative to the folder's address. type is "directory" or "file"; size is in bytes, null for
    a directory; modified is ISO 8601 in UTC.
    """
    yield f'{{"path": {json.dumps(readable(path))}, "entries": ['.encode()
    between = ""
    for is_file, _, name, size, modified in merged(list(sorted_runs(entries))):
        told = {
            "name": readable(name),
            "href": href(name, not is_file),
            "type": "file" if is_file else "directory",
            "size": size if is_file else None,
            "modified": moment(modified),
        }
        yield f"{between}{json.dumps(told)}".encode()
        between = ", "
    yield b"]}\n"


def prefers_json(accept: str) -> bool:
    """Whether the Accept field `accept` rates application/json above text/html (RFC 9110 §12.5.1).

    Of two that weigh the same it prefers the one that it names: programs say "application/json, */*", and mean it.
    """
    ranges = media_ranges(accept)
    as_json, as_html = quality("application/json", ranges), quality("text/html", ranges)
    return as_json > as_html or (as_json == as_html > 0 and "application/json" in ranges and "text/html" not in ranges)


# Parts of the page


def row(name: bytes, is_folder: bool, size: int, modified: float) -> str:
    when = moment(modified)
    told = "" if is_folder else f'<data value="{size}" title="{size:,} bytes">{magnitude(size)}</data>'
    return (
        f'<tr><td><a href="{href(name, is_folder)}"><bdi>{visible(readable(name))}</bdi>{"/" if is_folder else ""}</a>'
        f'<td>{told}<td><time datetime="{when}">{when[:10]} {when[11:16]}</time>\n'
    )


def crumbs(path: bytes) -> str:
    """The folder's ancestors, each a link, and the folder itself."""
    *ancestors, current = ["/", *(f"<bdi>{visible(part)}</bdi>/" for part in readable(path).split("/")[1:-1])]
    links = [f'<a href="{"../" * (len(ancestors) - depth)}">{name}</a>' for depth, name in enumerate(ancestors)]
    return "".join([*links, f'<span aria-current="page">{current}</span>'])


def summary(folders: int, files: int) -> str:
    if not folders + files:
        return "This folder is empty."
    counts = ((folders, "folder"), (files, "file"))
    return ", ".join([f"{count:,} {noun}{'s' if count > 1 else ''}" for count, noun in counts if count])


# One entry


def href(name: bytes, is_folder: bool) -> str:
    """The address of an entry, relative to its folder's; safe in an attribute as it stands."""
    return f"./{quote(name, safe='')}{'/' if is_folder else ''}"


def readable(name: bytes) -> str:
    """The text of a name, exact but for bytes that are not UTF-8."""
    return name.decode("utf-8", "backslashreplace")


def visible(text: str) -> str:
    """A name as markup, with every character to be seen."""
    return escape(text if text.isprintable() else text.translate(SPELLED_OUT))


def magnitude(size: int) -> str:
    """A count of bytes in at most four digits: 0 B, 1.5 KiB, 12 MiB, 1023 GiB."""
    if size < 1024:
        return f"{size} B"
    amount, power = size / 1024, 0
    while amount >= 1023.5 and power < len(UNITS) - 1:  # what would be written as 1024 is 1.0 of the next unit
        amount, power = amount / 1024, power + 1
    return f"{amount:.1f} {UNITS[power]}" if amount < 9.95 else f"{amount:.0f} {UNITS[power]}"


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


# The choice of a form


def media_ranges(accept: str) -> dict[str, float]:
    """The media ranges of an Accept field and their weights; those with a malformed weight are left out.

    A parameter that is no weight asks for a variant (charset, level), perhaps ours; the plain range, if given, decides.
    What lies behind the first MEMBERS of them, or does not end within the first CHARACTERS, is ignored.
    """
    ranges: dict[str, float] = {}
    members = QUOTED.sub("", accept[:CHARACTERS]).lower().split(",", MEMBERS)
    if len(accept) > CHARACTERS or len(members) > MEMBERS:
        del members[-1]
    for element in members:
        kind, *parameters = [part.strip(" \t") for part in element.split(";")]
        weights = [parameter[2:] for parameter in parameters if parameter.startswith("q=")]
        if any(not QUALITY.fullmatch(weight) for weight in weights):
            continue
        weight = float(weights[0]) if weights else 1.0
        if len(parameters) == len(weights):
            ranges[kind] = weight
        else:
            ranges.setdefault(kind, weight)
    return ranges


def quality(kind: str, ranges: dict[str, float]) -> float:
    """The weight of a media type: that of the most specific range that holds it, 0 if none does."""
    for candidate in (kind, f"{kind.partition('/')[0]}/*", "*/*"):
        if candidate in ranges:
            return ranges[candidate]
    return 0.0
