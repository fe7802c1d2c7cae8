"""The command line: argv -> Config -> run.

Exit status 0 after an orderly stop, 2 for a wrong command line or when the system refuses what was asked for, 78 for a wrong
configuration file (EX_CONFIG in <sysexits.h>).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rawservers import __version__
from rawservers.core.bind import Endpoint
from rawservers.core.errors import os_error_text
from rawservers.daemon import systemd
from rawservers.daemon.supervisor import Supervisor, descriptors, normalise, reload
from rawservers.daemon.worker import CannotStart
from rawservers.logs import error as error_log
from rawservers.settings import ADDRESSES, Config, ConfigError, ListenConfig, check_user, settings_of

DESCRIPTION = "A tiny HTTP/1.0 server and a line-based Telnet echo, on raw sockets."
ADDRESS = (
    "ADDRESS is HOST:PORT, [IPV6]:PORT, PORT (loopback), :PORT (every interface, IPv4 and IPv6), unix:PATH, or off; "
    "port 0 takes a free one. Each --http and --telnet adds one. Without any, here and in the configuration file, both are "
    "served on their default addresses."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the servers as `argv` says, and give the exit status."""
    said = parse(argv)
    try:
        if said.status is not None:
            sys.stdout.write(ask(said.status, said.format))
        elif said.check or said.reload is not None:
            configure(said)
            if said.reload is not None:
                reload(said.reload)
            print("ok")
        else:
            return run(said)
    except ConfigError as error:
        print(*error.errors, sep="\n", file=sys.stderr)
        return os.EX_CONFIG
    except CannotStart as error:
        print(f"rawservers: {error}", file=sys.stderr)
        return 2
    return 0


def run(said: argparse.Namespace) -> int:
    """Serve until told to stop; the exit status."""
    normalise()
    foreign = descriptors()
    try:
        inherited = systemd.inherited(ADDRESSES)
    except ValueError as error:
        raise CannotStart(str(error)) from error
    error_log.install()
    return Supervisor(lambda: configure(said, inherited), foreign).run()


def ask(address: str, form: str) -> str:
    """What the server whose status service has this address says of itself. Raises CannotStart."""
    from rawservers import status  # here, since a start has no use for it before it is asked

    try:
        return status.ask(address, form)
    except (OSError, ValueError) as error:
        raise CannotStart(f"cannot ask for the status at {address}: {os_error_text(error)}") from error


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What `argv` says. A wrong command line ends the process with status 2."""
    default = Config()
    parser = argparse.ArgumentParser("rawservers", description=DESCRIPTION, epilog=ADDRESS, allow_abbrev=False)
    add = parser.add_argument
    add("root", nargs="?", metavar="DIR", help="the folder to serve (default: a welcome page)")
    for listener in default.listen:
        usual = f"default: {listener.address}"
        add(f"--{listener.service}", action="append", type=address, default=[], metavar="ADDRESS", help=usual)
    add("--access-log", metavar="FILE", help="a file to append to, - for standard output (the default), or off")
    add("--listing", action="store_true", help="list folders that have no index.html")
    add("--workers", type=workers, metavar="N", help=f"processes that serve, or auto (default: {default.workers})")
    add("--user", type=user, metavar="NAME[:GROUP]", help="whom they become when started as root")
    add("-c", "--config", metavar="FILE", help="a configuration file, over which the options here win")
    add("--check", action="store_true", help="say whether all that is configured is well, and end")
    add("--reload", type=int, metavar="PID", help="have the server with this process id reload, and wait until it has")
    add("--status", nargs="?", const=ADDRESSES["status"], metavar="ADDRESS", help="ask a running server what it does")
    add("--format", choices=("text", "json", "prometheus"), default="text", help="of the status (default: text)")
    add("--version", action="version", version=f"rawservers {__version__}")
    return parser.parse_args(argv)


def configure(said: argparse.Namespace, inherited: Mapping[str, Sequence[int]] | None = None) -> Config:
    """The Config that the command line and the configuration file ask for: the file is read anew with each call.

    said: what `parse` gave. inherited: the descriptors of listening sockets by the service they are meant for. Raises
    ConfigError for the file, CannotStart for the command line.
    """
    config = configured(said)
    first = config.sites[0]
    if said.root is not None:
        check_folder(said.root)
        first = replace(first, root=said.root)
    flags = {listener.service: getattr(said, listener.service) for listener in Config().listen}
    listen = listeners(flags, config.listen, inherited or {})
    if not listen:
        raise CannotStart("nothing to serve")
    return replace(
        config,
        sites=(replace(first, listing=said.listing or first.listing), *config.sites[1:]),
        listen=listen,
        access_log=config.access_log if said.access_log is None else said.access_log,
        workers=config.workers if said.workers is None else said.workers,
        user=config.user if said.user is None else said.user,
    )


def configured(said: argparse.Namespace) -> Config:
    """What the configuration file says, or the defaults; without listeners unless the file has some. Raises ConfigError."""
    if said.config is None:
        return Config(listen=())
    from rawservers.config.toml import load  # here, since it takes time, and most starts have no use for it

    given = {"http.root": said.root, "log.access": said.access_log, "user": said.user}
    return load(said.config, [key for key, value in given.items() if value is not None])


def listeners(
    flags: Mapping[str, Sequence[str]], configured: Sequence[ListenConfig], inherited: Mapping[str, Sequence[int]]
) -> tuple[ListenConfig, ...]:
    """What to serve where, service by service: on inherited sockets, else where flags say, else where the file says.

    The defaults count only where nobody says anything but "off".
    """
    said = {name: [where for where in addresses if where != "off"] for name, addresses in flags.items()}
    if not configured and not any(inherited.values()) and not any(said.values()):
        return tuple(listener for listener in Config().listen if not flags.get(listener.service))
    found: list[ListenConfig] = []
    for name in dict.fromkeys([*flags, *inherited, *(listener.service for listener in configured)]):
        if inherited.get(name):
            found += [ListenConfig(name, f"fd:{fd}") for fd in inherited[name]]
        elif flags.get(name):
            found += [ListenConfig(name, where) for where in said[name]]
        else:
            found += [listener for listener in configured if listener.service == name]
    return tuple(found)


def address(text: str) -> str:
    """An argument that must be an address, or "off"."""
    try:
        if text != "off":
            Endpoint.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def workers(text: str) -> int:
    """An argument that must be a number of processes, or "auto": 0."""
    setting = settings_of(Config)["workers"]
    if text == "auto":
        return 0
    if not re.fullmatch("[0-9]{1,9}", text) or not setting.least <= int(text) <= setting.most:
        raise argparse.ArgumentTypeError(f'expected a number from {setting.least} to {setting.most}, or "auto", not {text!r}')
    return int(text)


def user(text: str) -> str:
    """An argument that must be a user's name, and perhaps a group's."""
    try:
        check_user(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def check_folder(folder: str) -> None:
    """Fail now rather than with every request."""
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise CannotStart(f"cannot serve {folder}: {os_error_text(error)}") from error
