"""The source as a whole: import order and circles, purity, sizes of files and functions, names of classes, types and lint."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import rawservers
from tests import size
from tests.harness.needs import ROOT
from tests.size import TOTAL, Size

PACKAGE = ROOT / "rawservers"

# Which of our own modules a module may import: those in a lower layer, or its own room.
LAYERS = [
    {"core"},
    {"schema"},
    {"settings"},
    {"http", "telnet"},
    {"config", "logs"},
    {"sockets"},
    {"status"},
    {"watch", "welcome"},
    {"services"},
    {"daemon"},
    {"server"},
    {"cli", "testing"},
    {"__main__"},
]
PROTOCOLS_SEE = {"core.networks", "core.peer", "core.protocol", "core.record", "core.regular_file", "settings"}
PURE = {
    "config.keys",
    "config.positions",
    "core.errors",
    "core.networks",
    "core.peer",
    "core.protocol",
    "core.proxy",
    "core.record",
    "core.redaction",
    "daemon.transitions",
    "schema",
    "sockets",
    "http.auth",
    "http.request",
    "http.dates",
    "http.escapes",
    "http.forwarded",
    "http.health",
    "http.target",
    "http.negotiation",
    "http.response",
    "http.ranges",
    "http.stream",
    "http.conditional",
    "http.framing",
    "http.chunked",
    "http.conversation",
    "http.cache",
    "http.admission",
    "http.normalized",
    "http.epoch_cache",
    "http.listing.entries",
    "http.listing.entry",
    "http.listing.html",
    "http.listing.json",
    "telnet.nvt",
    "telnet.options",
    "telnet.editor",
    "telnet.client",
    "telnet.service",
    "telnet.session",
    "telnet.echo",
    "testing.matching",
    "testing.scripted",
    "welcome.table",
    "welcome.visitor",
}
IMPURE_MODULES = {"os", "socket", "select", "time", "logging"}

# Inside a room: a file, or a directory of files, may import those that come after it.
ORDERS = {
    "http": (
        "router", "site", "health", "users", "files", "listing", "cache", "admission", "normalized", "conversation",
        "epoch_cache", "framing", "chunked", "conditional", "ranges", "response", "stream", "negotiation", "dates", "target",
        "auth", "escapes", "forwarded", "request",
    ),
    "telnet": ("echo", "session", "service", "client", "editor", "options", "nvt"),
}  # fmt: skip

MAX_LINES = 400  # of a file
MAX_FUNCTION_LINES = 45

# The most of each room, as `python3 -m tests.size` counts, and of the whole package. What grows pays for it elsewhere.
BUDGET = {
    "__init__": Size(33, 285),
    "__main__": Size(19, 136),
    "cli": Size(278, 2908),
    "config": Size(512, 5260),
    "core": Size(2389, 20999),
    "daemon": Size(1661, 16015),
    "http": Size(2403, 23394),
    "logs": Size(470, 4546),
    "schema": Size(102, 1196),
    "server": Size(219, 1829),
    "services": Size(123, 1392),
    "settings": Size(131, 1605),
    "sockets": Size(109, 1048),
    "status": Size(134, 1345),
    "telnet": Size(594, 5663),
    "testing": Size(1036, 9794),
    "watch": Size(97, 865),
    "welcome": Size(262, 2772),
    TOTAL: Size(10572, 101052),
}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts), path


def imports(source: str) -> set[str]:
    """Every module that `source` imports, at any depth of it; of our own ones `rawservers.a` in `from rawservers import a`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            module = node.module or ""
            parts = {f"{module}.{alias.name}" for alias in node.names}
            modules = {part for part in parts if part.startswith("rawservers.") and is_module(part)}
            found |= modules
            if len(modules) < len(parts):
                found.add(module)
    return found


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


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
            order = ORDERS.get(room(module), ())
            importer, part = module.split(".")[1:2], other.split(".")[1:2]
            if order and importer != part and order.index(importer[0]) > order.index(part[0]):
                wrong.append(f"{module} imports {other}, which comes before it")
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
        ("status", "from rawservers.services import SERVICES"),
        ("config.converters", "from rawservers.services import SERVICES"),
        ("daemon.worker", "from rawservers.cli import main"),
        ("http.request", "from rawservers.http import dates"),
        ("http.negotiation", "from rawservers.http.response import Response"),
        ("telnet.nvt", "from rawservers.telnet.options import ECHO"),
    ],
)
def test_the_import_rule_notices(module: str, line: str) -> None:
    source = (PACKAGE / (module.replace(".", "/") + ".py")).read_text()
    assert violations(module, source) == []
    assert len(violations(module, f"{source}\n{line}\n")) == 1


def test_public_names_have_their_types() -> None:
    """Type checkers see the imports below TYPE_CHECKING, programs the table."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert {node.names[0].name: f"{node.module}" for node in imported} == {
        name: f"rawservers.{module}" for name, module in rawservers.PUBLIC.items()
    }


def circle(sources: Mapping[str, str]) -> list[str]:
    """The modules of an import circle, those inside functions and for the type checker included; none if there is none."""
    graph = {f"rawservers.{module}": imports(source) - {"rawservers"} for module, source in sources.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def sources() -> dict[str, str]:
    return {module: path.read_text() for module, path in modules() if module not in {"__init__", "__main__"}}


def test_no_import_circle() -> None:
    assert circle(sources()) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("core.connection", "def f():\n    from rawservers.core.limits import Connections"),
        ("daemon.startup", "from rawservers.daemon import worker"),
        ("settings", "if TYPE_CHECKING:\n    from rawservers.http.request import Request; from rawservers import settings"),
    ],
)
def test_an_import_circle_is_noticed(module: str, line: str) -> None:
    found = sources()
    found[module] += f"\n{line}\n"
    assert circle(found)


def clock_writes(source: str) -> list[str]:
    """Where `source` assigns to, or deletes, an attribute of a clock: of anything whose name ends in `clock`."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load) and ast.unparse(node.value).endswith("clock")
    ]


def test_protocols_only_read_the_clock() -> None:
    protocols = {module: source for module, source in sources().items() if room(module) in {"http", "telnet"}}
    assert len(protocols) > 20
    assert {module: clock_writes(source) for module, source in protocols.items() if clock_writes(source)} == {}


@pytest.mark.parametrize(
    "line",
    ["self._clock.epoch += 1", "clock.work = 0", "peer.clock.now: float = 1.0", "clock.time, x = 1, 2", "del self.clock.now"],
)
def test_a_write_to_the_clock_is_noticed(line: str) -> None:
    source = (PACKAGE / "http/conversation.py").read_text()
    assert clock_writes(source) == []
    assert len(clock_writes(f"{source}\n{line}\n")) == 1


def too_long(module: str, source: str) -> list[str]:
    """The file, if it has too many lines, and its functions that have."""
    found = [module] if source.count("\n") > MAX_LINES else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            if node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES:
                found.append(f"{module}.{node.name}")
    return found


def test_files_and_functions_are_short() -> None:
    assert {name for module, source in sources().items() for name in too_long(module, source)} == set()


def test_what_is_too_long_is_noticed() -> None:
    line = "    pass\n"
    assert too_long("m", "def f():\n" + line * (MAX_FUNCTION_LINES - 1)) == []
    assert too_long("m", "class C:\n  async def f():\n" + line * MAX_FUNCTION_LINES) == ["m.f"]
    assert too_long("m", "\n" * (MAX_LINES + 1)) == ["m"]


def over_budget(sizes: Mapping[str, Size], budget: Mapping[str, Size]) -> list[str]:
    """Which rooms are too large, by how much, and which have no budget."""
    found = [f"{room} has no budget" for room in sizes if room not in budget]
    for room in sizes.keys() & budget.keys():
        for unit, used, most in zip(Size._fields, sizes[room], budget[room], strict=True):
            if used > most:
                found.append(f"{room} is {used - most:,} {unit} over its budget of {most:,}")
    return sorted(found)


def test_the_rooms_are_within_their_budgets() -> None:
    assert over_budget(size.rooms(), BUDGET) == []
    assert set(BUDGET) == set(size.rooms())


def test_what_is_over_budget_is_noticed() -> None:
    sizes, budget = {"core": Size(10, 100), TOTAL: Size(10, 100)}, {"core": Size(10, 100), TOTAL: Size(10, 100)}
    assert over_budget(sizes, budget) == []
    assert over_budget(sizes | {"core": Size(12, 100)}, budget) == ["core is 2 lines over its budget of 10"]
    assert over_budget(sizes | {TOTAL: Size(10, 1101)}, budget) == ["total is 1,001 tokens over its budget of 100"]
    assert over_budget(sizes | {"tls": Size(1, 1)}, budget) == ["tls has no budget"]


def test_a_module_is_measured_without_comments_and_docstrings(tmp_path: Path) -> None:
    lines = [
        '"""Docstring,\nof two lines."""',
        "# comment",
        "",
        "def f(x: int) -> str:  # comment",  # 10 tokens
        '    """Docstring."""',
        '    return f"{x} {g(f\'{x}\')}" + """two',  # with the next line 4, however this Python cuts f-strings
        '    lines"""',
    ]
    module = "\n".join(lines) + "\n"
    assert size.measure(module) == Size(3, 14)
    for path in ("a.py", "room/b.py", "room/inner/c.py"):
        file = tmp_path / "rawservers" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(module)
    assert size.rooms(tmp_path) == {"a": Size(3, 14), "room": Size(6, 28), TOTAL: Size(9, 42)}


def class_names(source: str) -> Iterator[str]:
    """The names of classes, at any depth, and of type aliases."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias":
            yield ast.unparse(node.target)


def test_no_two_classes_have_one_name() -> None:
    counts = Counter(name for source in sources().values() for name in class_names(source))
    assert len(counts) > 50
    assert [name for name, count in counts.items() if count > 1] == []


def test_two_classes_of_one_name_are_noticed() -> None:
    planted = "class Clock:\n    class Peer: ...\nAddress: TypeAlias = str\n"
    counts = Counter(name for source in [*sources().values(), planted] for name in class_names(source))
    assert {name for name, count in counts.items() if count > 1} == {"Clock", "Peer", "Address"}


def test_no_run_time_dependency() -> None:
    names = {(room(name), module) for module, path in modules() for name in imports(path.read_text())}
    others = {pair for pair in names if pair[0] != "rawservers" and pair[0] not in sys.stdlib_module_names}
    # The first only pytest loads; the others are extras.
    assert others == {("pytest", "testing.plugin"), ("bcrypt", "http.users"), ("trustme", "daemon.self_signed")}


@pytest.mark.parametrize("tool", [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]])
def test_lint_and_types(tool: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *tool], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
