"""The PROXY protocol, versions 1 and 2: a header before the conversation, in which a proxy names the client that it serves.

https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt

    v1   "PROXY TCP4 192.0.2.1 198.51.100.2 40000 80" CRLF
    v2   signature, version and command, family, length (16 bytes); addresses; TLVs

Only peers that may send a header are ever asked for one, and those must: which these are is the listener's business. The header
is the whole of what is read here; the input behind it is left over.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import cache

from rawservers.core.networks import parse_ip
from rawservers.core.peer import Address
from rawservers.core.phases import Done, PreambleError

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V2_LIMIT = 16384  # bytes of a v2 header. The specification promises room for 536; nginx takes 4096, HAProxy tune.bufsize, 16384
V1_LIMIT = 107  # bytes of a v1 header with its CRLF, as specified
IPV4, IPV6, PORT = rb" ([0-9.]+)", rb" ([0-9a-fA-F]*:[0-9a-fA-F:.]+)", rb" (0|[1-9][0-9]{0,4})"
V1 = rb"PROXY (?:UNKNOWN(?: [^\r\n]*)?|TCP(?:4%b%b|6%b%b)%b%b)\r\n" % (IPV4, IPV4, IPV6, IPV6, PORT, PORT)
LOCAL, PROXY = 0x20, 0x21  # version 2, and the command
UNSPEC, INET, INET6, UNIX_STREAM = 0x00, 0x11, 0x21, 0x31  # family and transport
# Bytes of both addresses. The datagram ones are valid, but no connection comes from there.
ADDRESS_SIZES = {INET: 12, 0x12: 12, INET6: 36, 0x22: 36, UNIX_STREAM: 216, 0x32: 216}
CRC32C = 0x03  # the type of a TLV


class ProxyHeader:
    """The preamble of one connection from a proxy."""

    name = "PROXY header"

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Done | None:
        """Take input, at least one byte. None: more is needed. Raises PreambleError if it is no valid header."""
        self._data += data
        head = bytes(self._data[: len(SIGNATURE)])
        if head[:1] == SIGNATURE[:1]:
            return self._v2(head)
        if not head.startswith(b"PROXY "[: len(head)]):
            raise PreambleError("no PROXY header")
        line, end, _ = self._data[:V1_LIMIT].partition(b"\n")
        if end:
            return self._done(len(line) + 1, parse_v1(bytes(line + end)))
        if len(line) == V1_LIMIT:
            raise PreambleError(f"PROXY header longer than {V1_LIMIT} bytes")
        return None

    def _v2(self, head: bytes) -> Done | None:
        if not SIGNATURE.startswith(head):
            raise PreambleError("no PROXY header")
        data = self._data
        if len(data) < 16:
            return None
        if data[12] not in {LOCAL, PROXY}:
            raise PreambleError(f"PROXY header with version and command 0x{data[12]:02x}")
        size = 16 + int.from_bytes(data[14:16])
        if size > V2_LIMIT:
            raise PreambleError(f"PROXY header longer than {V2_LIMIT} bytes")
        if len(data) < size:
            return None
        return self._done(size, parse_v2(bytes(data[:size])))

    def _done(self, size: int, address: Address | None) -> Done:
        return Done(bytes(self._data[size:]), address)


def parse_v1(line: bytes) -> Address | None:
    """The client's address in a v1 header, with its CRLF; None if it is not told. Raises PreambleError."""
    if match := re.fullmatch(V1, line):
        source4, target4, source6, target6, *ports = match.groups()
        if not ports[0]:
            return None
        with suppress(ValueError):
            source, _ = (parse_ip(each.decode()) for each in (source4 or source6, target4 or target6))
            if max(map(int, ports)) <= 65535:
                return str(source), int(ports[0])
    raise PreambleError("malformed PROXY header")


def parse_v2(header: bytes) -> Address | None:
    """The client's address in a whole v2 header; None if it is not told, or is that of the proxy. Raises PreambleError."""
    command, family, content = header[12], header[13], header[16:]
    if command == LOCAL or family == UNSPEC:  # the rest is to be ignored
        return None
    if family not in ADDRESS_SIZES:
        raise PreambleError(f"PROXY header with address family 0x{family:02x}")
    size = ADDRESS_SIZES[family]
    if len(content) < size:
        raise PreambleError("PROXY header shorter than its addresses")
    check_tlvs(header, 16 + size)
    if family == UNIX_STREAM:
        path = content[:108].partition(b"\0")[0]
        return f"unix:{path.decode('ascii', 'surrogateescape')}", 0
    if family not in {INET, INET6}:
        return None
    width = 4 if family == INET else 16
    source = parse_ip(content[:width])
    return str(source), int.from_bytes(content[2 * width : 2 * width + 2])


def check_tlvs(header: bytes, position: int) -> None:
    """Check that what follows the addresses is TLVs, and the checksum if there is one. Raises PreambleError."""
    checked = False
    while position < len(header):
        start = position + 3
        position = start + int.from_bytes(header[start - 2 : start])
        if start > len(header) or position > len(header):
            raise PreambleError("PROXY header with a TLV beyond its end")
        if header[start - 3] == CRC32C:
            if checked or position - start != 4:
                raise PreambleError("PROXY header with a malformed checksum")
            checked = True
            if crc32c(header[:start] + bytes(4) + header[position:]) != int.from_bytes(header[start:position]):
                raise PreambleError("PROXY header with a wrong checksum")


@cache
def crc32c_table() -> tuple[int, ...]:
    """The remainders of all bytes, by the reflected polynomial 0x82f63b78."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ 0x82F63B78 * (value & 1)
        table.append(value)
    return tuple(table)


def crc32c(data: bytes) -> int:
    """CRC-32C (RFC 3720 §B.4)."""
    table, value = crc32c_table(), 0xFFFFFFFF
    for byte in data:
        value = table[(value ^ byte) & 255] ^ value >> 8
    return value ^ 0xFFFFFFFF
