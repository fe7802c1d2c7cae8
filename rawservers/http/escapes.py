"""Percent-encoding (RFC 3986 §2.1) and the escapes of HTML.

Not by urllib.parse and html: they load ipaddress, and the names of all characters in HTML, which nothing here needs.
"""

from __future__ import annotations

from functools import cache

UNRESERVED = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})


@cache
def percent_codes(safe: str) -> list[str]:
    """What stands for each octet. safe: characters, besides those of UNRESERVED, that stand for themselves."""
    return [chr(octet) if chr(octet) in UNRESERVED + safe else f"%{octet:02X}" for octet in range(256)]


def percent_encode(octets: bytes, safe: str = "/") -> str:
    """The octets as a part of a URL, percent-encoded but for the characters of UNRESERVED and `safe`."""
    return "".join(map(percent_codes(safe).__getitem__, octets))


def percent_decode(text: str) -> bytes:
    """The octets of a part of a URL. Each "%" is followed by two hexadecimal digits."""
    first, *rest = text.encode().split(b"%")
    return first + b"".join([bytes((int(part[:2], 16),)) + part[2:] for part in rest])


def escape(text: str) -> str:
    """Text for the content of an element, or for an attribute in quotes."""
    return text.translate(HTML)
