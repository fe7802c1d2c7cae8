"""The client of a request that comes through proxies: X-Forwarded-For, X-Forwarded-Proto, and Forwarded (RFC 7239).

Each proxy appends the address of its own peer. So the last entry is the only one that the peer of this server has written, the
one before it was written by the peer of that, and so on. Entries are believed from the end on, as long as their writers are
trusted proxies. What a client has sent itself comes before these, and cannot change them, whether it is well formed or not.

A proxy maintains one of the two lists, and may pass the other one on as it came from the client. If they name different
clients, neither is believed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import TypeAlias

from rawservers.core.networks import Networks, parse_ip
from rawservers.core.peer import Address
from rawservers.http.request import QUOTED, TOKEN

PROXY_FIELDS = ("x-forwarded-for", "forwarded")  # that name the client
MAX_HOPS = 64  # entries that are looked at; the client of a longer chain is the last of them

ADDRESS = r"([0-9.]+|\[[0-9A-Fa-f:.]+])(?::([0-9]{1,5}|_[0-9A-Za-z._-]+))?|([0-9A-Fa-f:.]+)"
NODE = ADDRESS  # RFC 7239 §6, but for those that are no address; X-Forwarded-For has IPv6 without brackets, too
PAIR = rf"({TOKEN})=({TOKEN}|{QUOTED})"
PAIRS = rf"(?:{PAIR})?(?:[ \t]*+;[ \t]*+(?:{PAIR})?)*+"
LAST_ELEMENT = r'(?:[^",]++|"[^"]*+")*+'  # of a reversed list: up to a comma outside of quotation marks
ESCAPED = r"\\(.)"

Hop: TypeAlias = "tuple[Address | None, str]"  # the peer of a proxy, if it tells, and the scheme, "" if it does not


class TrustedProxies:
    """The proxies whose fields are believed. names: as for Networks. Raises ValueError."""

    def __init__(self, names: Iterable[str]) -> None:
        self._networks = Networks(names)

    def origin(self, peer: Address, fields: Mapping[str, str]) -> tuple[Address, str]:
        """The address of the client, and its scheme, "http", "https" or "" if that is not known. fields: as in the Request."""
        if peer[0] not in self._networks:
            return peer, ""
        listed = forwarded_for(fields.get("x-forwarded-for", ""), fields.get("x-forwarded-proto", ""))
        found = [self._follow(peer, hops) for hops in (listed, forwarded(fields.get("forwarded", "")))]
        clients = [address for address, _ in found if address is not peer]
        schemes = {scheme for _, scheme in found if scheme}
        if len({host for host, _ in clients}) > 1:
            return peer, ""
        return clients[-1] if clients else peer, schemes.pop() if len(schemes) == 1 else ""

    def _follow(self, peer: Address, hops: Iterable[Hop]) -> tuple[Address, str]:
        """The first peer in the chain that is no trusted proxy, or the last that is known. hops: the nearest first."""
        address, scheme = peer, ""
        for node, proto in islice(hops, MAX_HOPS):
            scheme = proto if proto in {"http", "https"} else scheme
            if node is None:
                break
            address = node
            if node[0] not in self._networks:
                break
        return address, scheme


def forwarded_for(addresses: str, protos: str) -> Iterator[Hop]:
    """The hops of X-Forwarded-For and X-Forwarded-Proto. A single scheme is that of the client, however many hops there are."""
    nodes = [node for node in addresses.rsplit(",", MAX_HOPS)[::-1] if node.strip(" \t")] or [""]
    schemes = [proto.strip(" \t").lower() for proto in protos.rsplit(",", MAX_HOPS)[::-1]]
    if len(schemes) != len(nodes):
        schemes = [schemes[0] if len(schemes) == 1 else ""] * len(nodes)
    return ((parse_node(node), scheme) for node, scheme in zip(nodes, schemes, strict=True))


def forwarded(elements: str) -> Iterator[Hop]:
    """The hops of Forwarded, up to a malformed element.

    It is read from its end, so that an open quotation mark of the client cannot swallow what its proxies have appended.
    """
    text, position = elements[::-1], 0
    for _ in range(MAX_HOPS):  # empty ones count as well
        match = re.compile(LAST_ELEMENT).match(text, position)
        assert match  # it matches nothing, too
        element, position = match[0][::-1].strip(" \t"), match.end() + 1
        if text[match.end() : position] not in {"", ","} or not re.fullmatch(PAIRS, element):
            return
        pairs = [(name.lower(), value) for name, value in re.findall(PAIR, element)]
        if len(dict(pairs)) < len(pairs):  # RFC 7239 §4: each once
            return
        if pairs:
            values = {name: re.sub(ESCAPED, r"\1", value[1:-1]) if value[0] == '"' else value for name, value in pairs}
            yield parse_node(values.get("for", "")), values.get("proto", "").lower()
        if position > len(text):
            return


def parse_node(text: str) -> Address | None:
    """The address that a proxy has written, with port 0 if there is none; None for anything else, such as "unknown"."""
    if match := re.fullmatch(NODE, text.strip(" \t")):
        port = int(match[2]) if match[2] and match[2].isdecimal() else 0
        with suppress(ValueError):
            if port <= 65535:
                return str(parse_ip((match[1] or match[3]).strip("[]"))), port
    return None
