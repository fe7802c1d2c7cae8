"""Sets of peers: IP networks, and the peers on unix sockets. `ipaddress` is imported on first use: most servers have none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

UNIX = "unix"  # the name that stands for all peers on unix sockets


class Networks:
    """A set of peers, by their hosts. names: networks (10.0.0.0/8), addresses, and "unix". Raises ValueError.

    An IPv4-mapped IPv6 address is the IPv4 address.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._has_unix = False
        self._networks: list[IPv4Network | IPv6Network] = []
        for name in names:
            if name == UNIX:
                self._has_unix = True
            else:
                self._networks.append(parse_network(name))

    def __bool__(self) -> bool:
        return self._has_unix or bool(self._networks)

    def __contains__(self, host: str) -> bool:
        """host: as in an Address."""
        if host.startswith("unix:"):
            return self._has_unix
        try:
            address = parse_ip(host)
        except ValueError:
            return False
        return any(address in network for network in self._networks)


NOBODY = Networks(())


def parse_network(text: str) -> IPv4Network | IPv6Network:
    """A network, or that of one address. Raises ValueError with a message."""
    from ipaddress import IPv4Network, ip_network

    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"not a network: {text!r} (as in 10.0.0.0/8, 192.0.2.1, fd00::/8 or unix)") from None
    if "/" in text and parse_ip(text.partition("/")[0], mapped=False) != network.network_address:
        raise ValueError(f"not a network: {text!r}: that of this address is {network}")
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    return IPv4Network((mapped, network.prefixlen - 96)) if mapped and network.prefixlen >= 96 else network


def parse_ip(text: str | bytes, mapped: bool = True) -> IPv4Address | IPv6Address:
    """An IP address, written or as its 4 or 16 bytes. mapped: whether an IPv4-mapped one becomes IPv4. Raises ValueError."""
    from ipaddress import ip_address

    address = ip_address(text)
    return (mapped and getattr(address, "ipv4_mapped", None)) or address
