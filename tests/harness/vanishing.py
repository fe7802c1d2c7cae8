"""What becomes of connections whose peers vanish, as when a cable is pulled, as a JSON object.

To be run in a network of its own, as its root: unshare --map-root-user --net python3 -m tests.harness.vanishing FOLDER
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

from tests.harness.http_client import request, take_answer
from tests.harness.server import Server, exchange
from tests.harness.supervisor import LARGE
from tests.harness.waiting import until

# Neither a deadline of HTTP nor one of Telnet ends a connection; those of the kernel are short.
PROGRAM = """
import sys
from rawservers import cli
from rawservers.core import bind
bind.KEEP_IDLE = bind.KEEP_INTERVAL = 1
sys.exit(cli.main())
"""
CONFIGURATION = """
[http]
idle_time = 0
[telnet]
idle_time = 0
[limits]
send_time = 1
"""


def run(*command: str) -> None:
    subprocess.run(command, check=True)


def cut_off(sock: socket.socket) -> None:
    """From now on nothing that `sock` sends arrives, not even what its kernel says."""
    run("nft", f"add rule ip t c tcp sport {sock.getsockname()[1]} drop")


def main() -> None:
    folder = Path(sys.argv[1])
    (folder / "f").write_bytes(b"content of f\n")
    with (folder / "large").open("wb") as large:
        large.truncate(LARGE)
    (folder / "conf").write_text(CONFIGURATION)
    run("ip", "link", "set", "lo", "up")
    run("nft", "add table ip t; add chain ip t c { type filter hook input priority 0; policy accept; }")
    arguments = (folder, "--http", "0", "--telnet", "0", "-c", folder / "conf")
    with Server(*arguments, program=PROGRAM) as server:
        exchange(server, request("/large"))  # the file stays open
        before = len(server.descriptors())
        silent, answered, loading = server.connect("telnet"), server.connect(), server.connect(rcvbuf=4096)
        silent.sendall(b"a line\r\n")
        silent.recv(100)
        cut_off(silent)
        answered.sendall(request("/f", keep=True))
        take_answer(answered)
        loading.sendall(request("/large"))
        loading.recv(1)
        cut_off(loading)
        held = len(server.descriptors())
        answered.sendall(request("/f", keep=True))  # and nobody acknowledges the response
        cut_off(answered)
        until(lambda: len(server.descriptors()) == before, "those that have vanished are given up")
        last = exchange(server, request("/f")).decode()
        print(json.dumps({"before": before, "held": held, "last": last, "complaints": server.complaints()}))


if __name__ == "__main__":
    main()
