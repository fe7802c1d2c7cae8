"""People at real Telnet clients, real client libraries, and clients that never listen, against the real process."""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live import DEADLINE, Server, exchange, need, receive_all, until
from tests.terminal import Terminal

TELNETLIB3 = str(Path(sys.executable).with_name("telnetlib3-client"))

CTRL_C, CTRL_D, ESCAPE, DEL = "\x03", "\x04", "\x1d", "\x7f"

# What is typed, and the rows that then stand on the screen in place of the row that the cursor was on.
Step = tuple[str, tuple[str, ...]]

MORE = ("more\r", ("more", "more", ""))
KILLED = ((CTRL_C, ("zz^C",)),)
BUSYBOX_MENU = (
    "Console escape. Commands are:",
    "",
    " l      go to line mode",
    " c      go to character mode",
    " z      suspend telnet",
    " e      exit telnet",
    "",
)
GNU_BANNER = ("Trying 127.0.0.1...", "Connected to 127.0.0.1.", "Escape character is '^]'.", "")
GNU_QUIT = ("quit\r", ("inetutils-telnet> quit", "Connection closed.", ""))


@dataclass(frozen=True)
class Client:
    """One client, and what a person sees who types at it.

    command:    its words; HOST and PORT stand for the server's address
    characters: whether it is handed characters as they are typed, or lines that the terminal shows
    banner:     what it shows by itself
    before:     what to type first
    reply:      what is left of `éяx` in the reply
    rest:       what comes after `zz` was typed: Ctrl-C, where the client outlives it another line, and how it is left
    status:     its exit status
    """

    command: str
    characters: bool = False
    banner: tuple[str, ...] = ("",)
    before: tuple[Step, ...] = ()
    reply: str = "éяx"
    rest: tuple[Step, ...] = KILLED
    status: int = 130

    def start(self, server: Server, service: str = "telnet") -> Terminal:
        host, port = server.address(service)
        return Terminal(*self.command.replace("HOST", host).replace("PORT", str(port)).split())

    def ready(self, terminal: Terminal) -> None:
        """Wait until it has set the terminal to its mode."""
        if self.characters:
            terminal.takes_characters()
        else:
            terminal.takes_lines()


GNU_CHARACTERS = Client(
    "inetutils-telnet -- HOST -PORT",  # a minus before the port asks for the manner of port 23
    characters=True,
    banner=GNU_BANNER,
    rest=((CTRL_C, ("zz^C", "")), MORE, (ESCAPE, ("", "inetutils-telnet> ")), GNU_QUIT),
    status=0,
)

CLIENTS = {
    # It takes the second byte of "я", 0x8F, for ^O: AO and DO TIMING-MARK leave in its place. On Ctrl-C it sends IP and DO
    # TIMING-MARK, and throws all output away until that is answered.
    "telnet": Client(
        "inetutils-telnet HOST PORT",
        banner=GNU_BANNER,
        reply="é\ufffdx",
        rest=((CTRL_C, ("zz^C",)), ("more\r", ("zz^Cmore", "more", "")), (ESCAPE, ("^]", "inetutils-telnet> ")), GNU_QUIT),
        status=0,
    ),
    "telnet, port 23": GNU_CHARACTERS,
    # Its Ctrl-C is not for us: it opens a menu, which any other key closes.
    "busybox telnet": Client(
        "busybox telnet HOST PORT",
        banner=("Connected to 127.0.0.1", ""),
        rest=(
            (CTRL_C, ("zz^C", *BUSYBOX_MENU)),
            ("\r", ("continuing...", "")),
            MORE,
            (CTRL_C, ("^C", *BUSYBOX_MENU)),
            ("e", ("",)),
        ),
        status=0,
    ),
    "busybox telnet, character mode": Client(
        "busybox telnet HOST PORT",
        banner=("Connected to 127.0.0.1", ""),
        before=(
            (CTRL_C, ("^C", *BUSYBOX_MENU)),
            ("c", ("", "Entering character mode", "Escape character is '^]'.", "")),
        ),
        characters=True,
        rest=((CTRL_C, ("zz^C", "")), MORE, (ESCAPE, ("", *BUSYBOX_MENU)), ("e", ("",))),
        status=0,
    ),
    # It has no key to leave by; at ^D we hang up.
    "plink": Client(
        "plink -telnet -P PORT HOST",
        characters=True,
        rest=((CTRL_C, ("zz^C", "")), MORE, (CTRL_D, ("",))),
        status=0,
    ),
    "nc": Client("nc.openbsd HOST PORT"),
    "nc -t": Client("nc.openbsd -t HOST PORT"),
    "ncat": Client("ncat HOST PORT"),
    "ncat -t": Client("ncat -t HOST PORT"),
    "socat": Client("socat - TCP:HOST:PORT"),
    "curl": Client("curl -sN telnet://HOST:PORT"),
    # It shows what is typed by itself, but for control characters, and sends them: Ctrl-C is one more byte of the line.
    "telnetlib3-client": Client(
        f"{TELNETLIB3} HOST PORT",
        characters=True,
        banner=("Escape character is '^]'.", ""),
        rest=(
            (CTRL_C, ("zz",)),
            ("more\r", ("zzmore", "zzmore", "")),
            (ESCAPE, ("", "Connection closed.", "")),
        ),
        status=0,
    ),
}


def converse(client: Client, terminal: Terminal) -> None:
    """Type it all, look at the whole screen after each key or line, and see the client leave."""
    screen = list(client.banner)
    terminal.shows(screen)
    for keys, rows in client.before:
        terminal.type(keys)
        screen[-1:] = rows
        terminal.shows(screen)
    client.ready(terminal)
    steps: tuple[Step, ...] = (
        ("a", ("a",)),
        ("b", ("ab",)),
        (DEL, ("a",)),
        ("c", ("ac",)),
        ("\r", ("ac", "ac", "")),
        ("éяx\r", ("éяx", client.reply, "")),
        ("zz", ("zz",)),
        *client.rest,
    )
    for keys, rows in steps:
        if keys == "more\r":
            client.ready(terminal)  # it may have set the terminal to another mode meanwhile
        terminal.type(keys)
        screen[-1:] = rows
        terminal.shows(screen)
    assert terminal.leaves() == client.status
    terminal.shows(screen)  # nor did anything come late


def is_well(server: Server, descriptors: int) -> None:
    """It has let go of the client, and serves others."""
    until(lambda: len(server.descriptors()) == descriptors, "the connection is gone")
    assert exchange(server, b"x\r\n", "telnet") == b"x\r\n"


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_a_person_at(server: Server, client: Client) -> None:
    server.address("telnet")
    descriptors = len(server.descriptors())
    with client.start(server) as terminal:
        converse(client, terminal)
    is_well(server, descriptors)


class InItsOwnNetwork:
    """For a process that is to have port 23 to itself: call it between fork and exec, as root."""

    CLONE_NEWNET = 0x40000000
    SIOCSIFFLAGS, IFF_UP, IFREQ = 0x8914, 1, "16sh14x"

    def __call__(self) -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(self.CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            fcntl.ioctl(sock, self.SIOCSIFFLAGS, struct.pack(self.IFREQ, b"lo", self.IFF_UP))


def test_a_person_at_telnet_on_port_23() -> None:
    need("inetutils-telnet")
    try:
        subprocess.run(["true"], preexec_fn=InItsOwnNetwork(), check=True)
    except subprocess.SubprocessError:
        pytest.skip("makes a network of its own, which takes root")
    with Server("--http", "off", "--telnet", "127.0.0.1:23", preexec_fn=InItsOwnNetwork()) as server:
        assert server.address("telnet")[1] == 23
        descriptors = len(server.descriptors())
        with Terminal("nsenter", f"--net=/proc/{server.pid}/ns/net", "inetutils-telnet", "127.0.0.1") as terminal:
            converse(GNU_CHARACTERS, terminal)
        until(lambda: len(server.descriptors()) == descriptors, "the connection is gone")


FAREWELL = ("Connection closed by foreign host.", "")
AT_CTRL_D = {
    "telnet": (CLIENTS["telnet"], FAREWELL),
    "telnet, port 23": (GNU_CHARACTERS, FAREWELL),
    "busybox telnet": (CLIENTS["busybox telnet"], ("",)),
    "nc -N": (Client("nc.openbsd -N HOST PORT"), ("",)),
    "ncat": (CLIENTS["ncat"], ("",)),
    "ncat -t": (CLIENTS["ncat -t"], ("",)),
    "socat": (CLIENTS["socat"], ("",)),
    "telnetlib3-client": (CLIENTS["telnetlib3-client"], ("", *FAREWELL)),
}


@pytest.mark.parametrize(("client", "farewell"), AT_CTRL_D.values(), ids=AT_CTRL_D)
def test_end_of_input_at(server: Server, client: Client, farewell: tuple[str, ...]) -> None:
    server.address("telnet")
    descriptors = len(server.descriptors())
    screen = [*client.banner[:-1], "x", "x"]
    with client.start(server) as terminal:
        terminal.shows(client.banner)
        client.ready(terminal)
        terminal.type("x\r")
        terminal.shows([*screen, ""])
        terminal.type(CTRL_D)
        assert terminal.leaves() == 0
        terminal.shows([*screen, *farewell])
    is_well(server, descriptors)


# Clients that never listen.

FLOOD = 10_000_000  # bytes
ORDINARY = b"".join(b"%0*d\r\n" % (size, size) for size in range(1, 1000)) + b"\xff\xfd\x18\xff\xf6\xff\xfa\x18\0X\xff\xf0end\r\n"


def growth(server: Server, *, since: int) -> int:
    """By how much its memory has grown at the worst."""
    return server.memory("VmHWM") - since


def warmed_up(server: Server) -> int:
    """Its memory after ordinary conversations, from where its peak is counted anew."""
    for _ in range(3):
        assert exchange(server, ORDINARY, "telnet").endswith(b"\r\nend\r\n")
    Path(f"/proc/{server.pid}/clear_refs").write_text("5")
    return server.memory()


def sent_to_the_limit(server: Server, sock: socket.socket, unit: bytes) -> int:
    """How many bytes of FLOOD go out before the server takes no more, and rests."""
    flood = memoryview(unit * (FLOOD // len(unit)))
    sent, cpu = 0, -1.0
    sock.setblocking(False)
    while sent < len(flood):
        if select.select([], [sock], [], 0.2)[1]:
            sent += sock.send(flood[sent : sent + 65536])
        elif server.cpu() == cpu:
            break
        cpu = server.cpu()
    sock.settimeout(DEADLINE)
    return sent


@pytest.mark.parametrize(
    ("opening", "unit", "answer"),
    [
        pytest.param(b"", b"\xff\xfd\x63", b"\xff\xfc\x63", id="negotiation"),
        pytest.param(b"", b"\xff\xf6", b"\r\n[Yes]\r\n", id="AYT"),
        pytest.param(b"\xff\xfa\x18", b"A", b"", id="subnegotiation"),
    ],
)
def test_a_flood_takes_no_memory(
    server: Server, opening: bytes, unit: bytes, answer: bytes, record_property: Callable[[str, object], None]
) -> None:
    before = warmed_up(server)
    with server.connect("telnet", rcvbuf=4096) as deaf:
        deaf.sendall(opening)
        sent = sent_to_the_limit(server, deaf, unit)
        grown = growth(server, since=before)
        record_property("sent", sent)
        record_property("grown", grown)
        print("FIG", unit, sent, grown, before)
        assert grown < 1 << 20
        if answer:
            assert sent < FLOOD // 2, "it goes on taking commands whose answers nobody reads"
        else:
            assert sent == FLOOD, "what is thrown away needs no limit"
        assert exchange(server, b"x\r\n", "telnet") == b"x\r\n"
        # It has lost nothing: once the answers are read, all of them come.
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        deaf.shutdown(socket.SHUT_WR)
        answers = receive_all(deaf)
    assert answers == answer * (sent // len(unit))
    assert growth(server, since=before) < 1 << 20
