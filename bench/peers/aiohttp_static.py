"""aiohttp's own way to serve a folder, with its access log on: python -m bench.peers.aiohttp_static DIR PORT"""

from __future__ import annotations

import logging
import sys

from aiohttp import web


def main() -> None:
    folder, port = sys.argv[1:]
    logging.basicConfig(level=logging.INFO)
    app = web.Application()
    app.add_routes([web.static("/", folder)])
    web.run_app(app, host="127.0.0.1", port=int(port), print=None)


if __name__ == "__main__":
    main()
