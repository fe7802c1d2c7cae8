"""The first moments of the command: an old Python, and Ctrl-C before anything is served."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rawservers import __main__
from tests.harness.needs import ROOT
from tests.harness.server import Server
from tests.harness.waiting import DEADLINE
from tests.pythons import search_path, version_of

# Ctrl-C at an import: of the last thing that is imported, or of the first.
INTERRUPT = """
import os, signal, sys
wanted = sys.argv.pop(1)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored where the tests run
from rawservers.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["rawservers.cli", "argparse", "rawservers.core.loop", "rawservers.config.toml"])
def test_ctrl_c_during_the_imports(module: str, tmp_path: Path) -> None:
    conf = tmp_path / "conf.toml"
    conf.write_text("# nothing")
    whole = [sys.executable, "-c", INTERRUPT, module, "--check", "-c", str(conf)]
    done = subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    """As in a background job of a shell."""
    program = (
        "import os, signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from rawservers import cli\nfrom rawservers.__main__ import main\n"
        "cli.main = lambda: os.kill(os.getpid(), signal.SIGINT) or 7\nassert main() == 7"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["__main__.py", "__init__.py"])
def test_what_an_old_python_reads_is_valid_there(name: str) -> None:
    source = (ROOT / "rawservers" / name).read_text()
    ast.parse(source, feature_version=(3, 6))
    assert "annotations" not in source  # of __future__, which 3.6 does not know


def test_an_old_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 12))
    assert __main__.main() == 2
    assert capsys.readouterr().err == "rawservers needs Python 3.11 or later\n"


@pytest.mark.parametrize("minor", range(6, 11))
def test_an_old_python(minor: int) -> None:
    works = [path for folder in search_path() if version_of(path := folder / f"python3.{minor}") == f"3.{minor}"]
    if not works:
        pytest.skip(f"no Python 3.{minor}")  # Debian has none, so that the test command cannot install it
    done = subprocess.run([works[0], "-B", "-m", "rawservers"], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "rawservers needs Python 3.11 or later\n")


def test_the_installed_command_is_the_same() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"rawservers": "rawservers.__main__:main"}


def test_ctrl_c_ends_a_server_that_has_started(server: Server) -> None:
    server.address("http")
    server.signal(signal.SIGINT)
    assert server.wait() == 0
    assert server.complaints() == []
