"""Path traversal: hundreds of ways to ask a server for what lies outside its root, of which none may work.

Canaries lie beside the root, above it, behind links that leave it, and in the root under names that begin with a dot. Each
payload asks for one of them, over a connection of its own and, once more, over one that is kept as long as the server keeps it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import pytest

from rawservers.http.files import LINK_REPORTS
from tests.harness.server import Server, exchange
from tests.harness.waiting import until

CANARY = b"canary-3f9d1c"
MARKS = (CANARY, b"root:x:0:0", b"PATH=")  # also what /etc/passwd and a process's environment hold
SHOWN = {
    b".well-known",
    b"\\evil",
    b"dir",
    b"deep",
    b"inside",
    b"f",
    b"page.html",
    b"index.html",
    b"x",
}  # all that a listing may name
FINE = re.compile(rb"HTTP/1\.0 (?:200|206|301|40[034]|414) ")

# Where a payload may want to get to, from the root.
GOALS = ("../outside", "../../above", "../www-other/outside", "../../../../../../../../../../etc/passwd", ".git/config")

DOTS = """
    .. %2e%2e %2E%2E .%2e %2e. %252e%252e %25252e%25252e %2%65%2%65 %c0%ae%c0%ae %e0%80%ae%e0%80%ae %f0%80%80%ae%f0%80%80%ae
    %c0%2e%c0%2e %fc%80%80%80%80%ae%fc%80%80%80%80%ae %u002e%u002e %uff0e%uff0e %ef%bc%8e%ef%bc%8e %e2%80%a5 %e2%80%a4%e2%80%a4
    .... ... ..; ..;x=y ..%3b ..%00 %00.. ..%20 ..%09 ..%0a ..%0d%0a ..%2e .%00. .%5c. %5c.. ..%ff \xff.. ..\xc0\xaf ..%u0000
    0x2e0x2e &#46;&#46; \\.. ..%c2%a0 ..%e2%80%8b ..%26 ..%23 ..%3f ..:: ..~ ..+ ..* [..] {..,..} $(..) `..`
"""
SLASHES = """
    / // /./ /.// %2f %2F %252f %25252f %c0%af %e0%80%af %c1%9c \\ %5c %5C %255c \\\\ /\\ \\/ %u2215 %u2216 %ef%bc%8f %e2%88%95
    %f0%80%80%af %bg%qf ; : %3a %00/ /%00 %2e/ /%2e/ %20/ /%20
"""
ENDINGS = """
    / // /. /.. . .. %20 %2e %00 %00.html %00.jpg ; ;.html ?x ?/../ %3f %23 ~ .bak ::$DATA %0a %0d%0aX: %09 \\ %5c * .. .gz .br
    /index.html /%2e /%2e%2e/outside ?%2e%2e #x &x %20HTTP/1.1
"""
BEFORE = """
    / // /// /. /./ /.. //.. /dir/.. /dir/ /dir/../ /dir/./ /nope/.. /nope/ /f/.. /f/ /.well-known/ /.well-known/../ /inside/
    /inside/.. /?/ /;/ /%2f /\\ /~/ /~root/ /index.html/ /cgi-bin/ /static/../ /C: /C:\\ /file: /%00/ /%20/ /-/
"""


def dots_and_slashes() -> Iterator[str]:
    """The parts of a goal's path in every disguise: each of the dots with plain slashes, and each of the slashes with .. ."""
    for goal in GOALS[:4]:
        for dots in DOTS.split():
            yield "/" + goal.replace("..", dots)
        for slash in SLASHES.split():
            yield "/" + goal.replace("/", slash)
    for dots, slash in zip(DOTS.split() * 2, SLASHES.split() * 3, strict=False):
        yield "/" + GOALS[0].replace("/", slash).replace("..", dots)


def surroundings() -> Iterator[str]:
    """Something in front of the goal, or behind it."""
    for before in BEFORE.split():
        for goal in GOALS:
            yield before.rstrip("/") + "/" + goal
            yield before + quote(goal, safe="").replace(".", "%2e")
    for name in ("/../outside", "/out", "/folder/outside", "/.git/config", "/.secret", "/%2e%67it/config"):
        for ending in ENDINGS.split():
            yield name + ending


def hidden_and_linked() -> Iterator[str]:
    """What is there, but not to be served: links that lead out, names with a dot in front; and folders, which redirect."""
    for name in (
        "out", "absolute", "hop", "deep/hop", "loop", "folder", "folder/outside", "folder/www/f", "folder/www/../outside",
        "up/outside", "proc/self/environ", "proc/self/root/etc/passwd", "proc/self/cwd", "proc/1/environ", "etc/passwd",
        "to-git", "to-git-folder/config", "page.html.gz", ".git", ".git/", ".git/config", ".git//config", ".git/./config",
        ".secret", "dir/.secret", ".well-known/.secret", ".well-known/../.git/config", ".well-known/out", ".WELL-KNOWN/.secret",
        "dir/.well-known/secret", "fifo", "proc/self/fd/0", "proc/self/fd/1", "proc/self/mem",
        "dir", "deep", "\\evil", "dir?//evil", "evil.com/..", "evil.com/%2e%2e/dir",
    ):  # fmt: skip
        yield f"/{name}"
        yield "/" + "".join(f"%{byte:02x}" for byte in name.encode())
        yield "/" + "".join(f"%{byte:02X}" if byte != 0x2F else "/" for byte in name.encode())
        yield "/" + "".join(f"%25{byte:02x}" for byte in name.encode())
        yield f"/dir/../{name}"
        yield f"//{name}"
        yield f"http://h/{name}"


def other_forms() -> Iterator[str]:
    """Targets in other forms, and of other sizes."""
    for goal in GOALS:
        for form in (
            "http://h/{}", "http://h//{}", "http://h{}", "http://{}", "http://../{}", "http://h/?/{}", "http://h/x/../{}",
            "HTTP://H/{}", "http://h:80/{}", "http://[::1]/{}", "http://u@h/{}", "file:///{}", "file://{}", "{}", "./{}",
            "*/{}", "?/{}", "/?/{}", "/#/{}", "#/{}", ";/{}", "@/{}", "ftp://h/{}", "//h/{}", "///{}", "\\\\h\\{}", "gopher:{}",
            "/{}?x=/../outside", "/{}#x", "/?file={}", "/f?/../{}", "/f;/../{}", "/f#/../{}", "/f%3f/../{}", "/f%23/../{}",
        ):  # fmt: skip
            yield form.format(goal)
            yield form.format(goal.replace("..", "%2e%2e"))
    for depth in (1, 2, 3, 5, 10, 50, 500, 2000):
        yield "/" + "../" * depth + "outside"
        yield "/" + "%2e%2e/" * depth + "outside"
        yield "/" + "dir/../" * depth + "../outside"
        yield "/" + "./" * depth + "../outside"
        yield "/" + "x/" * depth + "../" * (depth + 1) + "outside"
        yield "/" * depth + "../outside"
    for size in (255, 256, 1023, 4095, 4096, 5000):
        for letter in ("a", "%61", ".", "%2e", "\xff"):
            piece = letter * (min(size, 8100) // len(letter))
            yield f"/{piece}/../outside"
            yield f"/../outside/{piece}"
            yield f"/{piece}"


PAYLOADS = sorted({*dots_and_slashes(), *surroundings(), *hidden_and_linked(), *other_forms()})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A root as many are: with links, with a repository, with neighbours."""
    base = tmp_path / "base"
    root = base / "www"
    canary = CANARY + b"\n"
    for name in ("dir/.well-known", ".git", ".well-known", "deep", "inside", "../www-other", "\\evil"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in (
        "../outside", "../../above", "../www-other/outside", ".git/config", ".secret", "dir/.secret", ".well-known/.secret",
        "dir/.well-known/secret", "../index.html", "../../index.html",
    ):  # fmt: skip
        (root / name).write_bytes(canary)
    for name in ("f", "dir/index.html", "page.html", "inside/x", ".well-known/x"):
        (root / name).write_bytes(f"content of {name}\n".encode())
    for name, target in {
        "out": "../outside",
        "absolute": base / "outside",
        "hop": "deep/hop",
        "deep/hop": "../out",
        "loop": "loop",
        "folder": "..",
        "up": base,
        "proc": "/proc",
        "etc": "/etc",
        "to-git": ".git/config",
        "to-git-folder": ".git",
        "page.html.gz": "../outside",
        ".well-known/out": "../../outside",
    }.items():
        (root / name).symlink_to(target)
    os.utime(base / "outside", (4e9, 4e9))  # as a precompressed neighbour, it would be young enough
    os.mkfifo(root / "fifo")
    return root


def check(target: str, answer: bytes, listing: bool) -> None:
    assert FINE.match(answer), (target, answer[:200])
    assert not [mark for mark in MARKS if mark in answer], target
    head, _, body = answer.partition(b"\r\n\r\n")
    for location in re.findall(rb"^Location: (.*?)\r?$", head, re.MULTILINE):
        assert re.match(rb"(?:\./)?[^/\\:?]+/(?:\?[!-~]*)?\Z", location), (target, location)  # it can lead to no other host
    if b" 20" in answer[:12]:
        if listing and not body.startswith(b"content of "):
            assert b"<title>Index of " in body, target
            names = {unquote_to_bytes(name).rstrip(b"/") for name in re.findall(rb'<td><a href="(?:\./)?([^"]*)"', body)}
            assert names <= SHOWN, target
        else:
            assert re.fullmatch(rb"content of (?:f|page\.html|inside/x|dir/index\.html|\.well-known/x)\n", body), target


class Kept:
    """A connection that is used as often as the server allows, and then another one."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.sock = server.connect()
        self.connections = 1

    def ask(self, target: str) -> bytes:
        fields = "Host: h\r\nAccept-Encoding: gzip, br\r\nRange: bytes=0-9999\r\n"
        self.sock.sendall(f"GET {target} HTTP/1.1\r\n{fields}\r\n".encode("latin-1"))
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self.more()
        head = answer.partition(b"\r\n\r\n")[0]
        length = re.search(rb"\r\nContent-Length: (\d+)", head)
        assert length, head
        while len(answer) < len(head) + 4 + int(length[1]):
            answer += self.more()
        if b"\r\nConnection: close" in head:
            self.sock.close()
            self.sock = self.server.connect()
            self.connections += 1
        return answer

    def more(self) -> bytes:
        data = self.sock.recv(65536)
        assert data, "FIN in the middle of an answer"
        return data


def test_there_are_enough_of_them() -> None:
    assert len(PAYLOADS) > 1000
    assert not [payload for payload in PAYLOADS if re.search(r"[\0-\x20\x7f]", payload)]


@pytest.mark.parametrize("listing", [False, True], ids=["plain", "listing"])
def test_no_answer_holds_a_canary(folder: Path, listing: bool) -> None:
    options = ["--listing" if listing else "--no-listing"]
    with Server(folder, "--http", "0", "--telnet", "off", "--access-log", "off", *options) as server:
        assert exchange(server, b"GET /f\r\n") == b"content of f\n"
        before = len(server.descriptors())
        kept = Kept(server)
        for target in PAYLOADS:
            check(target, exchange(server, f"GET {target} HTTP/1.0\r\n\r\n".encode("latin-1")), listing)
            check(target, kept.ask(target), listing)
        assert 1 < kept.connections < len(PAYLOADS)  # some were refused, some not
        kept.sock.close()
        assert exchange(server, b"GET /f\r\n") == b"content of f\n"
        until(lambda: len(server.descriptors()) <= before, "no descriptor is kept")
        complaints = server.complaints()
        assert 1 <= len(complaints) <= 2 * LINK_REPORTS  # in a minute, or in two
        assert not [line for line in complaints if " is not served: it leads to " not in line]
