"""A directory entry. What makes listings of them is imported only where there are listings."""

from __future__ import annotations

from typing import NamedTuple


class ListingEntry(NamedTuple):
    """One name in a directory.

    name: its bytes, any but NUL and "/"; is_directory: else it is a file; size: the file's, in bytes; modified: the mtime, in
    seconds since 1970.
    """

    name: bytes
    is_directory: bool
    size: int
    modified: float
