"""The error log on a real process's standard error: a reader that is stopped, or none."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rawservers.logs.error import MAX_PENDING
from tests.harness.logs import connection, drain, terminal
from tests.harness.needs import ROOT
from tests.harness.server import Server
from tests.harness.sockets import receive_until
from tests.harness.waiting import DEADLINE, until

INSTALLED = """
import logging, os, sys
from rawservers.logs import error as error_log

error_log.install()
log = logging.getLogger("rawservers")
for number in range(int(sys.argv[1])):
    log.info("%99d", number)
log.debug("not this")
print("said", flush=True)
sys.stdin.readline()
child = os.fork()
if child == 0:  # what has not been said is its parent's to say
    logging.shutdown()
    os._exit(0)
os.waitpid(child, 0)
error_log.flush()
log.warning("the last word")
"""


@pytest.mark.parametrize("journal", [False, True])
@pytest.mark.parametrize("ends", [os.pipe, connection, terminal], ids=["pipe", "socket", "terminal"])
def test_standard_error_that_is_not_read(ends: Callable[[], tuple[int, int]], journal: bool) -> None:
    count = 5000
    reader, writer = ends()
    status = os.fstat(writer)
    environment = os.environ | {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino if journal else 0}"}
    command = [sys.executable, "-c", INSTALLED, str(count)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=writer
    ) as process:
        assert process.stdin
        assert process.stdout
        os.close(writer)
        assert process.stdout.readline() == b"said\n"
        taken = drain(reader)
        process.stdin.write(b"\n")
        process.stdin.close()

        def is_over() -> bool:
            nonlocal taken
            taken += drain(reader)
            return process.poll() is not None

        until(is_over, "its end")
        lines = (taken + drain(reader)).decode().splitlines()
    others = re.compile(r"error log: \d+ lines|the last word")  # reports, one or more, and the end
    assert {line[:3] for line in lines if not others.search(line)} == ({"<6>"} if journal else {"   "})
    numbers = [int(line.removeprefix("<6>")) for line in lines if line.removeprefix("<6>").startswith(" ")]
    # Lines, each with its newline, that find room even if the thread has not written any yet.
    first = MAX_PENDING // (max(map(len, lines)) + 1) - 1
    assert numbers[:first] == list(range(first))
    assert numbers == sorted(set(numbers))
    told = [int(number) for number in re.findall(r"error log: (\d+) lines", "\n".join(lines))]
    assert len(numbers) + sum(told) == count
    assert sum(told) > 1000
    assert ("<4>" * journal + "the last word") in lines
    os.close(reader)


def test_standard_error_that_is_closed(folder: Path) -> None:
    command = ["sh", "-c", f'exec {sys.executable} -c "$0" 10 2>&- </dev/null', INSTALLED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=DEADLINE)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"said\n", b"")


IGNORED = """
import sys
from rawservers.logs import error as error_log

class Broken:
    def __del__(self):
        raise ValueError("as told")

error_log.install()
Broken()
"""


def test_an_error_that_python_ignores_is_a_line_of_the_log() -> None:
    done = subprocess.run([sys.executable, "-c", IGNORED], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE)
    first, *traceback = done.stderr.splitlines()
    assert first.startswith("error ignored in: <function Broken.__del__ at 0x")
    assert traceback[0] == "  Traceback (most recent call last):"
    assert traceback[-1] == "  ValueError: as told"


FAILS = """
from rawservers import Config, ListenConfig, serve
from rawservers.logs import error as error_log

def fail(request):
    raise ValueError("as told")

error_log.install()
serve(Config(listen=(ListenConfig("http", "127.0.0.1:0"),), access_log="off", handlers=(("/f", fail),)))
"""


def test_a_server_whose_standard_error_is_not_read(folder: Path) -> None:
    answers = 1000
    with Server(program=FAILS, may_fail=True) as server:
        with server.connect() as sock:
            for _ in range(answers):
                sock.sendall(b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n")
                assert receive_until(sock, b"</html>\n").startswith(b"HTTP/1.0 500 ")

            def goes_on() -> bool:
                nonlocal answers
                server.pump()
                sock.sendall(b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n")
                assert receive_until(sock, b"</html>\n").startswith(b"HTTP/1.0 500 ")
                answers += 1
                return "error log: " in server.stderr()

            until(goes_on, "it is told")
        server.signal()
        assert server.wait() == 0
        _, lines = re.split("^http listening on .*\n", server.stderr(), flags=re.MULTILINE)
        lines = lines.splitlines()
        told = [int(line.split()[2]) for line in lines if line.startswith("error log: ")]
        failures = [line for line in lines if not line.startswith(("error log: ", "  "))]
        assert set(failures) == {"handler for /f failed"}
        size = lines.index(failures[0], 1)  # lines of each
        assert len(lines) - len(told) + sum(told) == answers * size
        assert sum(told) > 1000
