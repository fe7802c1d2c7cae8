"""The code and the tables of docs/embedding.md, and the examples of README.md that are tests, are true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.needs import ROOT

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = {
    f"{name}, block {number}": block
    for name in ("docs/embedding.md", "README.md")
    for number, block in enumerate(BLOCK.findall((ROOT / name).read_text()), 1)
}
TESTS = {name: block for name, block in BLOCKS.items() if "def test_" in block}
PROGRAMS = {name: block for name, block in BLOCKS.items() if block not in TESTS.values() and "README" not in name}


def test_there_are_some() -> None:
    assert len(TESTS) >= 4
    assert any("README" in name for name in TESTS)
    assert len(PROGRAMS) >= 2


@pytest.mark.parametrize("name", TESTS)
def test_a_block_of_tests_passes(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(TESTS[name])
    result = pytester.runpytest_subprocess("-p", "rawservers.testing.plugin", "-p", "pytest_httpserver.pytest_plugin")
    result.assert_outcomes(passed=TESTS[name].count("def test_"))


def test_all_blocks_are_typed_correctly(tmp_path: Path) -> None:
    """As somebody who annotates everything would see them, but for functions without annotations."""
    for number, block in enumerate(BLOCKS.values()):
        (tmp_path / f"block_{number}.py").write_text(block)
    flags = ["--strict", "--allow-untyped-defs", "--allow-untyped-calls", "--ignore-missing-imports", "--config-file="]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *flags, f"--cache-dir={ROOT / '.mypy_cache' / 'docs'}", *map(str, tmp_path.iterdir())],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("HELLO")
    done = subprocess.run([sys.executable, "-c", PROGRAMS[name]], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, "HELLO" in done.stdout) == (0, True), done.stderr
