"""Two small servers on raw sockets: HTTP/1.0 and a line-based Telnet echo, over one bind, listen and accept core.

Reading order: core/bind.py (socket, bind, listen), core/listener.py (accept), core/connection.py (receive, send, close),
core/loop.py (epoll) and core/protocol.py (the contract of a protocol). Then telnet/: nvt.py, options.py, editor.py, client.py,
service.py, session.py and echo.py; or http/: request.py, response.py, conversation.py, then router.py, site.py, files.py,
conditional.py, listing/ and cache.py.
Last services.py, settings.py, config/, logs/, daemon/ and cli.py, which make a daemon of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rawservers.core.peer import Peer as Peer
    from rawservers.core.protocol import Closing as Closing
    from rawservers.core.protocol import Deadline as Deadline
    from rawservers.core.protocol import Protocol as Protocol
    from rawservers.core.record import replace as replace
    from rawservers.daemon.startup import CannotStart as CannotStart
    from rawservers.daemon.worker import serve as serve
    from rawservers.http.request import Request as Request
    from rawservers.http.response import Response as Response
    from rawservers.server import Server as Server
    from rawservers.services import add_service as add_service
    from rawservers.settings import AuthConfig as AuthConfig
    from rawservers.settings import Config as Config
    from rawservers.settings import ListenConfig as ListenConfig
    from rawservers.settings import SiteConfig as SiteConfig
    from rawservers.settings import TLSConfig as TLSConfig

__version__ = "0.1.0"

# The public names, and where they are from. They are imported when first used, so that whoever wants a part of the package
# does not wait for the whole.
PUBLIC = {
    "AuthConfig": "settings", "CannotStart": "daemon.startup", "Closing": "core.protocol", "Config": "settings",
    "Deadline": "core.protocol", "ListenConfig": "settings", "Peer": "core.peer", "Protocol": "core.protocol",
    "Request": "http.request", "Response": "http.response", "Server": "server", "SiteConfig": "settings",
    "TLSConfig": "settings", "add_service": "services", "replace": "core.record", "serve": "daemon.worker",
}  # fmt: skip


__all__ = list(PUBLIC)


def __dir__() -> "list[str]":  # in quotes for an old Python, which comes here before `__main__`
    return sorted({*globals(), *PUBLIC})


def __getattr__(name: str) -> object:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"rawservers.{PUBLIC[name]}"), name)
