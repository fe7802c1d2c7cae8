"""What a server for tests sends: content as responses, and parts of files."""

from __future__ import annotations

import json
import os
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeAlias, cast

from rawservers.http.conditional import etag, fingerprint
from rawservers.http.ranges import partial_content, requested_ranges
from rawservers.http.request import Request
from rawservers.http.response import TEXT, Headers, Response
from rawservers.http.site import media_type

# str: text; bytes; a path: a file or a folder; a function of the Request, which returns any of these, a Response or a Future of
# one; all else: JSON.
Content: TypeAlias = Any


def serialize(content: Content) -> tuple[bytes, str]:
    """The body and the media type of `content`, which is no function and no folder. Raises OSError, TypeError or ValueError."""
    if isinstance(content, str):
        return content.encode(), TEXT
    if isinstance(content, bytes):
        return content, "application/octet-stream"
    if isinstance(content, os.PathLike):
        path = Path(content)
        return path.read_bytes(), media_type(os.fsencode(path))
    return json.dumps(content).encode(), "application/json"


def returned(content: Content, request: Request) -> Response | Future[Response]:
    """What a function of the test has returned, as a response. Raises TypeError if it is None, which is a forgotten return."""
    if isinstance(content, Response | Future):
        return content
    if content is None:
        raise TypeError("the handler has returned None")
    body, kind = serialize(content)
    headers = [("Content-Type", kind)]
    return file_response(body, headers, request) if isinstance(content, os.PathLike) else Response(200, headers, body)


def file_response(body: bytes, headers: Headers, request: Request) -> Response:
    """A response with a file, or with the parts of it that are requested (RFC 9110 §14)."""
    headers = [("Accept-Ranges", "bytes"), *headers]
    tag = next((value for name, value in headers if name.lower() == "etag"), "")
    if not tag:
        tag = etag(fingerprint(body))
        headers.append(("ETag", tag))
    spans = requested_ranges(request, len(body), tag, None, 0.0)
    if spans is None:
        return Response(200, headers, body)
    if not spans:
        return Response(416, [("Content-Range", f"bytes */{len(body)}")])
    return partial_content(headers, body, spans, len(body))


def from_folder(folder: Path, path: str, request: Request) -> Response:
    """The file at `path` below `folder`, or its index.html."""
    try:
        file = (folder / path.lstrip("/")).resolve()
        file = file / "index.html" if file.is_dir() else file
        if file.is_relative_to(folder):
            return cast(Response, returned(file, request))
    except (OSError, ValueError):
        pass
    return Response(404, [("Content-Type", TEXT)], f"there is no file {path}\n".encode())
