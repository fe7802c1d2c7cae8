"""The command line: argv -> Config -> run.

Exit status: 0 after a graceful shutdown; 1 if no server runs whose status could be shown, or if the first workers cannot start;
2 if the command line is invalid, or the system refuses a resource; 78 if the configuration file is invalid (EX_CONFIG in
<sysexits.h>).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NoReturn

from rawservers import __version__
from rawservers.config.checks import check_document_root, check_user
from rawservers.config.source import read_settled
from rawservers.core.bind import Endpoint, written_host
from rawservers.core.record import replace
from rawservers.daemon import systemd
from rawservers.daemon.startup import CannotStart, NotRunning, check, errors_as, open_descriptors, sanitize_process_state
from rawservers.daemon.supervisor import Supervisor
from rawservers.logs import error as error_log
from rawservers.services import DEFAULT_LISTENERS, SERVICES, TLS_ADDRESSES, default_addresses
from rawservers.settings import ADDRESS_FORMS, Config, ConfigError, ListenConfig, SiteConfig, TLSConfig, read_data, settings_of

DESCRIPTION = "HTTP/1.0 file server and line-based Telnet echo server, on TCP and unix sockets, with or without TLS."
EPILOG = (
    f"ADDRESS is {ADDRESS_FORMS}. For port 0 the system chooses a free port. --http, --https, --telnet and --telnets may be "
    "repeated, and each replaces the listeners of that name in the configuration file; off is no listener. If no address is "
    "given anywhere, each service that is not off listens on its default address. FILE is served at / and at /NAME, and "
    "nothing beside it."
)


STATUS_FORMATS = ("text", "json", "prometheus")  # the names of status.FORMATS


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: sys.argv) and return the exit status."""
    args = parse(argv)
    try:
        if args.watch:
            from rawservers.watch import watch

            address = args.status or SERVICES["status"].address
            with errors_as(CannotStart, f"cannot watch the status on {address}: "):
                return watch(address)
        if args.status is None and args.reload is None and not args.check and not args.print_config:
            return run(args)
        output = "ok\n"
        if args.print_config:
            output = read_data("config/rawservers.toml")
        elif args.status is not None:
            output = get_status(args.status, args.format or "text")
        elif args.check or args.config is not None:
            check(configure(args, {}, read_settled(args.config) if args.config is not None else b""))
        if args.reload is not None:
            from rawservers.daemon.control import reload  # here, as all that a server has no use for

            reload(args.reload)
        with errors_as(CannotStart, "cannot write to standard output: "):
            write(1, output)
        return 0
    except ConfigError as error:
        messages, exit_status = error.errors, os.EX_CONFIG
    except CannotStart as error:
        messages, exit_status = [f"rawservers: {error}"], 1 if isinstance(error, NotRunning) else 2
    with contextlib.suppress(OSError):
        priority = "<3>" if error_log.is_journal(2) else ""
        write(2, "".join(f"{priority}{message}\n" for message in messages))
    return exit_status


def write(fd: int, text: str) -> None:
    """Write to standard output or error, which may be closed. Raises OSError.

    Not by sys.stdout, which is None then, and which writes once more at exit what could not be written.
    """
    data = text.encode(errors="backslashreplace")
    while data:
        data = data[os.write(fd, data) :]


def get_status(address: str, form: str) -> str:
    """The status of the server at this address, in one of the formats. address: also pid:PID; "": of the one of this user.

    Without a server of this user, it is that of the default address. Raises CannotStart, or NotRunning.
    """
    from rawservers import status
    from rawservers.daemon.control import command_line, find_servers, read_status

    pids = [int(address.removeprefix("pid:"))] if re.fullmatch("pid:[0-9]{1,9}", address) else [] if address else find_servers()
    if len(pids) > 1:
        found = "".join(f"\n  rawservers --status pid:{pid}  # {command_line(pid)}" for pid in pids)
        raise CannotStart(f"several servers are running:{found}")
    default = SERVICES["status"].address
    if not (pids or address or os.path.exists(default.removeprefix("unix:"))):
        raise NotRunning("no server of this user is running")
    where = f"process {pids[0]}" if pids else address or default
    with errors_as(CannotStart, f"cannot get the status from {where}: "):
        return status.FORMATS[form][2](read_status(pids[0])) if pids else status.fetch(address or default, form)


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop; the exit status."""
    with errors_as(CannotStart, "cannot start: "):
        sanitize_process_state()
        inherited_fds = open_descriptors()
    with errors_as(CannotStart):
        inherited = systemd.listen_fds([*SERVICES, *TLS_ADDRESSES])
    with errors_as(CannotStart, "cannot start: "):
        error_log.install()
        supervisor = Supervisor(partial(configure, args, inherited), args.config, inherited_fds)
    return supervisor.run()


argument_type = errors_as(argparse.ArgumentTypeError)  # of other errors, argparse does not show the text


@argument_type
def workers(text: str) -> int:
    """A number of workers, or one of the setting's aliases."""
    setting = settings_of(Config)["workers"]
    value = str(setting.aliases.get(text, text))
    if not re.fullmatch("[0-9]{1,9}", value) or not setting.min <= int(value) <= setting.max:
        raise ValueError(f'expected an integer from {setting.min} to {setting.max}, or "auto", not {text!r}')
    return int(value)


@argument_type
def path(text: str) -> str:
    """A path: an empty one is mostly a shell variable that is not set."""
    if not text:
        raise ValueError("expected a path, not ''")
    return text


@argument_type
def process_id(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,8}", text, re.ASCII):
        raise ValueError(f"expected a process ID, not {text!r}")
    return int(text)


@argument_type
def port(text: str) -> str:
    """A port, as an address."""
    if not re.fullmatch("[0-9]+", text, re.ASCII):
        raise ValueError(f"not a port: {text!r}")
    Endpoint.parse(text)
    return text


@argument_type
def host(text: str) -> str:
    """A host without a port, with brackets around an IPv6 address."""
    if not (found := written_host(text)):
        raise ValueError(f"expected a host without a port, not {text!r}; -p is the port of HTTP")
    return found


def address(default: str, text: str) -> str:
    """An address, or "off". default: an address, whose port a message suggests."""
    if text != "off":
        try:
            Endpoint.parse(text, default.rpartition(":")[2])
        except ValueError as error:
            raise ValueError(str(error).replace(" or unix:PATH", ", unix:PATH or off")) from error
    return text


class Parser(argparse.ArgumentParser):
    """With the error first, and suggestions for misspelt options."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f'rawservers: error: {message}\nTry "rawservers --help".\n')

    def parse(self, args: Sequence[str] | None) -> argparse.Namespace:
        parsed, unknown = self.parse_known_args(args)
        if unknown:
            import difflib

            wrong = next((each for each in unknown if each.startswith("-")), "").partition("=")[0]
            options = [*self._option_string_actions]
            longer = [each for each in options if wrong and each.startswith(wrong)]
            close = longer[:2] or difflib.get_close_matches(wrong, options, 2, 0.7)
            hint = f" (did you mean {' or '.join(close)}?)" * bool(close)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return parsed


def make_parser() -> Parser:
    """The parser of the command line. The manual page and the completions of shells are made from it as well.

    An option that sets a field of Config or SiteConfig has the name of that field. All are None unless they were given.
    """
    without_terminal = partial(argparse.HelpFormatter, width=80)
    parser = Parser("rawservers", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False, formatter_class=without_terminal)
    add = parser.add_argument
    help = "what to serve at /: a directory, or one file, also at /NAME (default: a bundled welcome page)"
    add("root", nargs="?", type=path, metavar="DIR|FILE", help=help)
    add("-p", "--port", type=port, metavar="PORT", help="port of HTTP: the same as --http PORT")
    for listener in DEFAULT_LISTENERS:
        help = f"address to listen on, or off (default: {listener.address})"
        kind = argument_type(partial(address, listener.address))
        add(f"--{listener.service}", action="append", type=kind, metavar="ADDRESS", help=help)
    add_tls_options(add)
    help = "host for all addresses that are only a port, and for the default ones (default: 127.0.0.1)"
    add("--bind", type=host, metavar="HOST", help=help)
    add("--access-log", type=path, metavar="FILE", help='access log file, "-" for standard output, or "off" (default: -)')
    help = "list directories of the first site that have no index file (default: if DIR is given without -c)"
    add("--listing", action=argparse.BooleanOptionalAction, help=help)
    add("--workers", type=workers, metavar="N", help=f"worker processes, or auto: one per CPU (default: {Config().workers})")
    add("--user", type=argument_type(check_user), metavar="NAME[:GROUP]", help="user, and group, of the workers; requires root")
    help = "configuration file in TOML (default: none); options take precedence over it"
    add("-c", "--config", type=path, metavar="FILE", help=help)
    add("--trace", action="store_const", const=True, help="print a line for each event of each socket to standard error")
    add("--check", action="store_const", const=True, help="test the configuration and exit")
    help = "print a configuration file with every setting, commented out, with its meaning and its default, and exit"
    add("--print-config", action="store_const", const=True, help=help)
    help = "make the server whose supervisor has this process ID reload, and wait for the new workers; exit status 2: it failed"
    add("--reload", type=process_id, metavar="PID", help=help)
    help = (
        "print the status of a server, and exit: of the one whose status service listens on ADDRESS, of pid:PID, or of your own"
    )
    add("--status", nargs="?", const="", metavar="ADDRESS", help=help)
    help = "show the status and the table of sockets in this terminal, once a second; q: quit"
    add("--watch", action="store_const", const=True, help=help)
    add("--format", choices=STATUS_FORMATS, help="format of the status (default: text)")
    add("--version", action="version", version=f"rawservers {__version__}")
    parser.formatter_class = argparse.HelpFormatter  # only now: one is made for each `add`, and asks for the terminal's width
    return parser


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The parsed command line. An invalid one ends the process with status 2."""
    parser = make_parser()
    args = parser.parse(argv)
    if useless := useless_options({name for name, value in vars(args).items() if value is not None}):
        parser.error(useless)
    if args.watch and args.status.startswith("pid:"):
        parser.error("--watch needs the address of a status service, not pid:N")
    return args


def add_tls_options(add: Callable[..., object]) -> None:
    for name, default in TLS_ADDRESSES.items():
        usual = f"default, with a certificate: {default}" if name == "https" else "default: off"
        help = f"address to listen on with TLS, or off ({usual})"
        add(f"--{name}", action="append", type=argument_type(partial(address, default)), metavar="ADDRESS", help=help)
    add("--certificate", type=path, metavar="FILE", help="certificate for TLS, in PEM, with the intermediate ones")
    add("--key", type=path, metavar="FILE", help="its private key, in PEM (default: in the file of the certificate)")
    help = "TLS with a new certificate of no authority, for trying out; requires openssl"
    add("--tls-self-signed", action="store_const", const=True, help=help)


def named(arguments: Iterable[str]) -> str:
    """Arguments as they are written on the command line."""
    written = {"root": "DIR", "listing": "--[no-]listing", "config": "-c", "port": "-p"}
    return ", ".join(written.get(name, f"--{name.replace('_', '-')}") for name in sorted(arguments))


def useless_options(given: set[str]) -> str:
    """What is wrong if an option that was given would be ignored. given: names of arguments."""
    asks = "asks a server that is running"
    for mode, its, why in (
        ("print_config", set(), "prints a file, and no more"),
        ("reload", {"config"}, asks),
        ("status", {"format", "watch"}, asks),
    ):
        if mode in given and (rest := given - its - {mode}):
            return f"{named(rest)} would be ignored: {named([mode])} {why}"
    if (rest := given & {"format", "watch"}) and "status" not in given:
        return f"{named(rest)} would be ignored without --status"
    if {"format", "watch"} <= given:
        return "--format would be ignored: --watch has its own"
    if {"tls_self_signed", "certificate"} <= given:
        return "--certificate would be ignored: --tls-self-signed makes one"
    if "key" in given and "certificate" not in given:
        return "--key would be ignored without --certificate"
    if {"port", "http"} <= given:
        return "-p would be ignored: --http has the port"
    if "listing" in given and not given & {"root", "config"}:
        return "--[no-]listing needs a DIR"
    return ""


def configure(
    args: argparse.Namespace, inherited: Mapping[str, Sequence[int]] = {}, content: bytes = b"", running: bytes = b""
) -> Config:
    """The Config of the command line and the configuration file. It decides whether a file is taken, whoever asks.

    args: from `parse`; inherited: descriptors of inherited listening sockets, by service; content: of the file, if there is
    one; running: of that of the running configuration, at a reload. Raises ConfigError for the file, and CannotStart for the
    command line.
    """
    config, settings = Config(listen=()), settings_of(SiteConfig) | settings_of(Config)
    given = {name: value for name, value in vars(args).items() if name in settings and value is not None}
    if args.config is not None:
        from rawservers.config import toml  # here, since it takes time, and most starts have no use for it

        config = toml.load(content, args.config, default_addresses(), [settings[name].key for name in given])
        if config.listen is None and toml.has_listeners(running, args.config):  # it may be cut before them
            raise ConfigError([f"{args.config}: has no [[listen]], unlike the running configuration: not taken"])
    if args.root is not None:
        with errors_as(CannotStart, suffix=f" (-p {args.root} is the port)" * bool(re.fullmatch("[0-9]{1,5}", args.root))):
            is_file = check_document_root(args.root)
        if is_file:
            if args.listing is not None:
                raise CannotStart(f"--[no-]listing would be ignored: {args.root} is a file")
            given |= {"index": (os.path.basename(os.path.realpath(args.root)),), "precompressed": False, "listing": False}
        elif args.config is None:
            given = {"listing": True, **given}
    flags = {"http": args.http or [args.port] * bool(args.port), "telnet": args.telnet or []}
    flags |= {"https": args.https or [], "telnets": args.telnets or []}
    listen = listeners(flags, config.listen or (), inherited, args.bind or "", tls_of(args))
    if not listen:
        raise CannotStart("nothing to serve")
    first = replace(config.sites[0], **{name: given.pop(name) for name in settings_of(SiteConfig) if name in given})
    return replace(config, sites=(first, *config.sites[1:]), listen=listen, **given)


def tls_of(args: argparse.Namespace) -> tuple[TLSConfig, ...]:
    """The certificate of the options; none, if there is none. Raises CannotStart."""
    if args.tls_self_signed:
        from rawservers.daemon.self_signed import make_certificate  # here, since it is seldom used

        return (make_certificate(args.bind or ""),)
    return (TLSConfig(args.certificate, args.key or ""),) if args.certificate else ()


def listeners(
    flags: Mapping[str, Sequence[str]],
    configured: Sequence[ListenConfig],
    inherited: Mapping[str, Sequence[int]],
    bind: str = "",
    tls: tuple[TLSConfig, ...] = (),
) -> tuple[ListenConfig, ...]:
    """The listeners, service by service: the inherited sockets, or else those of the flags, or else those of the file.

    Inherited sockets have the `proxy_protocol` and the `tls` of the first listener of their name in the file, addresses its
    `tls`. flags: addresses, or "off", by name. The defaults apply only if nothing but "off" is given anywhere; HTTPS has one if
    there is a certificate but no address for TLS. bind: host of all that are only a port, and of the defaults. tls: of options,
    before that of the file. Raises CannotStart if there are none of these.
    """
    found: list[ListenConfig] = []
    for name in dict.fromkeys([*flags, *inherited, *(each.name for each in configured)]):
        own = [each for each in configured if each.name == name]
        addresses = [f"fd:{fd}" for fd in inherited.get(name, ())] or flags.get(name, ())
        first = own[0] if own else ListenConfig("http", "0")
        proxies = first.proxy_protocol if name in inherited else ()
        certificates = (tls or first.tls) if name in TLS_ADDRESSES else ()
        found += [make_listener(name, each, proxies, certificates) for each in addresses if each != "off"] if addresses else own
    if not found and not configured:
        found = [default_listener(each, bind) for each in DEFAULT_LISTENERS if not flags.get(each.service)]
    if tls and not any(each.tls == tls for each in found):
        if any(each.tls for each in found) or flags.get("https") or flags.get("telnets"):
            raise CannotStart("the certificate of the command line would be ignored: no address there uses it")
        found.append(default_listener(ListenConfig("http", TLS_ADDRESSES["https"], tls=tls), bind))
    if bind and found:
        bound = [replace(each, address=f"{bind}:{each.address}") if each.address.isdecimal() else each for each in found]
        if bound == found:
            raise CannotStart("--bind would be ignored: no address is only a port")
        found = bound
    return tuple(found)


def make_listener(name: str, address: str, proxies: tuple[str, ...], tls: tuple[TLSConfig, ...]) -> ListenConfig:
    """A listener. name: of its service, or of one in TLS_ADDRESSES. Raises CannotStart."""
    if name in TLS_ADDRESSES and not tls:
        raise CannotStart(f"{name} needs a certificate: --certificate, --tls-self-signed, or a [[listen]] with tls")
    return ListenConfig(name.removesuffix("s") if tls else name, address, proxy_protocol=proxies, tls=tls)


def default_listener(listen: ListenConfig, bind: str) -> ListenConfig:
    """`listen`, with only the port as its address if there is a host for it."""
    return replace(listen, address=listen.address.rpartition(":")[2]) if bind else listen
