"""The file of a unix socket: who may replace it, remove it, and change its mode and owner."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rawservers.core import bind as binding
from rawservers.core import unix
from rawservers.core.bind import Endpoint, bind
from tests.harness.sockets import listening


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """That of a socket which a server has left that was killed."""
    path = tmp_path / "sock"
    listening(path).close()
    return path


def is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def refused(path: Path) -> None:
    with pytest.raises(OSError, match="in use") as caught:
        bind(Endpoint(path=str(path)))
    assert caught.value.errno == errno.EADDRINUSE


def meanwhile(call: Callable[[], None], function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with this call before it, the first time."""
    calls = [call]

    def both(*arguments: Any, **more: Any) -> Any:
        if calls:
            calls.pop()()
        return function(*arguments, **more)

    return both


def test_a_second_server_before_a_stale_file_is_removed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix.os, "unlink", meanwhile(lambda: refused(path), os.unlink))
    (server,) = bind(Endpoint(path=str(path)))
    assert is_served(path)
    server.close()


def test_a_second_server_before_the_first_one_listens(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the file is there already, and nobody could tell it from a stale one."""
    monkeypatch.setattr(binding, "ServerSocket", meanwhile(lambda: refused(path), binding.ServerSocket))
    path.unlink()
    (server,) = bind(Endpoint(path=str(path)))
    assert is_served(path)
    server.close()
    assert os.listdir(path.parent) == []  # neither the socket nor the lock


def test_a_second_server_while_the_first_one_ends(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has replaced the file of the first one, or is about to: neither is removed."""
    (server,) = bind(Endpoint(path=str(path)))
    with unix.locked(str(path)):
        server.close()
    assert unix.is_socket(str(path))
    (first,) = bind(Endpoint(path=str(path)))
    path.rename(path.with_name("moved"))
    (second,) = bind(Endpoint(path=str(path)))
    first.close()
    assert is_served(path)
    second.close()
    assert not path.exists()


def test_a_lock_that_nobody_holds_any_more(path: Path) -> None:
    lock = Path(f"{path}.lock")
    lock.touch()
    (server,) = bind(Endpoint(path=str(path)))
    server.close()
    assert not lock.exists()
    with lock.open("w") as file:  # of a process that does not remove it
        fcntl.flock(file, fcntl.LOCK_EX)
        refused(path)
    lock.unlink()
    lock.symlink_to("victim")
    with pytest.raises(OSError, match="symbolic link"):
        bind(Endpoint(path=str(path)))
    assert not (path.parent / "victim").exists()


def test_links_are_not_followed(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    refused(link)
    assert link.is_symlink()
    assert path.is_socket()


def test_mode_and_owner_of_what_took_the_place_of_the_socket(path: Path) -> None:
    (server,) = bind(Endpoint(path=str(path)))
    server.set_access(0o600, -1, -1)
    assert path.stat().st_mode & 0o777 == 0o600
    victim = path.with_name("victim")
    victim.touch(0o644)
    path.rename(path.with_name("moved"))
    for place in (path.symlink_to, path.hardlink_to):
        place(victim)
        server.set_access(0o666, os.getuid(), os.getgid())
        assert victim.stat().st_mode & 0o777 == 0o644
        path.unlink()
    server.set_access(0o666, -1, -1)  # nothing is there
    path.with_name("moved").rename(path)
    path.with_name("other").hardlink_to(path)
    server.set_access(0o666, -1, -1)
    assert path.stat().st_mode & 0o777 == 0o600
    server.close()
