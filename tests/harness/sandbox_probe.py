"""What the process that runs this can do, as a JSON object in one line. For the inside of the service's sandbox; and for its
outside, which shows that it would notice."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

CLONE_NEWUSER = 0x10000000
FAMILIES = ("AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET")
FOLDERS = (
    "/ /etc /usr/local/lib/rawservers /var/lib /var/log /var/tmp /run /run/rawservers /srv/www /home /root /sys/fs/cgroup"
    " /dev /dev/shm /dev/mqueue /tmp"
)


def outcome(attempt: Callable[[], object]) -> str:
    """Either "done", or the name of the error that it met."""
    try:
        attempt()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def in_child(attempt: Callable[[], object]) -> str:
    """What comes of it in a process that ends with it, since it would change this one."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.write(writing, outcome(attempt).encode())
        os._exit(0)
    os.close(writing)
    os.wait()
    return os.read(reading, 100).decode()


def open_socket(family: str) -> None:
    kind = socket.SOCK_RAW if family in {"AF_NETLINK", "AF_PACKET"} else socket.SOCK_STREAM
    socket.socket(getattr(socket, family), kind).close()


def write_file(folder: str) -> None:
    path = Path(folder, "probe")
    path.write_bytes(b"")
    path.unlink()


def write_setuid_file() -> None:
    path = Path("/tmp/setuid")
    path.write_bytes(b"")
    try:
        path.chmod(0o4755)
    finally:
        path.unlink()


def make_user_namespace() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def probe() -> dict[str, object]:
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "sockets": {family: outcome(partial(open_socket, family)) for family in FAMILIES},
        "network": os.readlink("/proc/self/ns/net"),
        "others": [int(name) for name in os.listdir("/proc") if name.isdecimal() and int(name) != os.getpid()],
        "writable": [folder for folder in FOLDERS.split() if outcome(partial(write_file, folder)) == "done"],
        "user": os.getuid(),
        "capabilities": {name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")},
        "privileges": {
            "signal the first process": outcome(lambda: os.kill(1, 0)),
            "become root": in_child(lambda: os.setresuid(0, 0, 0)),
            "make a user namespace": in_child(make_user_namespace),
            "change the root": in_child(lambda: os.chroot("/tmp")),
            "make a setuid file": outcome(write_setuid_file),
            "execute what was written": outcome(lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC).close()),
        },
    }


if __name__ == "__main__":
    print(json.dumps(probe()))
