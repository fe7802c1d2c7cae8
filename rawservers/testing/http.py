"""An HTTP server for a test: what it answers, what it was asked, and how it fails on purpose.

    http_server.serve("/users/1", {"name": "Ada"})
    http_server.expect_request("/a", method="GET").reset().then.delay(0.1).respond_with_json({"ok": 1})
    assert fetch(http_server.url("/a")) == {"ok": 1}
    assert [request.path for request in http_server.requests] == ["/a", "/a"]

Each connection is a `Conversation` with a `ScriptedResponder` in place of a router.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self, TypeAlias, Unpack, cast

from rawservers.core.peer import Peer
from rawservers.core.protocol import Protocol
from rawservers.http.conversation import Conversation, Responder
from rawservers.http.request import HTTPError, Request
from rawservers.http.response import RESERVED_HEADERS, TEXT, PreparedResponse, Response, check_header
from rawservers.http.router import prepare_valid
from rawservers.http.stream import Stream
from rawservers.settings import TLSConfig
from rawservers.testing.content import Content, file_response, from_folder, returned, serialize
from rawservers.testing.fixture import FixtureServer, ServerFactory
from rawservers.testing.matching import PatternFields, RecordedRequest, RequestPattern
from rawservers.testing.replies import Expectation, Reply, at_least
from rawservers.testing.scripted import ONE_ANSWER, Cue, Scripted

MAX_BODY = 1 << 30  # bytes of a request's body
HEAD_END = b"\r\n\r\n"

HeaderArgument: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]
Answer: TypeAlias = Callable[[Request], Response | Future[Response]]


class HTTPReply(Reply):
    """A reply to a request. Its content is a function of the request; `fields` replace header fields of the server's own."""

    __slots__ = ()

    def split(self, data: bytes) -> tuple[bytes, bytes]:
        head, end, body = data.partition(HEAD_END)
        if not end:
            return b"", data  # a simple response, of HTTP/0.9
        replaced = {name.lower() for name in self.fields}
        if "transfer-encoding" in replaced:
            replaced.add("content-length")
        first, *lines = head.decode("latin-1").split("\r\n")
        kept = [line for line in lines if line.partition(":")[0].lower() not in replaced]
        lines = [first, *kept, *(f"{name}: {value}" for name, value in self.fields.items())]
        return "\r\n".join(lines).encode("latin-1") + HEAD_END, body


class RequestExpectation(Expectation):
    """Expected requests, and the replies to them. See `Expectation` for `delay`, `reset`, `then` and the like."""

    make_reply = HTTPReply

    def __init__(self, pattern: RequestPattern, *, is_ordered: bool = False, is_oneshot: bool = False) -> None:
        super().__init__(is_ordered, is_oneshot)
        self.pattern = pattern

    def describe(self) -> str:
        return str(self.pattern)

    def declare_length(self, length: int) -> Self:
        """Send this Content-Length, whatever the length of the body; if the body is shorter, close the connection behind it."""
        self._replies[-1].fields["Content-Length"] = str(at_least(0, length))
        return self

    def respond_with_data(
        self,
        response_data: str | bytes = "",
        status: int = 200,
        headers: HeaderArgument | None = None,
        mimetype: str | None = None,
        content_type: str | None = None,
    ) -> Self:
        """Answer with text, in UTF-8, or bytes. content_type, or mimetype: by default that of plain text."""
        data = response_data.encode() if isinstance(response_data, str) else response_data
        if content_type is None:
            content_type = f"{mimetype}; charset=utf-8" if mimetype and mimetype.startswith("text/") else mimetype
        return self._answer(data, status, headers, content_type, TEXT)

    def respond_with_json(
        self,
        response_json: Any,
        status: int = 200,
        headers: HeaderArgument | None = None,
        content_type: str = "application/json",
    ) -> Self:
        """Answer with a value as JSON. Raises TypeError or ValueError if it is none."""
        return self._answer(json.dumps(response_json).encode(), status, headers, content_type, content_type)

    def respond_with_response(self, response: Response) -> Self:
        """Answer with a response."""
        return self.respond_with_handler(lambda request: response)

    def respond_with_handler(self, func: Callable[[Request], Content]) -> Self:
        """Answer with what `func` returns: a Response, a Future of one, or as for `HTTPServer.serve`.

        It is called in the server's thread, which serves nobody meanwhile. What it raises is a 500, and fails the test.
        """
        return self._complete(lambda request: returned(func(request), request))

    def respond_with_file(self, path: str | os.PathLike[str]) -> Self:
        """Answer with a file, or with the part of it that is requested by Range. Raises OSError if it cannot be read."""
        body, kind = serialize(Path(path))
        return self._complete(lambda request: file_response(body, [("Content-Type", kind)], request))

    def _answer(
        self,
        body: bytes,
        status: int,
        headers: HeaderArgument | None,
        content_type: str | None,
        default_type: str,
        is_file: bool = False,
    ) -> Self:
        """Answer with a response of these parts. Raises ValueError for what cannot be sent."""
        pairs = list(headers.items() if isinstance(headers, Mapping) else headers or ())
        if content_type is not None:
            pairs = [pair for pair in pairs if pair[0].lower() != "content-type"]
        if not any(name.lower() == "content-type" for name, _ in pairs):
            pairs.insert(0, ("Content-Type", content_type or default_type))
        if status not in range(200, 600):
            raise ValueError(f"not the status of a final response: {status!r} (raw() sends any)")
        for name, value in pairs:
            check_header(name, value)
        replaced = {name.title(): value for name, value in pairs if name.lower() in RESERVED_HEADERS}
        response = Response(status, [pair for pair in pairs if pair[0].lower() not in RESERVED_HEADERS], body)
        if is_file and status == 200:
            self._complete(lambda request: file_response(body, response.headers, request))
        else:
            self._complete(lambda request: response)
        self._replies[-1].fields |= replaced
        return self


class HTTPServer(FixtureServer[RequestExpectation]):
    """An HTTP server for a test: the fixture `http_server`.

    requests: what it was asked, in order. A request is there before its answer is sent.
    """

    service_name = "http"

    _is_short: bool

    def __init__(self, host: str = "127.0.0.1", *, port: int = 0, strict: bool = True, tls: TLSConfig | bool = False) -> None:
        super().__init__(host, port=port, strict=strict, tls=tls)
        self._forget()

    def url(self, path: str = "/") -> str:
        """The URL of `path`, which begins with a slash."""
        return self._server.http_url(path)

    @property
    def requests(self) -> list[RecordedRequest]:
        with self._lock:
            return list(self._requests)

    # Expectations

    def serve(
        self,
        path: str | re.Pattern[str],
        content: Content = b"",
        *,
        status: int = 200,
        headers: HeaderArgument | None = None,
        method: str | None = None,
    ) -> RequestExpectation:
        """Answer requests for `path` with `content`, any number of them.

        content: text, bytes, the Path of a file, or of a folder, which is served below `path`; a function of the Request; or a
        value, which is sent as JSON. Parts of files are served, too (Range). method: by default GET and HEAD, or any if
        `content` is a function. Requests for anything else are answered by 404 as long as there are no other expectations.
        Raises ValueError for what cannot be meant.
        """
        methods = (method,) if method else None if callable(content) else ("GET", "HEAD")
        is_path = isinstance(content, os.PathLike)
        is_folder = is_path and Path(content).is_dir()
        if (is_folder or callable(content)) and (status != 200 or headers):
            raise ValueError(f"status and headers are those of {'the files' if is_folder else 'what the function returns'}")
        if is_folder:
            if not isinstance(path, str):
                raise ValueError("a folder is served at a path, not a pattern")
            folder, prefix = Path(content).resolve(), path.rstrip("/")
            expectation = RequestExpectation(RequestPattern(re.compile(f"{re.escape(prefix)}(?:/|$)"), methods))
            expectation.respond_with_handler(lambda request: from_folder(folder, request.path[len(prefix) :], request))
        elif callable(content):
            expectation = RequestExpectation(RequestPattern(path, methods)).respond_with_handler(content)
        else:
            body, kind = serialize(content)
            expectation = RequestExpectation(RequestPattern(path, methods))
            expectation._answer(body, status, headers, None, kind, is_path)
        return self._expect(expectation, is_short=True)

    def expect_request(
        self, path: str | re.Pattern[str], method: str | None = None, **fields: Unpack[PatternFields]
    ) -> RequestExpectation:
        """Expect any number of these requests. The first expectation that matches is used.

        path: the decoded path, a regular expression that matches at its beginning, or "" for any; method: None: any. query=,
        headers=, data= and json= are those of `RequestPattern`. Raises ValueError for what no request could match.
        """
        return self._expect(RequestExpectation(make_pattern(path, method, fields)))

    def expect_ordered_request(
        self, path: str | re.Pattern[str], method: str | None = None, **fields: Unpack[PatternFields]
    ) -> RequestExpectation:
        """Expect such a request once, after those that were ordered before, and before any other. After a request that is out
        of order nothing is expected any more."""
        return self._expect(RequestExpectation(make_pattern(path, method, fields), is_ordered=True))

    def expect_oneshot_request(
        self, path: str | re.Pattern[str], method: str | None = None, **fields: Unpack[PatternFields]
    ) -> RequestExpectation:
        """Expect such a request once; with a sequence of replies, once for each. These come before `expect_request`."""
        return self._expect(RequestExpectation(make_pattern(path, method, fields), is_oneshot=True))

    def _expect(self, expectation: RequestExpectation, is_short: bool = False) -> RequestExpectation:
        with self._lock:
            self._expectations.append(expectation)
            self._is_short = self._is_short and is_short
        return expectation

    # For FixtureServer

    def _forget(self) -> None:
        self._requests: list[RecordedRequest] = []
        self._expectations = []
        self._is_short = True  # whether all expectations are those of `serve`
        self._out_of_order = False  # such a request has come, and all that follow fail

    def _converse(self, peer: Peer) -> Protocol:
        cue = Cue()
        return Scripted(peer, Conversation(peer, ScriptedResponder(self, cue, peer)), cue)

    # In the server's thread

    def _find(self, request: RecordedRequest) -> RequestExpectation | str:
        """The expectation that `request` is for, or a message about there being none."""
        if self._out_of_order:
            return f"{request} came after a request that was out of order"
        unused = [each for each in self._expectations if each.is_missing or not (each.is_ordered or each.is_oneshot)]
        ordered = [each for each in unused if each.is_ordered]
        if ordered:
            if differences := ordered[0].pattern.differences(request):
                self._out_of_order = True
                return f"{request} was not expected; next in order: {ordered[0].pattern} ({'; '.join(differences)})"
            return ordered[0]
        for each in sorted(unused, key=lambda each: not each.is_oneshot):
            if not each.pattern.differences(request):
                return each
        if not self._expectations:
            return f"{request} was not expected; nothing was"
        nearest = max(self._expectations, key=lambda each: each.pattern.likeness(request)).pattern
        why = "; ".join(nearest.differences(request)) or "used up"
        return f"{request} was not expected; nearest: {nearest} ({why})"

    def _take_reply(self, request: RecordedRequest) -> HTTPReply:
        """Record `request`; the reply to it."""
        with self._lock:
            self._requests.append(request)
            found = self._find(request)
            if not isinstance(found, str):
                reply = cast(HTTPReply, found.take_reply())
                if reply.is_complete:
                    return reply
                found = f"{request} was expected, but not how to respond"
            return self._refuse(found, 404 if self._expectations and self._is_short else 500)

    def _refuse(self, message: str, status: int) -> HTTPReply:
        """A reply with `message`, which is a failure of the test."""
        with self._lock:
            self._failures.append(message)
        reply = HTTPReply()
        reply.content = lambda request: Response(status, [("Content-Type", TEXT)], f"{message}\n".encode())
        return reply


HTTPServerFactory: TypeAlias = ServerFactory[HTTPServer]


class ScriptedResponder(Responder):
    """The Responder of one connection: it asks the server of the test for replies, and leaves their scripts in `cue`."""

    def __init__(self, server: HTTPServer, cue: Cue, peer: Peer) -> None:
        super().__init__(lambda head, recheck: None)
        self._server, self._cue, self._address = server, cue, peer.address
        self._reply = HTTPReply()  # to the present request

    def max_body(self, request: Request) -> int:
        return MAX_BODY

    def respond(self, request: Request, future: Future[Response] | None = None) -> PreparedResponse | Future[Response]:
        request.steps = ONE_ANSWER
        if future is None:
            self._reply = self._server._take_reply(RecordedRequest.make(request, self._address))
        try:
            response = returned(future.result(timeout=0), request) if future else self._ask(request)
            return response if isinstance(response, Future) else self._prepare(response, request)
        except BaseException as error:
            if future is None and not isinstance(error, Exception):
                raise
            message = self._server._record_error(error, f"the handler for {request.method} {request.path}")
            return self._prepare(Response(500, [("Content-Type", TEXT)], f"{message}\n".encode()), request)

    def respond_to_error(self, failure: HTTPError, request: Request) -> PreparedResponse:
        message = f"a malformed request came: {failure.message} ({request.line!r})"
        self._reply = self._server._refuse(message, failure.status)
        return self._prepare(cast(Response, self._ask(request)), request)

    def _ask(self, request: Request) -> Response | Future[Response]:
        """The content of the reply."""
        content = cast("Answer | None", self._reply.content)
        return content(request) if content else Response(204)

    def _prepare(self, response: Response, request: Request) -> PreparedResponse:
        """The response to send, with its script in the cue if it needs one. Raises as `prepare_valid` does."""
        reply = self._reply
        if isinstance(response.body, Stream) and (reply.size or reply.cut is not None or "Content-Length" in reply.fields):
            raise ValueError("a stream cannot be cut, trickled or given a length, since it is not sent in one call")
        if reply.fields.get("Connection", "").lower() == "close" or is_short(reply, response):
            request.keep_alive = False
        prepared = prepare_valid(response, request)
        if reply.needs_script():
            self._cue.script = reply.steps
        return prepared


def is_short(reply: HTTPReply, response: Response) -> bool:
    """Whether the body is shorter than the Content-Length that is sent with it."""
    declared = reply.fields.get("Content-Length", "")
    return declared.isdigit() and isinstance(response.body, bytes) and len(response.body) < int(declared)


def make_pattern(path: str | re.Pattern[str], method: str | None, fields: PatternFields) -> RequestPattern:
    """The pattern of these arguments of `expect_request`. Raises ValueError or TypeError."""
    known = list(PatternFields.__annotations__)
    for name in fields:
        if name not in known:
            raise TypeError(f"unknown argument {name!r} (known: {', '.join(known)})")
    return RequestPattern(path, (method,) if method else None, **fields)
