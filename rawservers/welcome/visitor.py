"""Who looks at the welcome page, and whose addresses an answer to them may name.

The addresses of others are for a browser on this machine: its connection comes from a loopback address, and it has asked for
`localhost` or a loopback address. The second keeps out a page of another site whose name was made to resolve to 127.0.0.1 (DNS
rebinding). A proxy on this machine comes from a loopback address as well, so a field that proxies add, or a PROXY header that
names another host, takes the view away; and so does HTTP/1.0, which no browser sends, but nginx by default.

A proxy on this machine that says nothing of its client, and passes on HTTP/1.1 with a Host of this machine, cannot be told
from a browser.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from rawservers.core.peer import Address
from rawservers.http.request import Request

LOOPBACK = re.compile(r"localhost|127(?:\.[0-9]{1,3}){3}|\[::1\]|::1")
PROXY_FIELDS = re.compile(r"^via$|forward|proxy|-ip$|remote-addr")  # in none of a browser

EVERYWHERE = ("0.0.0.0", "[::]")  # noqa: S104  # hosts that stand for all addresses


class Visitor(NamedTuple):
    """peer, local: the two addresses of the connection, None if they are not the visitor's business: a proxy's, perhaps.

    host: that was asked for; is_forwarded: a proxy has sent the request on; sees_all: the addresses of others as well.
    """

    peer: Address | None
    local: Address | None
    host: str
    is_forwarded: bool
    sees_all: bool

    def may_know(self, listener: str) -> bool:
        """Whether the visitor may see this listener's address: one on all addresses, or the one that it has come to."""
        host = listener.rpartition(":")[0]
        is_own = self.local is not None and host.strip("[]") == self.local[0]
        return self.sees_all or is_own or (host in EVERYWHERE and not self.is_forwarded)


def visitor_of(request: Request) -> Visitor:
    """The visitor who has sent this request."""
    peer, host = request.peer, request.host
    is_forwarded = peer.host != peer.address[0] or any(map(PROXY_FIELDS.search, request.fields))
    is_unix, is_near = peer.host.startswith("unix:"), LOOPBACK.fullmatch(peer.host) is not None
    sees_all = is_near and LOOPBACK.fullmatch(host) is not None and request.version == (1, 1) and not is_forwarded
    sees_own = sees_all or not (is_forwarded or is_unix or (is_near and host))
    return Visitor(peer.address if sees_own else None, peer.local if sees_own else None, host, is_forwarded, sees_all)
