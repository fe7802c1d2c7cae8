"""The welcome page as HTML: this connection, the bytes of the request, the sockets, the commands to talk to the listeners.

It is one document, with its style and script in it, so that it is complete after one exchange. Its Content-Security-Policy
allows these two by their hashes, and no others. What comes from a request or a configuration is escaped. Without the script it
is the same page, of the moment in which it was made.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from base64 import b64encode
from collections.abc import Iterable, Mapping
from functools import cache

from rawservers.core.peer import Address
from rawservers.core.redaction import FIELD_NAME, MARK, SECRET_NAME
from rawservers.core.redaction import escape as escape_bytes
from rawservers.http.escapes import escape, percent_encode
from rawservers.settings import ListenConfig, read_data
from rawservers.welcome.table import Row, Table
from rawservers.welcome.visitor import EVERYWHERE, Visitor

SLOT = re.compile(r"<!-- ([a-z-]+) -->")  # in the template
MAX_SHOWN = 4096  # bytes of the request
MAX_LISTENERS = 20  # that are named
COMMANDS = {  # by service: what comes before the program, the program, and what happens
    "http": ("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | ", "nc", "shows this page as the bytes that it is."),
    "telnet": ("", "telnet", "and type: each line comes back."),
}
TLS_COMMAND = "openssl s_client -quiet"
HIDDEN = "(not shown: the request may have come through a proxy, which may have added to it)"


class Page:
    """The page of a server, as it is made for each visitor. listeners: with their bound addresses. Raises OSError."""

    def __init__(self, listeners: Iterable[ListenConfig]) -> None:
        self._listeners = [each for each in listeners if each.service in COMMANDS][:MAX_LISTENERS]
        self.has_telnet = any(each.service == "telnet" for each in self._listeners)
        self._template = template() if self.has_telnet else re.sub(r"(?s)<section id=echo.*?</section>\n", "", template())

    def render(self, head: bytes, visitor: Visitor, table: Table | None) -> bytes:
        """The page for this visitor, whose request has this head. table: None if there is none."""
        own = table or Table(visitor.peer, visitor.local, "-", "-", [], [], [], ["The table could not be made."])
        commands = [command(each, visitor) for each in self._listeners]
        slots = {
            "peer": end_html("peer", own.peer),
            "local": end_html("local", own.local),
            "received": escape(own.received),
            "sent": escape(own.sent),
            "request": request_html(head) if visitor.peer else HIDDEN,
            "commands": "\n".join(f"<li>{each}" for each in commands if each),
            "program": escape(program()),
            "notes": "\n".join(f"<li>{escape(note)}" for note in own.notes),
        }
        slots |= {name: rows_html(getattr(own, name.replace("-", "_"))) for name in ("listening", "connected", "time-wait")}
        return filled(self._template, slots).encode()


@cache
def read(name: str) -> str:
    return read_data(f"welcome/{name}")


@cache
def template() -> str:
    """The page with its style, script and icon. Raises OSError."""
    icon = percent_encode(read("favicon.svg").strip().encode(), " =:/'")
    return filled(read("index.html"), {"style": read("style.css"), "script": read("script.js"), "icon": icon})


@cache
def content_security_policy() -> str:
    """The Content-Security-Policy of the page."""
    from hashlib import sha256  # here, since it loads OpenSSL, and most servers have another page

    hashes = [b64encode(sha256(f"\n{read(name)}".encode()).digest()).decode() for name in ("style.css", "script.js")]
    return (
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; img-src data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ).format(*hashes)


def filled(template: str, slots: Mapping[str, str]) -> str:
    """The template with these slots filled, in one pass: what is put in is not looked at again."""
    return SLOT.sub(lambda slot: slots.get(slot[1], slot[0]), template)


def end_html(name: str, address: Address | None) -> str:
    """One end of the connection; its elements have ids, by which the script finds them."""
    host, port = address or ("address not shown", 0)
    number = f" <b>port <span id={name}-port>{port}</span></b>" if port else ""
    return f"<code><span id={name}-host>{escape(host)}</span>{number}</code>"


def request_html(head: bytes) -> str:
    """The head of a request: a line for each line, with its end; bytes that are not printable as \\xHH, no secrets."""
    shown = "\n".join(map(line_html, head[:MAX_SHOWN].splitlines(keepends=True)))
    return shown + (f"\nand {len(head) - MAX_SHOWN:,} bytes more" if len(head) > MAX_SHOWN else "")


def line_html(line: bytes) -> str:
    """A line with its end, if it has one. The value of a field that authenticates is left out: others may see the screen."""
    text = line.rstrip(b"\r\n")
    ends = escape_bytes(line[len(text) :]).replace("\\x0d", "\\r").replace("\\x0a", "\\n")
    name = FIELD_NAME.match(text)
    shown = f"{escape_bytes(name[0])} {MARK}" if name and SECRET_NAME.search(name[1]) else escape_bytes(text)
    return escape(shown) + (f"<span class=end>{ends}</span>" if ends else "")


def rows_html(rows: Iterable[Row]) -> str:
    """Rows of the table, in the form that the script makes them in, too."""
    return "\n".join(f"<tr{' class=own' * (row[0] == 'this page')}><td>{'<td>'.join(map(escape, row))}" for row in rows)


def program() -> str:
    """The command by which this server was started: installed, or a single file, or a module of Python."""
    name = os.path.basename(sys.argv[0])
    if name.endswith(".pyz"):
        return f"python3 {shlex.quote(name)}"
    return name if name == "rawservers" else "python3 -m rawservers"


def command(listener: ListenConfig, visitor: Visitor) -> str:
    """How to talk to this listener, in HTML; "" if the visitor could not, or is not to know its address."""
    if not visitor.may_know(listener.address):
        return ""
    before, program, after = COMMANDS[listener.service]
    host, _, port = listener.address.rpartition(":")
    if host in EVERYWHERE:  # a client needs one address
        own = visitor.local[0] if visitor.local else "127.0.0.1"
        host = visitor.host or (f"[{own}]" if ":" in own else own)
    if listener.address.startswith("unix:"):
        path = shlex.quote(listener.address.removeprefix("unix:"))
        dial = f"{TLS_COMMAND} -unix {path}" if listener.tls else f"nc -U {path}"
    elif listener.tls:
        dial = f"{TLS_COMMAND} -connect {shlex.quote(f'{host}:{port}')}"
    else:
        dial = f"{program} {shlex.quote(host.strip('[]'))} {port}"
    return f"<code>{escape(before + dial)}</code> {after}"
