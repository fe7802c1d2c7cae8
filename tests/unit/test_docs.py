"""The documents: the functions, tests, files and link targets that they name exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from bench import faults, hostile
from tests.harness import wire
from tests.harness.documents import DOCUMENTS
from tests.harness.needs import ROOT

ARCHITECTURE = ROOT / "docs" / "architecture.md"

CODE = re.compile(r"`([^`\n]+)`")
REFERENCE = re.compile(r"([\w./-]+\.py):([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)")
FILE = re.compile(r"[\w./-]+\.py")
TEST = re.compile(r"test_\w+")
LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def source(path: str) -> Path | None:
    """The file that a document means by `path`: from the root of the project, or from the package."""
    return next((place for place in (ROOT / path, ROOT / "rawservers" / path) if place.is_file()), None)


@cache
def names(path: Path) -> frozenset[str]:
    """The dotted names of all that is defined in a module: functions, classes, and what is assigned in them or beside them."""
    return frozenset(defined(ast.parse(path.read_text()).body, ""))


def defined(body: list[ast.stmt], before: str) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield before + node.name
            yield from defined(node.body, f"{before}{node.name}.")
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield from (before + each.id for each in ast.walk(target) if isinstance(each, ast.Name))


@cache
def known_tests() -> frozenset[str]:
    return frozenset(name for path in (ROOT / "tests").rglob("test_*.py") for name in names(path))


def missing(text: str) -> list[str]:
    """What `text` names in backticks, as a file, a function or a test, and is not there."""
    return [code for code in CODE.findall(FENCE.sub("", text)) if not is_there(code)]


def is_there(code: str) -> bool:
    """Whether what is named by `code` exists, as far as it names a file, a function or a test."""
    if match := REFERENCE.fullmatch(code):
        path = source(match[1])
        return path is not None and match[2] in names(path)
    if ".py:" in code:
        return False  # nearly a reference
    if FILE.fullmatch(code):
        return source(code) is not None or ("/" not in code and any((ROOT / "rawservers").rglob(code)))
    return not TEST.fullmatch(code) or code in known_tests()


def broken(text: str, folder: Path) -> list[str]:
    """The relative links of `text`, a document in `folder`, that lead to no file or folder of the project."""
    targets = [target.partition("#")[0] for target in LINK.findall(FENCE.sub("", text)) if not re.match("[a-z]+:", target)]
    return [
        target
        for target in targets
        if target and not ((folder / target).exists() and (folder / target).resolve().is_relative_to(ROOT))
    ]


def test_what_documents_name_is_there() -> None:
    text = ARCHITECTURE.read_text()
    assert len([code for code in CODE.findall(text) if REFERENCE.fullmatch(code)]) >= 50  # or they are not found
    assert {name: missing((ROOT / name).read_text()) for name in DOCUMENTS} == {name: [] for name in DOCUMENTS}


def test_the_limits_of_the_threat_model_are_there() -> None:
    """Each `NAME` in `FILE` and `FILE` is a constant of these modules."""
    named = re.findall(r"`([A-Z_]+)` in (`[a-z_/]+\.py`(?: and `[a-z_/]+\.py`)?)", (ROOT / "SECURITY.md").read_text())
    assert len(named) >= 9
    for name, files in named:
        for file in re.findall(r"`(.+?)`", files):
            assert re.search(rf"(?m)^{name} = ", (ROOT / "rawservers" / file).read_text()), (name, file)


def test_what_the_protocols_name_is_there() -> None:
    """Vectors, in the tables of tests without backticks."""
    text = (ROOT / "docs" / "protocols.md").read_text()
    cases = {case["name"] for name in ("http", "http_files") for case in wire.load(name)}
    named = {
        name for row in re.findall(r"^\| 9.*\| (.*) \|$", text, re.MULTILINE) for name in row.split(", ") if "`" not in name
    }
    assert len(named) > 20
    assert named - cases == set()


def test_each_promise_has_tests_that_hold_it() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    assert missing(text) == []
    table = text.partition("| promise |")[2].partition("\n\n")[0]
    rows = [row.split(" | ")[-1] for row in table.splitlines()[2:]]
    assert len(rows) >= 15
    assert all(TEST.search(row) for row in rows)


def test_each_fault_has_a_test_or_an_attack() -> None:
    """And each kind of attack is named."""
    text = (ROOT / "docs" / "faults.md").read_text()
    assert missing(text) == []
    rows = re.findall(r"^\| .* \| .* \| (.*) \|$", text, re.MULTILINE)
    named = {name for row in rows if row != "test or attack" for name in row.split(", ")}
    attacks = {name for name in named if not TEST.fullmatch(name.strip("`"))}
    assert len(named - attacks) > 80
    assert attacks == {*hostile.kinds(), faults.MULTITUDE}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    assert broken(path.read_text(), path.parent) == []


@pytest.mark.parametrize(
    "code",
    [
        "core/loop.py:Loop.sleep",
        "core/loop.py:sleep",
        "core/sleep.py:Loop.run",
        "core/loop.py:run()",
        "core/sleep.py",
        "tests/unit/core/test_connection.py:test_nothing",
        "test_nothing_of_the_kind",
    ],
)
def test_a_name_that_is_not_there_is_noticed(code: str) -> None:
    assert missing(f"`{code}`") == [code]


@pytest.mark.parametrize(
    "code",
    [
        "core/loop.py:Loop.run",
        "rawservers/core/loop.py:TICK",
        "core/connection.py:Connection.failed",
        "services.py:prepare_telnet",
        "tests/live/test_examples.py:test_a_third_protocol",
        "test_a_third_protocol",
        "core/loop.py",
        "loop.py",
    ],
)
def test_a_name_that_is_there_is_found(code: str) -> None:
    assert missing(f"`{code}`") == []


def test_a_broken_link_is_noticed() -> None:
    text = "[a](README.md) ![b](bench/results.svg) [c](README.md#licence) [d](#licence) [e](https://example.org/f)"
    assert broken(text, ROOT) == []
    assert broken(f"{text} [g](nowhere.md) [h](docs/nowhere.md#here)", ROOT) == ["nowhere.md", "docs/nowhere.md"]
    assert broken("[i](../../nowhere)", ROOT / "docs") == ["../../nowhere"]
