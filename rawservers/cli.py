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
from typing import Any

from rawservers import __version__, status
from rawservers.core.bind import Endpoint
from rawservers.core.errors import os_error_text
from rawservers.daemon import systemd
from rawservers.daemon.supervisor import Supervisor, descriptors, normalise, reload
from rawservers.daemon.worker import CannotStart
from rawservers.logs import error as error_log
from rawservers.settings import ADDRESSES, Config, ConfigError, ListenConfig, SiteConfig, check_user, settings_of

DESCRIPTION = "A tiny HTTP/1.0 server and a line-based Telnet echo, on raw sockets."
ADDRESS = (
    "ADDRESS is HOST:PORT, [IPV6]:PORT, PORT (loopback), :PORT (every interface, IPv4 and IPv6), unix:PATH, or off; "
    "port 0 takes a free one. Each --http and --telnet adds one. Without any, here and in the configuration file, both are "
    "served on their default addresses."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: sys.argv) and return the exit status."""
    args = parse(argv)
    try:
        if args.status is not None:
            sys.stdout.write(fetch_status(args.status, args.format))
        elif args.check or args.reload is not None:
            configure(args)
            if args.reload is not None:
                reload(args.reload)
            print("ok")
        else:
            return run(args)
    except ConfigError as error:
        print(*error.errors, sep="\n", file=sys.stderr)
        return os.EX_CONFIG
    except CannotStart as error:
        print(f"rawservers: {error}", file=sys.stderr)
        return 2
    return 0


def run(args: argparse.Namespace) -> int:
    """Serve until a signal stops the server; the exit status."""
    normalise()
    inherited_fds = descriptors()
    try:
        sockets = systemd.inherited(ADDRESSES)
    except ValueError as error:
        raise CannotStart(str(error)) from error
    error_log.install()
    return Supervisor(lambda: configure(args, sockets), inherited_fds).run()


def fetch_status(address: str, form: str) -> str:
    """The status of the server whose status service listens on `address`, in one of `status.FORMS`. Raises CannotStart."""
    try:
        return status.ask(address, form)
    except (OSError, ValueError) as error:
        raise CannotStart(f"cannot ask for the status at {address}: {os_error_text(error)}") from error


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The parsed command line. An invalid one ends the process with status 2.

    An option that sets a field of Config or SiteConfig has the name of that field, and is None unless it was given.
    """
    default = Config()
    parser = argparse.ArgumentParser("rawservers", description=DESCRIPTION, epilog=ADDRESS, allow_abbrev=False)
    add = parser.add_argument
    add("root", nargs="?", metavar="DIR", help="the folder to serve (default: a welcome page)")
    for listener in default.listen:
        usual = f"default: {listener.address}"
        add(f"--{listener.service}", action="append", type=address, default=[], metavar="ADDRESS", help=usual)
    add("--access-log", metavar="FILE", help="a file to append to, - for standard output (the default), or off")
    add("--listing", action="store_const", const=True, help="list folders that have no index.html")
    add("--workers", type=workers, metavar="N", help=f"processes that serve, or auto (default: {default.workers})")
    add("--user", type=user, metavar="NAME[:GROUP]", help="whom they become when started as root")
    add("-c", "--config", metavar="FILE", help="a configuration file, over which the options here win")
    add("--check", action="store_true", help="say whether all that is configured is well, and end")
    add("--reload", type=int, metavar="PID", help="have the server with this process id reload, and wait until it has")
    add("--status", nargs="?", const=ADDRESSES["status"], metavar="ADDRESS", help="ask a running server what it does")
    add("--format", choices=status.FORMS, default="text", help="of the status (default: text)")
    add("--version", action="version", version=f"rawservers {__version__}")
    return parser.parse_args(argv)


def configure(args: argparse.Namespace, inherited: Mapping[str, Sequence[int]] | None = None) -> Config:
    """The Config of the command line and the configuration file, which is read anew with each call.

    args: from `parse`; inherited: descriptors of inherited listening sockets, by service. Raises ConfigError for the file, and
    CannotStart for the command line.
    """
    config = read_config(args)
    if args.root is not None:
        check_directory(args.root)
    flags = {listener.service: getattr(args, listener.service) for listener in Config().listen}
    listen = listeners(flags, config.listen, inherited or {})
    if not listen:
        raise CannotStart("nothing to serve")
    first = replace(config.sites[0], **options(args, SiteConfig))
    return replace(config, sites=(first, *config.sites[1:]), listen=listen, **options(args, Config))


def options(args: argparse.Namespace, config: type[SiteConfig] | type[Config]) -> dict[str, Any]:
    """The values of the options that set fields of `config`, by the names of the fields."""
    return {name: getattr(args, name) for name in settings_of(config) if getattr(args, name, None) is not None}


def read_config(args: argparse.Namespace) -> Config:
    """The Config of the configuration file, or the default one; `listen` is empty unless the file sets it.

    Raises ConfigError.
    """
    if args.config is None:
        return Config(listen=())
    from rawservers.config.toml import load  # here, since it takes time, and most starts have no use for it

    overridden = [settings_of(config)[name].key for config in (SiteConfig, Config) for name in options(args, config)]
    return load(args.config, overridden)


def listeners(
    flags: Mapping[str, Sequence[str]], configured: Sequence[ListenConfig], inherited: Mapping[str, Sequence[int]]
) -> tuple[ListenConfig, ...]:
    """The listeners, service by service: the inherited sockets, or else those of the flags, or else those of the file.

    flags: addresses, or "off", by service. The defaults apply only if nothing but "off" is given anywhere.
    """
    addresses = {name: [address for address in values if address != "off"] for name, values in flags.items()}
    if not configured and not any(inherited.values()) and not any(addresses.values()):
        return tuple(listener for listener in Config().listen if not flags.get(listener.service))
    found: list[ListenConfig] = []
    for name in dict.fromkeys([*flags, *inherited, *(listener.service for listener in configured)]):
        if inherited.get(name):
            found += [ListenConfig(name, f"fd:{fd}") for fd in inherited[name]]
        elif flags.get(name):
            found += [ListenConfig(name, address) for address in addresses[name]]
        else:
            found += [listener for listener in configured if listener.service == name]
    return tuple(found)


# Types of arguments, for argparse


def address(text: str) -> str:
    """An address, or "off"."""
    try:
        if text != "off":
            Endpoint.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def workers(text: str) -> int:
    """A number of workers, or one of the setting's aliases."""
    setting = settings_of(Config)["workers"]
    value = str(setting.aliases.get(text, text))
    if not re.fullmatch("[0-9]{1,9}", value) or not setting.min <= int(value) <= setting.max:
        from rawservers.config.converters import allowed_values  # here, for the same reason as above

        raise argparse.ArgumentTypeError(f"expected {allowed_values(setting)}, not {text!r}")
    return int(value)


def user(text: str) -> str:
    """The name of a user, or of a user and a group."""
    try:
        check_user(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def check_directory(path: str) -> None:
    """Raise CannotStart unless the directory exists and is readable: else every request would fail."""
    try:
        os.scandir(path).close()
    except OSError as error:
        raise CannotStart(f"cannot serve {path}: {os_error_text(error)}") from error
