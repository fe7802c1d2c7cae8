"""A line echo as an asyncio.Protocol, the fastest that asyncio has: python -m bench.peers.line_echo asyncio|uvloop PORT

As many whole lines as there are go back in one write. No line is parsed, limited or timed, nor is any Telnet spoken.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Coroutine
from typing import Any, cast


class LineEcho(asyncio.Protocol):
    transport: asyncio.Transport
    rest = b""  # of a line that is not complete yet

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        if self.rest:
            data = self.rest + data
        end = data.rfind(b"\n") + 1
        self.rest = data[end:]
        if end:
            self.transport.write(data[:end])


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(LineEcho, "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    loop, port = sys.argv[1:]
    run: Any = importlib.import_module(loop).run
    coroutine: Coroutine[Any, Any, None] = serve(int(port))
    run(coroutine)


if __name__ == "__main__":
    main()
