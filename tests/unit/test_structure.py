"""The source as a whole: its layers, its purity, its types and its lint."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.needs import ROOT

PACKAGE = ROOT / "rawservers"

# Which of our own modules a module may import: those in a lower layer, or its own room.
LAYERS = [
    {"core"},
    {"settings"},
    {"http", "telnet"},
    {"logs"},
    {"services", "status"},
    {"config"},
    {"daemon"},
    {"cli"},
    {"__main__"},
]
PROTOCOLS_SEE = {"core.peer", "core.protocol", "settings"}
PURE = {
    "config.keys",
    "config.positions",
    "core.errors",
    "core.peer",
    "core.protocol",
    "http.request",
    "http.dates",
    "http.negotiation",
    "http.response",
    "http.ranges",
    "http.conditional",
    "http.framing",
    "http.conversation",
    "http.cache",
    "http.listing.entries",
    "http.listing.html",
    "http.listing.json",
    "telnet.nvt",
    "telnet.options",
    "telnet.editor",
    "telnet.client",
    "telnet.service",
    "telnet.session",
    "telnet.echo",
}
IMPURE_MODULES = {"os", "socket", "select", "time", "logging"}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts), path


def imports(source: str) -> set[str]:
    """Every module that `source` imports, at any depth of it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            found.add(node.module or "")
    return found


def room(module: str) -> str:
    return module.partition(".")[0]


def layer(module: str) -> int:
    return next(number for number, rooms in enumerate(LAYERS) if room(module) in rooms)


def violations(module: str, source: str) -> list[str]:
    """What `module` imports and must not."""
    wrong = []
    for imported in imports(source):
        if imported == "rawservers" or module == "__init__":
            continue
        if not imported.startswith("rawservers."):
            if module in PURE and room(imported) in IMPURE_MODULES:
                wrong.append(f"{module} is pure and imports {imported}")
            continue
        other = imported.removeprefix("rawservers.")
        if room(other) == room(module):
            continue
        if room(module) in {"http", "telnet"}:
            if other not in PROTOCOLS_SEE:
                wrong.append(f"{module} imports {other}, beyond the contract")
        elif layer(other) >= layer(module):
            wrong.append(f"{module} imports {other}, which is not below it")
    return wrong


def test_imports_point_down() -> None:
    found = dict(modules())
    assert set(found) >= PURE
    assert [line for module, path in found.items() for line in violations(module, path.read_text())] == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("http.request", "import os"),
        ("telnet.nvt", "import os.path"),
        ("http.conversation", "from time import time"),
        ("core.loop", "from rawservers.http.request import parse"),
        ("http.site", "from rawservers.telnet import nvt"),
        ("http.site", "from rawservers.core.loop import Loop"),
        ("services", "from rawservers.daemon.worker import Worker"),
        ("daemon.worker", "from rawservers.cli import main"),
    ],
)
def test_the_import_rule_notices(module: str, line: str) -> None:
    source = (PACKAGE / (module.replace(".", "/") + ".py")).read_text()
    assert violations(module, source) == []
    assert len(violations(module, f"{source}\n{line}\n")) == 1


def test_no_run_time_dependency() -> None:
    names = {room(name) for _, path in modules() for name in imports(path.read_text())}
    assert names - {"rawservers"} <= sys.stdlib_module_names


@pytest.mark.parametrize("tool", [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]])
def test_lint_and_types(tool: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *tool], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
