"""Two small servers on raw sockets: HTTP/1.0 and a line-based Telnet echo, over one bind, listen and accept core.

To read it all, begin where the bytes arrive: core/listener.py (a server socket), core/connection.py (an accepted one),
core/loop.py (waiting for many at once) and core/protocol.py (what is asked of whoever gives the bytes a meaning). Then either
conversation: telnet/nvt.py, options.py, editor.py and echo.py; or http/request.py, response.py and conversation.py, and for the
answers router.py, site.py, files.py, conditional.py, listing.py and cache.py. Last, what makes servers of them: services.py,
config.py, daemon/worker.py, supervisor.py and the others there, cli.py.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rawservers.config import Config as Config
    from rawservers.config import SiteConfig as SiteConfig
    from rawservers.daemon.worker import CannotStart as CannotStart
    from rawservers.daemon.worker import serve as serve
    from rawservers.http.request import Request as Request
    from rawservers.http.response import Response as Response

__version__ = "0.1.0"

# The public names, and where they are from. They are imported when first used, so that whoever wants a part of the package
# does not wait for the whole.
PUBLIC = {
    "CannotStart": "daemon.worker",
    "Config": "config",
    "Request": "http.request",
    "Response": "http.response",
    "SiteConfig": "config",
    "serve": "daemon.worker",
}


def __getattr__(name: str) -> object:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"rawservers.{PUBLIC[name]}"), name)
