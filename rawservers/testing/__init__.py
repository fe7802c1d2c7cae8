"""Servers for tests of clients: what they answer, what they were asked, and faults on purpose.

`plugin.py` has the fixtures for pytest. Without pytest, both classes are context managers. Reading order: `scripted.py` plays
answers with faults, `replies.py` describes them, `matching.py` compares requests, `content.py` makes responses, `fixture.py` is
a server, `http.py` and `telnet.py` the two kinds. The types of the factories are `HTTPServerFactory` and `TelnetServerFactory`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rawservers.testing.http import HTTPServer as HTTPServer
    from rawservers.testing.http import HTTPServerFactory as HTTPServerFactory
    from rawservers.testing.matching import RecordedRequest as RecordedRequest
    from rawservers.testing.telnet import TelnetServer as TelnetServer
    from rawservers.testing.telnet import TelnetServerFactory as TelnetServerFactory

# Imported when first used: the plugin, which every run of pytest loads, lies in this package.
PUBLIC = {
    "HTTPServer": "http", "HTTPServerFactory": "http", "RecordedRequest": "matching", "TelnetServer": "telnet",
    "TelnetServerFactory": "telnet",
}  # fmt: skip

__all__ = list(PUBLIC)


def __getattr__(name: str) -> object:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PUBLIC[name]}"), name)
