"""Real Telnet clients with people at them, and real client libraries, against the real process."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import json
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import telnetlib3
from telnetlib3 import telopt

from tests.harness.needs import ROOT, need
from tests.harness.server import Server, exchange
from tests.harness.terminal import Terminal
from tests.harness.waiting import DEADLINE, until

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


def until_let_go(server: Server, before: set[str]) -> None:
    until(lambda: not any(each.startswith("socket:") for each in {*server.descriptors()} - before), "the connection is gone")


def is_well(server: Server, before: set[str]) -> None:
    """It has let go of the client, and serves others. before: what was open before the client came."""
    until_let_go(server, before)
    assert exchange(server, b"x\r\n", "telnet") == b"x\r\n"


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_a_person_at(server: Server, client: Client) -> None:
    server.address("telnet")
    before = {*server.descriptors()}
    with client.start(server) as terminal:
        converse(client, terminal)
    is_well(server, before)


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
        before = {*server.descriptors()}
        with Terminal("nsenter", f"--net=/proc/{server.pid}/ns/net", "inetutils-telnet", "127.0.0.1") as terminal:
            converse(GNU_CHARACTERS, terminal)
        until_let_go(server, before)


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
    before = {*server.descriptors()}
    screen = [*client.banner[:-1], "x", "x"]
    with client.start(server) as terminal:
        terminal.shows(client.banner)
        client.ready(terminal)
        terminal.type("x\r")
        terminal.shows([*screen, ""])
        terminal.type(CTRL_D)
        assert terminal.leaves() == 0
        terminal.shows([*screen, *farewell])
    is_well(server, before)


# Client libraries.


@pytest.mark.parametrize("binary", ["off", "forced", "agreed"])
def test_telnetlib3(server: Server, binary: str) -> None:
    async def talk() -> None:
        how = {"force_binary": True, "encoding": "utf-8"} if binary == "forced" else {"encoding": False}
        reader, writer = await telnetlib3.open_connection(*server.address("telnet"), **how)  # type: ignore[arg-type]

        async def say(text: str) -> str:
            writer.write(text if binary == "forced" else text.encode())
            heard = await asyncio.wait_for(reader.readline(), DEADLINE)
            return heard if isinstance(heard, str) else heard.decode()

        agreed = binary == "agreed"
        if agreed:
            writer.iac(telopt.DO, telopt.BINARY)
            writer.iac(telopt.WILL, telopt.BINARY)
        assert await say("ab\x7fc\r\n") == "ac\r\n"
        assert (bool(writer.inbinary), bool(writer.outbinary)) == (agreed, agreed)
        assert await say("éяx\r\n") == "éяx\r\n"
        assert await say("\n" if agreed else "\r\n") == "\r\n"
        assert await say("q" * 4096 + "\r") == "q" * 4096 + "\r\n"  # at once, without a look at what may follow
        assert await say("\nz\r\n") == "z\r\n"
        writer.iac(telopt.DO, telopt.ECHO)  # and SGA comes with it
        assert await say("ab\x7fc\x15dé\r\n") == "ab\b \bc\b\b  \b\bdé\r\n"
        assert await say("") == "dé\r\n"
        assert writer.remote_option.enabled(telopt.ECHO)
        assert writer.remote_option.enabled(telopt.SGA)
        writer.close()

    asyncio.run(talk())


def test_twisted(server: Server) -> None:
    host, port = server.address("telnet")
    command = [sys.executable, "-m", "tests.harness.twisted_client", host, str(port)]
    done = subprocess.run(command, capture_output=True, timeout=DEADLINE, cwd=ROOT)
    assert json.loads(done.stdout) == [
        ["ab\x7fc\n", "ac\n"],
        ["éяx\n".encode().decode("latin-1") + "\xff\n", "éяx\n".encode().decode("latin-1") + "\xff\n"],
        ["do STATUS", "refused"],
        ["will NAWS", "refused"],
        ["do BINARY", "agreed"],
        ["will BINARY", "agreed"],
        ["яx\n".encode().decode("latin-1"), "яx\n".encode().decode("latin-1")],
        ["do ECHO", "agreed"],
        ["ab\x7fc\n", "ab\b \bc\nac\n"],
        ["SGA", "yes"],
        ["dont ECHO", "agreed"],
        ["ab\x7fc\n", "ac\n"],
        ["AYT", "\n[Yes]\n"],
    ], done.stderr.decode()


# Services besides the echo.


@pytest.fixture
def services() -> Iterator[Server]:
    with Server(module="tests.servers.telnet_services_server") as running:
        yield running


@pytest.mark.parametrize("binary", [False, True])
def test_services_through_telnetlib3(services: Server, binary: bool) -> None:
    async def open(service: str) -> tuple[Any, Any]:
        how = {"force_binary": True} if binary else {"encoding": "us-ascii"}
        return await telnetlib3.open_connection(*services.address(service), **how)  # type: ignore[arg-type]

    async def calculate() -> None:
        reader, writer = await open("calculator")
        for line, value in (("1 + 2 * (3 - 4)", "-1"), ("7 / 2", "3.5"), ("1 / 0", "?"), ("x", "?"), ("\r\n2+2", "4")):
            writer.write(f"{line}\r\n")
            assert await asyncio.wait_for(reader.readline(), DEADLINE) == f"{value}\r\n"
        writer.close()

    async def log_in(password: str, *answers: str) -> None:
        reader, writer = await open("login")

        async def hear(text: str) -> None:
            assert (await asyncio.wait_for(reader.readuntil(text[-1:].encode()), DEADLINE)).decode() == text

        await hear("login:")
        await hear(" ")
        assert not writer.remote_option.enabled(telopt.ECHO)
        writer.write("ada\r\n")
        await hear("Password:")
        await hear(" ")
        assert writer.remote_option.enabled(telopt.ECHO)  # by which the other side promises to show what is typed
        writer.write(f"{password}\r\n")
        for answer in ("\r\n", *answers):
            await hear(answer)
        assert not writer.remote_option.enabled(telopt.ECHO)
        writer.close()

    asyncio.run(calculate())
    # One attempt each: telnetlib3 never acknowledges WONT ECHO, so that WILL ECHO cannot be asked of it a second time.
    asyncio.run(log_in("wrong", "Login incorrect\r\n", "login:"))
    asyncio.run(log_in("lovelace", "Welcome, ada\r\n", "$"))


PERSONS_AT_SERVICES = ("telnet", "telnet, port 23", "plink")


@pytest.mark.parametrize("name", PERSONS_AT_SERVICES)
def test_a_calculator_at(services: Server, name: str) -> None:
    client = CLIENTS[name]
    with client.start(services, "calculator") as terminal:
        terminal.shows(client.banner)
        client.ready(terminal)
        screen = list(client.banner)
        for line, rows in (
            ("1 + 2 * 3\r", ("1 + 2 * 3", "7", "")),
            ("\r", ("", "")),
            ("(1 / 8\x7f4) * 3\r", ("(1 / 4) * 3", "0.75", "")),
            ("1 / 0\r", ("1 / 0", "?", "")),
        ):
            terminal.type(line)
            screen[-1:] = rows
            terminal.shows(screen)


@pytest.mark.parametrize("name", PERSONS_AT_SERVICES)
def test_a_login_at(services: Server, name: str) -> None:
    client = CLIENTS[name]
    with client.start(services, "login") as terminal:
        screen = [*client.banner[:-1], "login: "]
        terminal.shows(screen)

        def answer(keys: str, *rows: str) -> None:
            terminal.type(keys)
            screen[-1:] = rows
            terminal.shows(screen)

        for password, answers in (("wrong", ("Login incorrect", "login: ")), ("love\x7felace", ("Welcome, ada", "$ "))):
            client.ready(terminal)
            answer("ada\r", "login: ada", "Password: ")
            terminal.hides()
            for key in password:
                answer(key, "Password: ")
            answer("\r", "Password: ", *answers)
        client.ready(terminal)  # what is typed is shown again
        answer("ab\x7fc\r", "$ ac", "ac", "$ ")
        answer("logout\r", "$ logout", "Goodbye", *(FAREWELL if client.banner == GNU_BANNER else ("",)))
        assert b"wrong" not in terminal.heard
        assert b"love" not in terminal.heard
        assert b"lace" not in terminal.heard
        assert terminal.leaves() == 0


def test_a_login_at_busybox_telnet(services: Server) -> None:
    """It says more of its modes; and of every password but the first it hides none, as its character mode ends for good."""
    client = CLIENTS["busybox telnet"]
    with client.start(services, "login") as terminal:
        terminal.shows(["Connected to 127.0.0.1", "login: "])
        terminal.type("ada\r")
        screen = ["Connected to 127.0.0.1", "login: ada", "", "Entering character mode", "Escape character is '^]'.", ""]
        terminal.shows([*screen, "Password: "])
        terminal.hides()
        for key in "love\x7felace":
            terminal.type(key)
            terminal.shows([*screen, "Password: "])
        terminal.type("\r")
        screen += ["Password: ", "Entering line mode", "Escape character is '^C'.", "", "", "Welcome, ada"]
        terminal.shows([*screen, "$ "])
        terminal.takes_lines()
        terminal.type("ab\x7fc\r")
        terminal.shows([*screen, "$ ac", "ac", "$ "])
        assert b"ove" not in terminal.heard
