from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("tests.harness")  # before any of it is imported
pytest_plugins = ("pytester", "rawservers.testing.plugin")

from tests.harness.server import Server  # noqa: E402

# Upon Hypothesis's own profile, which is another one in CI: derandomized. No example is judged by its time.
settings.register_profile("tests", settings(), deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


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
