"""Directory listings as JSON, for programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rawservers.http.listing.entries import ListingEntry, href, iso_time, merge_runs, name_text, sorted_runs


def render(path: bytes, entries: Iterable[ListingEntry]) -> Iterator[bytes]:
    r"""The listing in fragments, about one for each entry. path: the decoded path in bytes, from "/" to "/".

    It is one object, in ASCII: {"path", "entries": [{"name", "href", "type", "size", "modified"}]}. In names and path, bytes
    that are not UTF-8 become \xff; href is exact, and relative to the directory's URL; type is "directory" or "file"; size is
    in bytes, null for a directory; modified is ISO 8601 in UTC.
    """
    import json  # here, since most listings are in HTML

    yield f'{{"path": {json.dumps(name_text(path))}, "entries": ['.encode()
    between = ""
    for is_file, _, name, size, modified in merge_runs(list(sorted_runs(entries))):
        entry = {
            "name": name_text(name), "href": href(name, not is_file), "type": "file" if is_file else "directory",
            "size": size if is_file else None, "modified": iso_time(modified),
        }  # fmt: skip
        yield f"{between}{json.dumps(entry)}".encode()
        between = ", "
    yield b"]}\n"
