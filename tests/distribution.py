"""How pytest-xdist's processes share the tests: file by file, so that each server of a module is started once.

Marks (`--dist loadgroup`) have no effect: pytest 9.2 ignores the names that pytest-xdist 3.8 gives to the tests of a group.
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadFileScheduling

# What takes long begins first, so that no process is left with it alone. Its tests share little: they go one by one.
LONG = {
    f"tests/{name}.py": at
    for at, name in enumerate(
        (
            "unit/fuzz/test_fuzzing",
            "unit/test_structure",
            "live/test_testing_plugin",
            "live/test_code_blocks",
            "live/test_reload",
            "live/test_sockets",
            "live/test_command",
            "live/test_status",
            "live/test_stop",
            "live/test_workers",
            "live/test_access_log",
            "live/test_telnet",
            "live/test_telnet_clients",
            "live/test_http",
            "unit/http/test_cache_property",
            "unit/telnet/test_steps",
        )
    )
}
# So do these, each as a whole: the tests share a browser, a build, or a machine.
SHARING = {f"tests/live/test_{name}.py" for name in ("browser", "image", "packages", "systemd")}


def path_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


class Scheduling(LoadFileScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return nodeid if path_of(nodeid) in LONG else path_of(nodeid)


def sort(items: list[pytest.Item]) -> None:
    """Put first what begins first."""

    def place(item: pytest.Item) -> int:
        path = path_of(item.nodeid)
        return -1 if path in SHARING else LONG.get(path, len(LONG))

    items.sort(key=place)
