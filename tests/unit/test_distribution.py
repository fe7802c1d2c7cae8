"""How the tests are shared among processes."""

from __future__ import annotations

import pytest

from tests.distribution import LONG, SHARING, Scheduling, sort
from tests.harness.needs import ROOT


def test_the_files_that_begin_first_are_there() -> None:
    assert [name for name in (*SHARING, *LONG) if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize(
    ("nodeid", "scope"),
    [
        ("tests/live/test_browser.py::test_by_keyboard", "tests/live/test_browser.py"),
        ("tests/unit/http/test_lint.py::test_x[a::b]", "tests/unit/http/test_lint.py"),
        ("tests/live/test_reload.py::test_x[lines-4]", "tests/live/test_reload.py::test_x[lines-4]"),
    ],
)
def test_what_one_process_has(nodeid: str, scope: str) -> None:
    assert Scheduling._split_scope(object.__new__(Scheduling), nodeid) == scope


def test_their_order(request: pytest.FixtureRequest) -> None:
    """The tests of this run are sorted already."""
    items = list(request.session.items)
    sort(items)
    assert items == request.session.items
