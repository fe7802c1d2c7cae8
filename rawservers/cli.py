"""The command line: argv -> Config -> run. Exit status 0 after an orderly stop, 2 when it cannot start."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from rawservers import __version__
from rawservers.config import Config, SiteConfig
from rawservers.core.listener import Endpoint
from rawservers.daemon.worker import CannotStart, Worker, reason

DESCRIPTION = "A tiny HTTP/1.0 server and a line-based Telnet echo, on raw sockets."
ADDRESSES = (
    "ADDRESS is HOST:PORT, [IPV6]:PORT, PORT (loopback), :PORT (every interface, IPv4 and IPv6), unix:PATH, or off; "
    "port 0 takes a free one. Each --http and --telnet adds one."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the servers as `argv` says, and give the exit status."""
    config = parse(argv)
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.INFO)
    logging.raiseExceptions = False  # a closed standard error is no reason to fail
    try:
        for site in config.sites:
            check_folder(site.root)
        worker = Worker(config)
    except CannotStart as error:
        print(f"rawservers: {error}", file=sys.stderr)
        return 2
    worker.run()
    return 0


def parse(argv: Sequence[str] | None) -> Config:
    """The Config that `argv` asks for. A wrong command line ends the process with status 2."""
    default = Config()
    parser = argparse.ArgumentParser("rawservers", description=DESCRIPTION, epilog=ADDRESSES, allow_abbrev=False)
    parser.add_argument("root", nargs="?", metavar="DIR", help="the folder to serve (default: a welcome page)")
    for name, usual in default.listen:
        parser.add_argument(f"--{name}", action="append", type=address, metavar="ADDRESS", help=f"default: {usual}")
    parser.add_argument(
        "--access-log",
        default=default.access_log,
        metavar="FILE",
        help="a file to append to, - for standard output (the default), or off",
    )
    parser.add_argument("--listing", action="store_true", help="list folders that have no index.html")
    parser.add_argument("--version", action="version", version=f"rawservers {__version__}")
    said = parser.parse_args(argv)
    listen = [(name, where) for name, usual in default.listen for where in getattr(said, name) or [usual]]
    site = SiteConfig(said.root or SiteConfig().root, listing=said.listing)
    return Config(sites=(site,), listen=tuple(row for row in listen if row[1] != "off"), access_log=said.access_log)


def address(text: str) -> str:
    """An argument that must be an address, or "off"."""
    try:
        if text != "off":
            Endpoint.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def check_folder(folder: str) -> None:
    """Fail now rather than with every request."""
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise CannotStart(f"cannot serve {folder}: {reason(error)}") from error
