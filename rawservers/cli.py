"""The command line: argv -> Config -> run.

Exit status: 0 after a graceful shutdown; 2 if the command line is invalid, or the system refuses a resource; 78 if the
configuration file is invalid (EX_CONFIG in <sysexits.h>).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rawservers import __version__, status
from rawservers.config.checks import check_directory, check_user
from rawservers.core.bind import Endpoint
from rawservers.daemon import systemd
from rawservers.daemon.control import reload
from rawservers.daemon.startup import CannotStart, errors_as, open_descriptors, sanitize_process_state
from rawservers.daemon.supervisor import Supervisor
from rawservers.logs import error as error_log
from rawservers.services import DEFAULT_LISTENERS, SERVICES, default_addresses
from rawservers.settings import ADDRESS_FORMS, Config, ConfigError, ListenConfig, SiteConfig, settings_of

DESCRIPTION = "HTTP/1.0 file server and line-based Telnet echo server, on plain TCP and unix sockets."
EPILOG = (
    f"ADDRESS is {ADDRESS_FORMS}. For port 0 the system chooses a free port. --http and --telnet may be repeated, and replace "
    "the listeners of that service in the configuration file; off is no listener. If no address is given anywhere, each "
    "service that is not off listens on its default address."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: sys.argv) and return the exit status."""
    args = parse(argv)
    try:
        if args.watch:
            from rawservers.watch import watch  # here, since it is seldom used

            address = args.status or SERVICES["status"].address
            with errors_as(CannotStart, f"cannot watch the status on {address}: "):
                return watch(address)
        if args.status is not None:
            with errors_as(CannotStart, f"cannot get the status from {args.status}: "):
                text = status.fetch(args.status, args.format)
            sys.stdout.write(text)
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
    """Serve until told to stop; the exit status."""
    sanitize_process_state()
    inherited_fds = open_descriptors()
    with errors_as(CannotStart):
        inherited = systemd.listen_fds(SERVICES)
    error_log.install()
    return Supervisor(lambda: configure(args, inherited), inherited_fds).run()


argument_type = errors_as(argparse.ArgumentTypeError)  # of other errors, argparse does not show the text


@argument_type
def address(text: str) -> str:
    """An address, or "off"."""
    if text != "off":
        Endpoint.parse(text)
    return text


@argument_type
def workers(text: str) -> int:
    """A number of workers, or one of the setting's aliases."""
    setting = settings_of(Config)["workers"]
    value = str(setting.aliases.get(text, text))
    if not re.fullmatch("[0-9]{1,9}", value) or not setting.min <= int(value) <= setting.max:
        raise ValueError(f'expected an integer from {setting.min} to {setting.max}, or "auto", not {text!r}')
    return int(value)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The parsed command line. An invalid one ends the process with status 2.

    An option that sets a field of Config or SiteConfig has the name of that field, and is None unless it was given.
    """
    parser = argparse.ArgumentParser("rawservers", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False)
    add = parser.add_argument
    add("root", nargs="?", metavar="DIR", help="document root of the first site (default: a bundled welcome page)")
    for listener in DEFAULT_LISTENERS:
        help = f"address to listen on, or off (default: {listener.address})"
        add(f"--{listener.service}", action="append", type=address, default=[], metavar="ADDRESS", help=help)
    add("--access-log", metavar="FILE", help='access log file, "-" for standard output, or "off" (default: -)')
    add("--listing", action="store_const", const=True, help="list directories of the first site that have no index file")
    add("--workers", type=workers, metavar="N", help=f"worker processes, or auto: one per CPU (default: {Config().workers})")
    add("--user", type=argument_type(check_user), metavar="NAME[:GROUP]", help="user, and group, of the workers; requires root")
    add("-c", "--config", metavar="FILE", help="configuration file in TOML (default: none); options take precedence over it")
    add("--trace", action="store_const", const=True, help="print a line for each event of each socket to standard error")
    add("--check", action="store_true", help="test the configuration and exit")
    help = "make the server whose supervisor has this process ID reload, and wait for the new workers; exit status 2: it failed"
    add("--reload", type=int, metavar="PID", help=help)
    default_status = SERVICES["status"].address
    help = f"print the status of the server whose status service listens there, and exit (default: {default_status})"
    add("--status", nargs="?", const=default_status, metavar="ADDRESS", help=help)
    add(
        "--watch", action="store_true", help="show the status and the table of sockets in this terminal, once a second; q: quit"
    )
    add("--format", choices=status.FORMATS, default="text", help="format of the status (default: text)")
    add("--version", action="version", version=f"rawservers {__version__}")
    return parser.parse_args(argv)


def configure(args: argparse.Namespace, inherited: Mapping[str, Sequence[int]] | None = None) -> Config:
    """The Config of the command line and the configuration file, which is read anew with each call.

    args: from `parse`; inherited: descriptors of inherited listening sockets, by service. Raises ConfigError for the file, and
    CannotStart for the command line.
    """
    config, settings = Config(listen=()), settings_of(SiteConfig) | settings_of(Config)
    given = {name: value for name, value in vars(args).items() if name in settings and value is not None}
    if args.config is not None:
        from rawservers.config.toml import load  # here, since it takes time, and most starts have no use for it

        config = load(args.config, default_addresses(), [settings[name].key for name in given])
    if args.root is not None:
        with errors_as(CannotStart):
            check_directory(args.root)
    flags = {listener.service: getattr(args, listener.service) for listener in DEFAULT_LISTENERS}
    listen = listeners(flags, config.listen or (), inherited or {})
    if not listen:
        raise CannotStart("nothing to serve")
    first = replace(config.sites[0], **{name: given.pop(name) for name in settings_of(SiteConfig) if name in given})
    return replace(config, sites=(first, *config.sites[1:]), listen=listen, **given)


def listeners(
    flags: Mapping[str, Sequence[str]], configured: Sequence[ListenConfig], inherited: Mapping[str, Sequence[int]]
) -> tuple[ListenConfig, ...]:
    """The listeners, service by service: the inherited sockets, or else those of the flags, or else those of the file.

    flags: addresses, or "off", by service. The defaults apply only if nothing but "off" is given anywhere.
    """
    found: list[ListenConfig] = []
    for name in dict.fromkeys([*flags, *inherited, *(each.service for each in configured)]):
        sockets = [f"fd:{fd}" for fd in inherited.get(name, ())]
        addresses = sockets or flags.get(name) or [each.address for each in configured if each.service == name]
        found += [ListenConfig(name, address) for address in addresses if address != "off"]
    if not found and not configured:
        found = [each for each in DEFAULT_LISTENERS if not flags.get(each.service)]
    return tuple(found)
