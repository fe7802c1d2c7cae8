"""Completions of the command in real shells, and the manual page in real formatters."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rawservers.cli import make_parser
from tests.harness.clients import private, run
from tests.harness.needs import ROOT, need
from tests.harness.server import Server
from tests.harness.terminal import Terminal
from tests.harness.waiting import until
from tools.generate import FILES

COMPLETIONS = ROOT / "completions"
ALL_OPTIONS = [name for action in make_parser()._actions for name in action.option_strings if name.startswith("--")]

# What is typed, and what the shell makes of it.
COMPLETED = [
    ("--print", "--print-config"),
    ("--format j", "--format json"),
    ("--format=j", "--format=json"),
    ("--access-log of", "--access-log off"),
    ("--access-log ac", "--access-log access.log"),
    ("--telnet o", "--telnet off"),
    ("--telnet 127.0.0.1:2", "--telnet 127.0.0.1:2323"),
    ("--http 80 --telnet 127", "--http 80 --telnet 127.0.0.1:2323"),
    ("--status unix:", "--status unix:/run/rawservers/status"),
    ("--https 127", "--https 127.0.0.1:8443"),
    ("--certificate si", "--certificate site.toml"),
    ("--workers a", "--workers auto"),
    ("--user daem", "--user daemon"),
    ("-c si", "-c site.toml"),
    ("--config si", "--config site.toml"),
    ("--listing pu", "--listing public/"),
]


@pytest.mark.parametrize("name", FILES)
def test_what_is_generated_is_up_to_date(name: str) -> None:
    assert (ROOT / name).read_text() == FILES[name](), "python3 -m tools.generate"


def test_the_reference_has_every_option() -> None:
    """In its synopsis, and in its table."""
    synopsis, table = re.findall(r"(?m)(?:^(?: {4}|\|).*\n)+", (ROOT / "docs" / "reference.md").read_text())[:2]
    for action in make_parser()._actions:
        if action.option_strings:
            pattern = "|".join(map(re.escape, action.option_strings))
            assert re.search(rf"[|\[]({pattern})[] ]", synopsis.replace("--[no-]listing", "--listing")), pattern
            assert re.search(f"`({pattern})[` ]", table), pattern


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder to complete names in."""
    (tmp_path / "public").mkdir()
    (tmp_path / "public" / "index.html").touch()
    for name in ("site.toml", "access.log"):
        (tmp_path / name).touch()
    return tmp_path


class Shell(Terminal):
    """An interactive one, which has run `setup`. Its prompt is a dollar sign."""

    def __init__(self, place: Path, setup: str, *command: str) -> None:
        super().__init__(*command)
        self.type(f"cd {place}; PS1='$ '; {setup}; clear\n")
        self.shows(["$ "])

    def completes(self, typed: str, expected: str) -> None:
        """It writes the rest of what was typed. Then the line is removed."""
        self.type(f"rawservers {typed}\t")
        until(lambda: f"$ rawservers {expected}" in map(str.rstrip, self.rows()), f"{typed} to become {expected}")
        self.clear()

    def clear(self) -> None:
        self.type("\x05\x15\x0c")  # Ctrl-E, Ctrl-U, Ctrl-L
        self.shows(["$ "])

    def lists(self, typed: str, *words: str) -> set[str]:
        """It lists these words, and perhaps others; or writes the only one. All that stands on the screen."""
        self.type(f"rawservers {typed}\t")
        until(lambda: set(words) <= self.words(), f"{words} after {typed}")
        found = self.words()
        self.clear()
        return found

    def words(self) -> set[str]:
        return set(" ".join(self.rows()).split())


def bash(place: Path) -> Shell:
    settings = (
        "bind 'set bell-style none' 'set completion-query-items 0' 'set page-completions off' 'set show-all-if-ambiguous on'"
    )
    setup = f"{settings}; . {COMPLETIONS}/rawservers"
    return Shell(place, setup, "bash", "--norc", "--noprofile", "-i")


def zsh(place: Path) -> Shell:
    setup = f"fpath=({COMPLETIONS} $fpath); autoload -Uz compinit; compinit -u -D; unsetopt list_ambiguous prompt_sp"
    return Shell(place, setup, "zsh", "-f", "-i")


SHELLS = [bash, zsh]


@pytest.mark.parametrize("shell", SHELLS)
def test_options_and_values(shell: Callable[[Path], Shell], place: Path) -> None:
    with shell(place) as running:
        for typed, expected in COMPLETED:
            running.completes(typed, expected)
        running.lists("--", *ALL_OPTIONS)
        running.lists("", "public/", "site.toml")


def fish(place: Path, typed: str) -> list[str]:
    """The words that it offers for the last one of the line `rawservers TYPED`."""
    program = f"source {COMPLETIONS}/rawservers.fish; complete -C $argv[1]"
    command = [need("fish"), "--no-config", "-c", program, f"rawservers {typed}"]
    lines = run(*command, cwd=place, env=private(place / "home", LC_ALL="C.UTF-8")).decode().splitlines()
    return [line.partition("\t")[0] for line in lines]


def test_options_and_values_in_fish(place: Path) -> None:
    for typed, expected in COMPLETED:
        offered = fish(place, typed)
        assert [word for word in offered if word.startswith(typed.split()[-1])] == [expected.split()[-1]], typed
    assert set(ALL_OPTIONS) <= set(fish(place, "--"))
    assert {"public/", "site.toml"} <= set(fish(place, ""))


@pytest.mark.slow
def test_servers_are_offered_and_their_workers_are_not(server: Server, place: Path) -> None:
    """To --reload and to --status, as they are found with ps."""
    need("ps")
    until(server.workers, "the workers")
    pid, workers = str(server.process.pid), list(map(str, server.workers()))
    for shell in SHELLS:
        with shell(place) as running:
            for typed, prefix in (("--reload ", ""), ("--status ", "pid:")):
                assert not {prefix + worker for worker in workers} & running.lists(typed, prefix + pid)
    for typed, prefix in (("--reload ", ""), ("--status ", "pid:"), ("--status=", "--status=pid:")):
        offered = fish(place, typed)
        assert prefix + pid in offered
        assert not {prefix + worker for worker in workers} & set(offered)


# The manual page


def test_groff_has_no_warning_of_the_manual_page() -> None:
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "80"}
    command = [need("man"), "--warnings=w", "--local-file", ROOT / "docs" / "rawservers.1"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    shown = done.stdout.replace("\b", "")
    for name in ALL_OPTIONS:
        assert name in shown
    for line in ("rawservers /srv/www -p 8000 --telnet off", "       -c, --config FILE", "       --user NAME[:GROUP]"):
        assert line in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_mandoc_has_no_warning_of_the_manual_page() -> None:
    command = [need("mandoc"), "-T", "lint", "-W", "warning", ROOT / "docs" / "rawservers.1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
