"""The path and the query of a request target: RFC 9112 §3.2, RFC 3986 §3.3 and §5.2.4.

A path is normalised once, before anything looks at it: handlers, redirects, header fields of a site, hidden names, files and
the response cache all see the same path. Dot segments and empty ones are removed, then it is decoded, once. What would give
another path in the other order, in which some proxies work, is refused, lest their rules be evaded.
"""

from __future__ import annotations

import re

from rawservers.http.escapes import percent_decode
from rawservers.http.request import HTTPError, Request, require, valid_host

ABSOLUTE_FORM = r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?]*)(.*)"
BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")
REMOVABLE = re.compile(r"/(?:/|\.\.?(?:/|\Z))")  # an empty segment or a dot segment. One slash at the end is none
ENCODED_DOTS = r"(?i)(?!/\.\.?(?:/|\Z))(?:/|%2f)(?:\.|%2e){1,2}(?:/|%2f|\Z)"  # a dot segment only once decoded
SLASHES = re.compile(rb"/{2,}")


def decode_target(request: Request, encoded_slash: bool = False) -> None:
    """Set `path_bytes` (RFC 1945 §5.1.2) and `query` of `request`. Raises HTTPError if its target is malformed.

    The host of a target in absolute form replaces that of the Host field (RFC 9112 §3.2.2). encoded_slash: whether %2F is a
    slash; otherwise a path with one is 404.
    """
    target = request.target
    if request.method == "CONNECT" or (request.method == "OPTIONS" and target == "*"):
        return  # authority-form and asterisk-form: not a path
    if not target.startswith("/"):
        match = re.fullmatch(ABSOLUTE_FORM, target)
        if match is None:
            raise HTTPError(400, "The request target is malformed.")
        require(match[1].lower() == "http", 400, f"This server does not serve {match[1]} URLs.")
        request.host, target = valid_host(match[2]), f"/{match[3].removeprefix('/')}"
    require("#" not in target, 400, "The request target contains a fragment (#).")
    path, mark, query = target.partition("?")
    request.query = mark + query
    request.path_bytes = decode_path(path, encoded_slash)


def normalize_path(path: str) -> str:
    """`path` without its dot segments and empty ones (RFC 3986 §5.2.4). Raises HTTPError.

    A final one of them leaves a slash. An empty segment is removed before the ".." behind it is looked at: /a//../b is /b.
    """
    if not REMOVABLE.search(path):
        return path
    segments = path.split("/")
    kept = [""]
    for segment in segments:
        if segment == "..":
            require(len(kept) > 1, 400, "The path leads above the root.")
            require("%2f" not in kept.pop().lower(), 400, "The path has an encoded slash (%2F) in a segment that is removed.")
        elif segment not in {"", "."}:
            kept.append(segment)
    if len(kept) == 1 or segments[-1] in {"", ".", ".."}:
        kept.append("")
    return "/".join(kept)


def decode_path(path: str, encoded_slash: bool) -> bytes:
    """`path`, normalised, then percent-decoded. Raises HTTPError."""
    if "%" not in path:
        return normalize_path(path).encode()
    require(not BAD_ESCAPE.search(path), 400, "The path contains a percent sign without two hexadecimal digits after it.")
    require("%00" not in path, 400, "The path contains a NUL byte.")
    has_slash = "%2f" in path.lower()
    text = "The path contains an encoded slash (%2F), and no file name contains a slash."
    require(encoded_slash or not has_slash, 404, text)
    require(not re.search(ENCODED_DOTS, path), 400, "The path contains a dot segment only once it is decoded.")
    decoded = percent_decode(normalize_path(path))
    return SLASHES.sub(b"/", decoded) if has_slash else decoded


def slash_location(request: Request) -> str:
    """The Location of a directory whose path lacks its final slash, relative to the target: "dir/?query" (RFC 9110 §10.2.2).

    It is made of the target as it was sent, so it holds behind a proxy that adds a prefix, and leads to no other host. With
    "./" before it, a name with a colon is no scheme; a backslash, which browsers take for a slash, is encoded.
    """
    segment = request.target.partition("?")[0].rpartition("/")[2].replace("\\", "%5C")
    return f"{'./' if ':' in segment else ''}{segment}/{request.query}"
