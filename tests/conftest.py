from __future__ import annotations

import gc
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

pytest.register_assert_rewrite("tests.harness")  # before any of it is imported
pytest_plugins = ("pytester", "rawservers.testing.plugin")

from tests import distribution  # noqa: E402
from tests.harness.server import Server  # noqa: E402

# Upon Hypothesis's own profile, which is another one in CI: derandomized. No example is judged by its time.
CALM = {"deadline": None, "print_blob": True, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("quick", settings(), max_examples=60, **CALM)
settings.register_profile("slow", settings(), max_examples=1000, **CALM)
settings.load_profile("quick")


def is_slow(config: pytest.Config) -> bool:
    return config.getoption("markexpr") == "slow"


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("slow" if is_slow(config) else "quick")


@pytest.hookimpl(tryfirst=True)  # before they are selected by their marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Each property is tested in both suites: with few examples in the quick one, with many in the slow one."""
    for item in items:
        if is_slow(config) and is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker("slow")
    distribution.sort(items)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Thousands of tests are made, and all of them stay: nothing that the garbage collector need look at, now or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.hookimpl(optionalhook=True)  # there is none without pytest-xdist's -n
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> distribution.Scheduling:
    return distribution.Scheduling(config, log)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to serve, empty but for a file `f`."""
    root = tmp_path / "www"
    root.mkdir()
    (root / "f").write_bytes(b"content of f\n")
    return root


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    """Both servers, as they are started by hand, on free ports."""
    with Server(folder, "--http", "0", "--telnet", "0") as running:
        yield running
