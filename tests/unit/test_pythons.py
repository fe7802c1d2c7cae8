"""What the tests run under: the Pythons that are found, and the profile of the property tests."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import __main__ as command
from tests.pythons import VERSIONS, find_pythons, search_path


def script(path: Path, text: str, mode: int = 0o755) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)


def test_the_first_that_works_of_each_version(tmp_path: Path) -> None:
    shims, one, two = (tmp_path / name for name in ("shims", "one", "two"))
    for version in VERSIONS:
        script(shims / f"python{version}", "echo pyenv: command not found >&2; exit 127")
    script(one / "python3.12", "echo 3.12")
    script(two / "python3.12", "echo 3.12")
    script(two / "python3.11", "echo 3.11")
    script(two / "python3.10", "echo 3.10")
    assert find_pythons([tmp_path / "nowhere", shims, one, two]) == {
        "3.11": str(two / "python3.11"),
        "3.12": str(one / "python3.12"),
    }


@pytest.mark.parametrize(
    ("text", "mode"),
    [("echo 3.12", 0o644), ('case "$2" in *ensurepip*) exit 1; esac; echo 3.12', 0o755), ("echo 3.13", 0o755)],
    ids=["not executable", "without venv", "another version"],
)
def test_one_that_is_of_no_use(tmp_path: Path, text: str, mode: int) -> None:
    script(tmp_path / "python3.12", text, mode)
    assert find_pythons([tmp_path]) == {}


def test_where_pythons_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"/a{os.pathsep}/b")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(tmp_path / "none"))
    for version in ("3.12.1", "3.13.0"):
        (tmp_path / "versions" / version).mkdir(parents=True)
    managed = [tmp_path / "versions" / version / "bin" for version in ("3.13.0", "3.12.1")]
    assert search_path() == [Path("/a"), Path("/b"), *managed]

    def refuse(path: Path) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)  # another user's, whose environment was kept
    assert search_path() == [Path("/a"), Path("/b")]


def test_no_example_is_judged_by_its_time() -> None:
    assert settings.default is not None
    assert settings.default.deadline is None
    assert settings.default.print_blob
    assert HealthCheck.too_slow in settings.default.suppress_health_check
    assert settings.default.derandomize == bool(os.environ.get("CI"))


def test_a_run_that_is_killed_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    this = "{}.{}".format(*sys.version_info)
    (other, *_) = (version for version in VERSIONS if version != this)
    monkeypatch.setattr(command, "find_pythons", lambda folders: {other: "other"})
    monkeypatch.setattr(command, "make_environment", lambda python, name: Path("false" if python == "other" else "true"))
    runs: list[list[str]] = []

    def run(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
        runs.append(list(map(str, arguments)))
        return subprocess.CompletedProcess(arguments, 0 if arguments[0] == Path("true") else -9)

    monkeypatch.setattr(command.subprocess, "run", run)
    assert command.run_all() == 1
    assert runs == [["true", "-m", "pytest"], ["false", "-m", "pytest", "tests/unit"]]
    assert capsys.readouterr().out.startswith(f"Pythons found: {this} ({sys.executable}) {other} (other)\n")


@pytest.mark.parametrize(
    ("in_ci", "failed", "statuses", "expected"),
    [
        (True, ["tests/unit/test_a.py::test_b[x y]"], [1, 0], 0),
        (True, ["tests/unit/test_a.py::test_b[x y]"], [1, 1], 1),
        (True, [f"tests/test_a.py::test_{number}" for number in range(4)], [1], 1),
        (True, [], [1], 1),
        (True, ["tests/test_a.py::test_b"], [2], 2),
        (True, ["tests/test_a.py::test_b"], [-9], -9),
        (True, ["tests/test_a.py::test_b"], [0], 0),
        (False, ["tests/test_a.py::test_b"], [1], 1),
    ],
)
def test_in_ci_a_few_failures_are_run_once_more_and_named(
    in_ci: bool, failed: list[str], statuses: list[int], expected: int,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setenv("CI", "true" if in_ci else "")
    cache = tmp_path / ".pytest_cache/v/cache/lastfailed"
    cache.parent.mkdir(parents=True)
    cache.write_text('{"tests/of_another_run.py::test_x": true}')
    runs: list[list[str]] = []
    left = iter(statuses)

    def run(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
        runs.append(arguments[3:])
        cache.write_text(json.dumps(dict.fromkeys(failed, True)))
        return subprocess.CompletedProcess(arguments, next(left))

    monkeypatch.setattr(command.subprocess, "run", run)
    assert command.run_pytest("python", ["-m", "slow", "tests/unit"]) == expected
    assert runs == [["-m", "slow", "tests/unit"], ["-m", "slow", "-n", "0", *failed]][: len(statuses)]
    said = capsys.readouterr().out
    assert ("UNSTEADY" in said, "Failed again" in said) == (statuses == [1, 0], statuses == [1, 1])
    assert all(name in said for name in failed) or len(statuses) == 1
