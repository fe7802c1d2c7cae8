"""The listings of one document root: in the form that a request prefers, made by the builder's thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeAlias

from rawservers.http.listing import builder, html, json
from rawservers.http.listing.entry import ListingEntry
from rawservers.http.negotiation import prefers_json
from rawservers.http.response import Headers, Response

Form: TypeAlias = Callable[[bytes, Iterable[ListingEntry]], Iterator[bytes]]


class Listings:
    """list_directory: the entries of a directory, by its path. Raises OSError if the templates cannot be read."""

    def __init__(self, list_directory: Callable[[bytes], Iterable[ListingEntry]]) -> None:
        self._list_directory = list_directory
        html.template()  # read it before the process drops its privileges

    def form(self, accept: str) -> tuple[Form, Headers]:
        """What makes a listing, and its header fields, for this Accept field."""
        vary = ("Vary", "Accept")
        if prefers_json(accept):
            return json.render, [("Content-Type", "application/json"), vary]
        policy = ("Content-Security-Policy", html.content_security_policy())
        return html.render, [("Content-Type", "text/html; charset=utf-8"), policy, vary]

    def submit(self, form: Form, path: bytes, headers: Headers) -> Future[Response]:
        """The future of the listing of the directory at `path`, with these header fields. Raises OSError."""

        def build() -> Response:
            entries = builder.throttled(self._list_directory(path))
            return Response(200, headers, builder.joined(builder.throttled(form(path, entries))))

        return builder.default_builder.submit((self, path, form), build)
