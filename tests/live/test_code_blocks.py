"""Every code block of every document is run: Python, terminals, configuration files, units. Those that are not say why."""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import command
from tests.harness.auth import write_users
from tests.harness.documents import DOCUMENTS, Block, read_blocks
from tests.harness.needs import ROOT, need
from tests.harness.tls import issue
from tests.harness.transcript import Transcript

BLOCKS = [block for name in DOCUMENTS for block in read_blocks(name, (ROOT / name).read_text())]
IDLE = [block for block in BLOCKS if block.note.startswith("not run: ")]
RUN = [block for block in BLOCKS if block not in IDLE]
COPIES = [block for block in RUN if block.note.startswith("file: ")]
PYTHON = [block for block in RUN if block.language == "python" and block not in COPIES]
TESTS = [block for block in PYTHON if "def test_" in block.text]
PROGRAMS = [block for block in PYTHON if block not in TESTS]
TRANSCRIPTS = [block for block in RUN if block.language == "console"]
TOML = [block for block in RUN if block.language == "toml"]
DROP_INS = [block for block in RUN if block.language == "ini"]
HAPROXY = [block for block in RUN if block.language == "haproxy"]

# `serve` for a program of a document: it starts, on free ports, and stops.
START_AND_STOP = """
from rawservers.core.record import replace
import rawservers

def serve(config):
    listen = tuple(replace(each, address="127.0.0.1:0") for each in config.listen)
    with rawservers.Server(config=replace(config, listen=listen)):
        pass

rawservers.serve = serve
"""


def with_paths(text: str, folder: Path) -> str:
    """`text` with its paths below /etc, /run, /srv and /var in `folder`, where there is something of their kind."""
    for path in re.findall(r'"/((?:etc|run|srv|var)/[^"]+)"', text):
        place = folder / path
        (place.parent if place.suffix or place.name == "users" else place).mkdir(parents=True, exist_ok=True)
        if place.name == "users":
            write_users(place, "ada")
        elif place.suffix == ".pem":
            issued = issue(place.parent, name=place.stem)
            place.write_text(issued.certificate.read_text() + issued.key.read_text())  # for a document that names no key
    return re.sub(r'"/(?=(?:etc|run|srv|var)/)', f'"{folder}/', text)


def free_port(seed: random.Random) -> int:
    """A port that is free, and that the kernel gives to nobody who asks for any."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = seed.randrange(10000, max(lowest, 30000))
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def test_each_block_is_run_or_marked() -> None:
    done = [*COPIES, *PYTHON, *TRANSCRIPTS, *TOML, *DROP_INS, *HAPROXY]
    assert [str(block) for block in RUN if block not in done] == []
    assert len(done) == len(RUN) >= 60
    assert len(IDLE) <= 32, "most blocks are run"


@pytest.mark.parametrize("kind", [COPIES, PROGRAMS, TRANSCRIPTS, TOML, DROP_INS, HAPROXY])
def test_there_are_some_of_each_kind(kind: list[Block]) -> None:
    assert kind


def test_what_runs_the_others_is_there() -> None:
    named = [name for block in IDLE for name in re.findall(r"[\w/]+\.py", block.note)]
    assert len(named) >= 6
    assert [name for name in named if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("block", COPIES, ids=str)
def test_a_program_is_shown_as_it_is(block: Block) -> None:
    path = ROOT / block.note.removeprefix("file: ")
    assert block.text == path.read_text()
    assert block.text.count("\n") < 40


def test_the_blocks_of_tests_pass(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so do the tests in examples/."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    files = {re.sub(r"\W", "_", f"test_{block}"): block.text for block in TESTS}
    files |= {path.stem: path.read_text() for path in (ROOT / "examples").glob("test_*.py")}
    assert len(files) >= 6
    pytester.makepyfile(**files)
    result = pytester.runpytest_subprocess("-p", "rawservers.testing.plugin", "-p", "pytest_httpserver.pytest_plugin")
    result.assert_outcomes(passed=sum(text.count("def test_") for text in files.values()))


@pytest.mark.parametrize("block", PROGRAMS, ids=str)
def test_a_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: Block) -> None:
    """What it prints, if it prints, has HELLO in it: from its site, or from its client."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("HELLO")
    program = START_AND_STOP + with_paths(block.text, tmp_path)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("HELLO" in done.stdout) == ("print(" in block.text)


@pytest.mark.slow
def test_all_blocks_are_typed_correctly(tmp_path: Path) -> None:
    """As somebody who annotates everything would see them, but for functions without annotations."""
    for number, block in enumerate(PYTHON):
        (tmp_path / f"block_{number}.py").write_text(block.text)
    flags = ["--strict", "--allow-untyped-defs", "--allow-untyped-calls", "--ignore-missing-imports", "--config-file="]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *flags, f"--cache-dir={ROOT / '.mypy_cache' / 'docs'}", *map(str, tmp_path.iterdir())],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("block", TOML, ids=str)
def test_a_configuration_file_is_correct(tmp_path: Path, block: Block) -> None:
    path = tmp_path / "conf.toml"
    path.write_text(with_paths(block.text, tmp_path))
    done = command.run("-c", path, "--check")
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


@pytest.mark.parametrize("block", DROP_INS, ids=str)
def test_a_drop_in_is_correct(tmp_path: Path, block: Block) -> None:
    """Of the unit that is named behind the language."""
    verify_drop_in(tmp_path, block.argument, block.text)


def verify_drop_in(folder: Path, unit: str, text: str) -> None:
    """Raises AssertionError if systemd does not understand it, as a drop-in of one of our units."""
    for path in (ROOT / "systemd").glob("rawservers*.*"):
        shutil.copy(path, folder)
    (folder / f"{unit}.d").mkdir()
    (folder / f"{unit}.d" / "override.conf").write_text(text)
    done = subprocess.run([need("systemd-analyze"), "verify", str(folder / unit)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("block", HAPROXY, ids=str)
def test_haproxy_takes_it(tmp_path: Path, block: Block) -> None:
    """Beside a listener, and with HTTP as the default: a block is a part of a file."""
    paths = tmp_path / "rest.cfg", tmp_path / "block.cfg"
    paths[0].write_text(
        "defaults\n mode http\n timeout client 9s\n timeout server 9s\n timeout connect 9s\nlisten any\n bind :1\n"
    )
    paths[1].write_text(block.text)
    done = subprocess.run([need("haproxy"), "-c", "-f", str(paths[0]), "-f", str(paths[1])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ignored" not in done.stderr


SECTIONS = {(block.document, block.section): block.document for block in TRANSCRIPTS}


def show_sections(*sections: tuple[str, str]) -> None:
    """Play them one after the other, at the same terminals and on the same ports."""
    seed = random.Random()  # not the one that pytest-xdist's processes share
    ports = {port: str(free_port(seed)) for port in ("2323", "2324", "8080")}
    with Transcript({"python3 -m rawservers": "python3 -m rawservers --http 8080 --telnet 2323", **ports}) as transcript:
        for section in sections:
            for block in TRANSCRIPTS:
                if (block.document, block.section) == section:
                    transcript.play(block.argument, block.text)
            transcript.finish()


@pytest.mark.parametrize("section", SECTIONS, ids=": ".join)
def test_terminals_show_what_a_section_says(section: tuple[str, str]) -> None:
    show_sections(section)


@pytest.mark.slow
@pytest.mark.parametrize("document", dict.fromkeys(SECTIONS.values()))
def test_a_reader_goes_from_the_first_line_to_the_last(document: str) -> None:
    """What one section leaves behind does not disturb the next one: programs, and ports that are taken."""
    show_sections(*(section for section, name in SECTIONS.items() if name == document))


@pytest.mark.parametrize(
    ("expected", "shown", "result"),
    [
        ("$ echo one\none\n", "$ echo one\none\n$ ", True),
        ("$ echo one\ntwo\n", "$ echo one\none\n$ ", False),
        ("$ echo one\n", "$ echo one\none\n$ ", False),
        ("$ echo one\none\ntwo\n", "$ echo one\none\n$ ", False),
        ("$ cat f\n...\nthree\n", "$ cat f\none\ntwo\nthree\n", True),
        ("$ cat f\n...\nthree\n", "$ cat f\none\ntwo\nthree\nfour\n", False),
        ("40000 40001 40000\n", "51528 51530 51528\n", True),
        ("40000 40001 40000\n", "51528 51530 51530\n", False),
        ("40000 40001 40000\n", "51528 51528 51528\n", False),
        ("12345\n", "12346\n", False),  # a well-known port
        ("1234\n", "1235\n", False),
        ("after 3.012 s\n", "after 0.007 s\n", True),
    ],
)
def test_a_difference_is_noticed(expected: str, shown: str, result: bool) -> None:
    assert Transcript({"8080": "12345"}).matches(expected, shown) == result


def test_what_no_block_shows_is_noticed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f")
    with Transcript({}) as transcript:
        transcript.play("reader", f"$ cat {tmp_path}/f")
        transcript.play("writer", f"$ echo unseen > {tmp_path}/f")
        with pytest.raises(AssertionError, match=r"reader shows\n *unseen\n"):
            transcript.finish()
