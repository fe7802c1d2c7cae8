"""The commands of the table in README.md do what is said of them."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.harness.documents import read_table
from tests.harness.needs import ROOT, need
from tests.harness.server import Server, exchange
from tests.harness.waiting import until

COMMANDS = {row["run"].strip("`"): wish for wish, row in read_table("README.md", "to").items()}
LASTING = [command for command in COMMANDS if "DIR" in command or "FILE" in command]
PAGE = b"GET / HTTP/1.0\r\n\r\n"


@pytest.fixture
def environment(tmp_path: Path) -> Mapping[str, str]:
    """With a command `rawservers`, which is that of this checkout."""
    command = tmp_path / "bin" / "rawservers"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m rawservers "$@"\n')
    command.chmod(0o755)
    return os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}"}


def test_all_are_tested() -> None:
    assert len(COMMANDS) == 8
    assert [*LASTING, "rawservers --status", *(command for command in COMMANDS if "rawservers.toml" in command)] == [*COMMANDS]


@pytest.mark.parametrize("command", LASTING)
def test_what_serves(command: str, folder: Path, environment: Mapping[str, str]) -> None:
    if "self-signed" in command:
        need("openssl")
    places = {"DIR": str(folder), "FILE": str(folder / "f")}
    words = [places.get(word, word) for word in shlex.split(command)]
    scheme = "https" if "self-signed" in command else "http"
    with Server(
        *words[1:],
        f"--{scheme}",
        "0",
        *(["--telnet", "0"] if "--telnet" not in words else []),
        command=[words[0]],
        env=environment,
    ) as server:
        until(lambda: f"{scheme} listening on {scheme}://" in server.stderr(), "it listens")
        if scheme == "http":
            answer = exchange(server, PAGE)
            assert (b"content of f\n" if "FILE" in command else b"<a href=") in answer
        assert ("anyone who can reach" in server.stderr()) == ("--bind" in command)
        if "--trace" in command:
            until(lambda: "  accept  " in server.stderr(), "it is traced")
        status = subprocess.run(["rawservers", "--status", f"pid:{server.process.pid}"], env=environment, capture_output=True)
        assert status.returncode == 0, status.stderr
        assert b"workers" in status.stdout
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0


def test_what_prints_a_configuration_and_checks_it(tmp_path: Path, environment: Mapping[str, str]) -> None:
    for command in COMMANDS:
        if "rawservers.toml" in command:
            done = subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, "")
    assert (done.stdout, (tmp_path / "rawservers.toml").read_text()) == (
        "ok\n",
        (ROOT / "conf" / "rawservers.toml").read_text(),
    )
