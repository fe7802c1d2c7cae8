"""The image that the Containerfile makes."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rawservers import __version__
from tests.harness.checkout import tracked_files
from tests.harness.image import Container, Image, arguments, instructions, is_ignored
from tests.harness.machine import PATH
from tests.harness.needs import ROOT
from tests.harness.processes import children, state
from tests.harness.sockets import receive_all
from tests.harness.waiting import DEADLINE, until

TEXT = (ROOT / "Containerfile").read_text()
CHECK = dict(instructions(TEXT))["HEALTHCHECK"].partition("CMD ")[2]

pytestmark = pytest.mark.timeout(900)


def test_what_is_in_the_build_context() -> None:
    """Of a checkout with bytecode and a virtual environment, the package and the command alone."""
    patterns = (ROOT / ".dockerignore").read_text().split()
    others = [
        "rawservers/__pycache__/cli.cpython-311.pyc",
        "rawservers/http/__pycache__/site.pyc",
        ".venv/bin/python",
        "README.md",
    ]
    names = [*tracked_files(), *others]
    expected = {name for name in tracked_files() if name.startswith("rawservers/")} | {"systemd/rawservers"}
    assert {name for name in names if not is_ignored(name, patterns)} == expected


def test_a_containerfile_is_understood() -> None:
    text = '# A\nFROM a\nRUN a \\\n    && b\n# C\nCMD ["a", "b c"]\n'
    assert instructions(text) == [("FROM", "a"), ("RUN", "a && b"), ("CMD", '["a", "b c"]')]
    assert arguments('["a", "b c"]') == ["a", "b c"]
    assert arguments("a || b") == ["/bin/sh", "-c", "a || b"]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    root = tmp_path_factory.mktemp("image")
    try:
        yield Image(root, TEXT)
    finally:
        shutil.rmtree(root)


@pytest.fixture
def readable(folder: Path) -> Path:
    folder.chmod(0o755)
    return folder


def ask(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return receive_all(sock)


@pytest.mark.slow
def test_the_image(image: Image, readable: Path) -> None:
    """It serves the volume on the ports that it exposes, is healthy, not root and process 1, and stops when it is told to."""
    assert image.settings["VOLUME"] == "/srv/www"
    http, telnet = map(int, image.settings["EXPOSE"].split())
    with Container(image, readable) as container:
        until(lambda: container.process.poll() is not None or container.run(arguments(CHECK)).returncode == 0, "its health")
        assert container.visit(lambda: ask(http, b"GET /f HTTP/1.0\r\n\r\n")).endswith(b"\r\n\r\ncontent of f\n")
        assert container.visit(lambda: ask(telnet, b"hello\r\n")) == b"hello\r\n"
        assert container.run(["cat", "/proc/1/cmdline"]).stdout.startswith("/usr/bin/python3\0-P\0-m\0rawservers\0")
        for pid in (container.pid, *children(container.pid)):
            assert "\nUid:\t10001\t10001\t10001\t10001\n" in Path(f"/proc/{pid}/status").read_text()
        assert container.run(["rawservers", "--reload", "1"]).returncode == 0
        status, said = container.stop()
    assert status == 0, said
    assert '"GET /f HTTP/1.0" 200' in said
    assert f"telnet listening on [::]:{telnet}" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_orphans_in_the_image_are_reaped(image: Image, readable: Path) -> None:
    """Process 1 has the children of whatever was started in the container and has ended."""
    with Container(image, readable) as container:
        until(lambda: container.run(arguments(CHECK)).returncode == 0, "its health")
        (worker,) = children(container.pid)
        assert container.run(["sh", "-c", "sleep 0.1 &"]).returncode == 0
        until(lambda: children(container.pid) == [worker], "the end of the orphan")
        assert state(worker) not in {"", "Z"}
        assert container.stop()[0] == 0


@pytest.mark.slow
def test_other_words_than_those_of_the_image(image: Image, readable: Path) -> None:
    with Container(image, readable, "--version") as container:
        said, _ = container.process.communicate(timeout=DEADLINE)
        assert (container.process.returncode, said) == (0, f"rawservers {__version__}\n")


@pytest.mark.slow
def test_health_without_a_server(image: Image) -> None:
    """1, as engines expect. Here without a /proc that would show other servers."""
    command = ["chroot", f"--userspec={image.settings['USER']}", image.root, *arguments(CHECK)]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": PATH})
    assert (done.returncode, done.stderr) == (1, "rawservers: no server of this user is running\n")
