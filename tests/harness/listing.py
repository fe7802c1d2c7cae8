"""Entries of folders, as many as are wanted."""

from __future__ import annotations

from rawservers.http.listing.entries import ListingEntry


def shuffled(count: int) -> list[ListingEntry]:
    """So many, folders among them, in no order."""
    return [
        ListingEntry(b"%s-%d.txt" % (kind, number * 7919 % 10007), kind == b"d", number * 977, number * 1000.5)
        for number in range(count)
        for kind in (b"f", b"d", "é".encode())
    ]
