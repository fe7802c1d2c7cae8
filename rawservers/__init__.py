"""Two small servers on raw sockets: HTTP/1.0 and a line-based Telnet echo, over one bind, listen and accept core.

To read it all, begin where the bytes arrive: core/listener.py (a server socket), core/connection.py (an accepted one),
core/loop.py (waiting for many at once) and core/protocol.py (what is asked of whoever gives the bytes a meaning). Then
either conversation: telnet/nvt.py, options.py, editor.py, echo.py, or http/request.py, response.py, conversation.py,
site.py. Last, what makes servers of them: services.py, daemon/worker.py, config.py, cli.py.
"""

__version__ = "0.1.0"
