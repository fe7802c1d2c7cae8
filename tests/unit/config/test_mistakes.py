"""Mistakes in a configuration file: every one is told, with its line and key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rawservers.services import SERVICES
from rawservers.settings import Config, ListenConfig, SiteConfig, settings_of
from tests.harness.configuration import EXAMPLE, WRONG, keys_of, loaded, mistakes

NO_EXTENSION = 'not a file name extension: expected the last dot and what follows it, in lower case, or ""'


@pytest.mark.parametrize(("key", "line"), list(keys_of(EXAMPLE)))
def test_a_wrong_type_is_refused_with_its_line(path: Path, key: str, line: int) -> None:
    lines = EXAMPLE.splitlines()
    for value in WRONG:
        if value == "true" and lines[line - 1].endswith(("true", "false")):
            continue
        lines[line - 1] = f"{key.rpartition('.')[2]} = {value}"
        found = mistakes(path, "\n".join(lines))
        assert found
        assert not [said for said in found if not said.startswith(f"conf.toml:{line}: {key}")]


@pytest.mark.parametrize("name", list(settings_of(SiteConfig)))
def test_a_wrong_type_in_a_further_site(path: Path, name: str) -> None:
    for value in WRONG[1:]:
        hosts = "" if name == "hosts" else 'hosts = ["b"]'
        found = mistakes(path, f'[[http.sites]]\nhosts = ["a"]\n\n[[http.sites]]\n{hosts}\n{name} = {value}\n')
        assert found
        assert not [said for said in found if not said.startswith(f"conf.toml:6: http.sites.{name}")]


@pytest.mark.parametrize("name", [name for name, each in settings_of(Config).items() if each.kind in {"seconds", "int"}])
def test_the_limits_of_a_number(path: Path, name: str) -> None:
    setting = settings_of(Config)[name]
    for value in (setting.min, setting.max):
        assert getattr(loaded(path, f"{setting.key} = {value}"), name) == value
    for beyond in (setting.min - 1, setting.max + 1, f"{setting.max}.5", "nan", "inf", "1" * 30):
        (mistake,) = mistakes(path, f"{setting.key} = {beyond}")
        assert mistake.startswith(f"conf.toml:1: {setting.key}: expected a")
        assert re.search(rf" from {setting.min} to [0-9_]+, ", mistake)
    if setting.kind == "seconds":
        assert getattr(loaded(path, f"{setting.key} = 1.5"), name) == 1.5
    else:
        assert ": expected an integer from " in mistakes(path, f"{setting.key} = 1.5")[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("wrokers = 2", ["1: wrokers: unknown key (did you mean workers?)"]),
        ("zzz = 2", ["1: zzz: unknown key"]),
        ("[telnet]\nconnection = 2", ["2: telnet.connection: unknown key (did you mean telnet.connections?)"]),
        ("connections = 2", ["1: connections: unknown key (did you mean http.connections?)"]),
        ("listing = true", ["1: listing: unknown key (did you mean http.listing?)"]),
        ("[http]\n\nlsiting = true", ["3: http.lsiting: unknown key (did you mean http.listing?)"]),
        ("[htpp]\nlisting = true", ["1: htpp: unknown key (did you mean http?)"]),
        ("[htpp.headers]\nx = 1", ["1: htpp: unknown key (did you mean http?)"]),
        ("[telnet]\ngreting = 'x'", ["2: telnet.greting: unknown key (did you mean telnet.greeting?)"]),
        ("log.acess = 'x'", ["1: log.acess: unknown key (did you mean log.access?)"]),
        ("[limits]\n'a b' = 1", ['2: limits."a b": unknown key']),
        (
            "[[listen]]\nservice = 'http'\n[[listen]]\nservice = 'telnet'\nadress = '1'",
            ["5: listen.adress: unknown key (did you mean listen.address?)"],
        ),
        ("port = 8080", ["1: port: unknown key (did you mean listen.address?)"]),
        ("[http]\nport = 8080", ["2: http.port: unknown key (did you mean listen.address?)"]),
        ("[http]\nhost = 'a'", ["2: http.host: unknown key (did you mean http.hosts?)"]),
        (
            "[[listen]]\nservice = 'http'\nport = 8080\nhost = '::'",
            [f"{line}: listen.{key}: unknown key (did you mean listen.address?)" for line, key in ((3, "port"), (4, "host"))],
        ),
        ("[[http.sites]]\nhosts = ['a']\nrot = '/'", ["3: http.sites.rot: unknown key (did you mean http.sites.root?)"]),
        (
            "[[http.sites]]\nhosts = ['a']\nidle_time = 5",
            ["3: http.sites.idle_time: unknown key (did you mean http.idle_time?)"],
        ),
        # Types of whole tables
        ("http = 5", ["1: http: expected a table, not 5"]),
        ("\nhttp = [{}]", ["2: http: expected a table, not an array"]),
        ("listen = {}", ["1: listen: expected an array of tables, each with a service and an address, not a table"]),
        ("[http]\nsites = {}", ["2: http.sites: expected an array of tables, each with the keys of a site, not a table"]),
        ("listen = [5]", ["1: listen: expected a table with a service and an address, not 5"]),
        ("http.auth = {}", ["1: http.auth: expected an array of tables, each with a path and users, not a table"]),
        ("http.auth = ['/']", ['1: http.auth: expected a table with a path and users, not "/"']),
        ("http.auth = [{}]", ["1: http.auth.path: missing", "1: http.auth.users: missing"]),
        (
            "[[http.auth]]\npath = '/'\nusrs = 'u'",
            ["1: http.auth.users: missing", "3: http.auth.usrs: unknown key (did you mean http.auth.users?)"],
        ),
        (
            "[[http.auth]]\npath = '/'\nuser = 'u'",
            ["1: http.auth.users: missing", "3: http.auth.user: unknown key (did you mean http.auth.users?)"],
        ),
        (
            "[[http.auth]]\npath = '/x/../y'\nusers = ''\nrealm = 'é'",
            [
                "2: http.auth.path: expected a decoded path that begins with a slash, without empty segments and dot segments, "
                'not "/x/../y"',
                '3: http.auth.users: expected the path of a file made by htpasswd -B, or "off", not ""',
                '4: http.auth.realm: expected a string of printable ASCII, not "é"',
            ],
        ),
        (
            "[[http.auth]]\npath = '/x'\nusers = 'u'\n[[http.auth]]\npath = '/x/'\nusers = 'off'",
            ['5: http.auth.path: duplicate path "/x/"'],
        ),
        (
            "[[http.sites]]\nhosts = ['a']\nauth = [{ path = '/', users = 5, realms = '' }]",
            [
                '3: http.sites.auth.users: expected the path of a file made by htpasswd -B, or "off", not 5',
                "3: http.sites.auth.realms: unknown key (did you mean http.sites.auth.realm?)",
            ],
        ),
        # Values
        ('\n\nworkers = "two"', ['3: workers: expected an integer from 0 to 1024, or "auto", not "two"']),
        ("workers = true", ['1: workers: expected an integer from 0 to 1024, or "auto", not true']),
        ("workers = 1.0", ['1: workers: expected an integer from 0 to 1024, or "auto", not 1.0']),
        ("log.format = 'xml'", ['1: log.format: expected "combined" or "json", not "xml"']),
        ("log.access = ''", ['1: log.access: expected the path of a file, or "-", or "off", not ""']),
        ("log.access = '/'", ["1: log.access: cannot write to /: is a directory"]),
        ("log.access = '/nope/log'", ["1: log.access: cannot write to /nope/log: no such directory"]),
        ("http.root = '~/www'", ["1: http.root: cannot serve {folder}/~/www: no such file or directory (~ is not expanded)"]),
        ("log.access = '~/log'", ["1: log.access: cannot write to {folder}/~/log: no such directory (~ is not expanded)"]),
        ("http.root = '/nope'", ["1: http.root: cannot serve /nope: no such file or directory"]),
        ('http.root = "/no\\npe"', ["1: http.root: cannot serve /no\\npe: no such file or directory"]),
        ("http.root = '/dev/null'", ["1: http.root: cannot serve /dev/null: not a directory"]),
        ("http.max_age = 'on'", ['1: http.max_age: expected an integer from 0 to 31_536_000, or "off", not "on"']),
        (
            "http.fallback = 'index.html'",
            [
                "1: http.fallback: expected the path of a file below the root, beginning with a slash, "
                'or "off", not "index.html"',
            ],
        ),
        (
            "http.fallback = '/'",
            ['1: http.fallback: expected the path of a file below the root, beginning with a slash, or "off", not "/"'],
        ),
        (
            "http.fallback = '/../x'",
            ['1: http.fallback: "/../x" is never served: it has a segment that is empty or begins with a dot'],
        ),
        (
            "http.index = ['a', '.b', 'c/d', '']",
            [
                f"1: http.index: expected a file name, without a slash or a leading dot, not {value}"
                for value in ('".b"', '"c/d"', '""')
            ],
        ),
        # Hosts
        ("http.hosts = ['a:80']", ['1: http.hosts: expected a host name without a port, not "a:80"']),
        ("http.hosts = ['*.a']", ['1: http.hosts: expected a host name without a port, not "*.a"']),
        ("http.hosts = ['']", ['1: http.hosts: expected a host name without a port, not ""']),
        ("http.hosts = ['a', 'A.']", ['1: http.hosts: duplicate host name "A."']),
        ("http.hosts = ['[::1]', '[0::1%lo]']", ['1: http.hosts: duplicate host name "[0::1%lo]"']),
        ("http.hosts = ['[1:2:3]']", ["1: http.hosts: malformed host name: '[1:2:3]'"]),
        (
            "[http]\nhosts = ['a']\n[[http.sites]]\nhosts = [\n'b',\n'a']",
            ['4: http.sites.hosts: duplicate host name "a"'],
        ),
        (
            "[[http.sites]]\nhosts = []\n[[http.sites]]\nlisting = true",
            [
                "2: http.sites.hosts: missing: all sites but the first, [http], need a host name",
                "3: http.sites.hosts: missing: all sites but the first, [http], need a host name",
            ],
        ),
        ("[[http.sites]]\nhosts = 5", ["2: http.sites.hosts: expected an array of host names without ports, not 5"]),
        # Headers
        (
            "[http.headers]\n'*' = { 'A B' = 'x', Date = 'y', C = '\\u000a', D = 5 }\n'x' = { }\n'/' = 3",
            [
                """2: http.headers."*"."A B": malformed header: 'A B': 'x'""",
                '2: http.headers."*".Date: header is set by the server: Date',
                '2: http.headers."*".D: expected a string, not 5',
                "3: http.headers.x: the pattern matches no path: paths begin with a slash",
                '4: http.headers."/": expected a table of header fields, not 3',
            ],
        ),
        ('http.headers."*".C = "\\n"', ["""1: http.headers."*".C: malformed header: 'C': '\\n'"""]),
        # Redirects, pages, types
        (
            "[http.redirects]\nold = '/new'\n'/a' = 'b'\n'/b' = '/b'\n'/c' = '/d/*'\n'/d' = '/e f'\n'/f/*' = '/g'",
            [
                "2: http.redirects.old: not a path: expected a leading slash",
                '3: http.redirects."/a": expected a path or a URL, percent-encoded, not "b"',
                '4: http.redirects."/b": the redirect leads to itself',
                '5: http.redirects."/c": "/d/*" ends with *, but the path does not',
                '6: http.redirects."/d": expected a path or a URL, percent-encoded, not "/e f"',
            ],
        ),
        (
            "[http.redirects]\n'/a*' = 'https://*'\n'/b*' = '//*'\n'/c*' = 'https:*'\n"
            "'/d*' = '/\\*'\n'/e*' = 'http:///*'\n'/f*' = 'http://x*'",
            [
                '2: http.redirects."/a*": the * of "https://*" would be the host: every client could name one',
                '3: http.redirects."/b*": the * of "//*" would be the host: every client could name one',
                '4: http.redirects."/c*": the * of "https:*" would be the host: every client could name one',
                '5: http.redirects."/d*": the * of "/\\\\*" would be the host: every client could name one',
                '6: http.redirects."/e*": the * of "http:///*" would be the host: every client could name one',
            ],
        ),
        (
            "[http.error_pages]\n399 = '/x'\n404 = 'x'\n600 = 5\n0404 = '/x'",
            [
                "2: http.error_pages.399: not an error status: expected 400 to 599",
                '3: http.error_pages.404: expected the path of a file below the root, beginning with a slash, not "x"',
                "4: http.error_pages.600: not an error status: expected 400 to 599",
                "4: http.error_pages.600: expected the path of a file below the root, beginning with a slash, not 5",
                "5: http.error_pages.0404: not an error status: expected 400 to 599",
            ],
        ),
        (
            "[http.types]\nwasm = 'a/b'\n'.tar.gz' = 'a/b'\n'.X' = 'a/b'\n'.y' = 'ab'\n'.z' = 5\n'' = 'ab'",
            [
                f"2: http.types.wasm: {NO_EXTENSION}",
                f'3: http.types.".tar.gz": {NO_EXTENSION}',
                f'4: http.types.".X": {NO_EXTENSION}',
                '5: http.types.".y": expected a media type, such as "text/html", not "ab"',
                '6: http.types.".z": expected a media type, such as "text/html", not 5',
                '7: http.types."": expected a media type, such as "text/html", not "ab"',
            ],
        ),
        # Listeners
        (
            "[[listen]]\nservice = 'http'\naddress = 'unix:x'\nmode = '888'\nowner = 'no-such'\ngroup = 'no-such'",
            [
                '4: listen.mode: expected an octal mode, such as "0660", or "", not "888"',
                "5: listen.owner: unknown user 'no-such'",
                "6: listen.group: unknown group 'no-such'",
            ],
        ),
        ("[[listen]]\nservice = 'http'\nmode = '0660'", ["3: listen.mode: only unix sockets have one"]),
        (
            "[[listen]]\nservice = 'http'\nproxy_protocol = [\n'10.0.0.0/8',\n'10.0.0.1/8', 'proxy.example', 5]",
            [
                "3: listen.proxy_protocol: not a network: '10.0.0.1/8': that of this address is 10.0.0.0/8",
                "3: listen.proxy_protocol: not a network: 'proxy.example' (as in 10.0.0.0/8, 192.0.2.1, fd00::/8 or unix)",
                '3: listen.proxy_protocol: expected a network, an address, or "unix", not 5',
            ],
        ),
        (
            "[[listen]]\nservice = 'http'\nproxy_protocol = 'unix'",
            ['3: listen.proxy_protocol: expected an array of networks, addresses, and "unix", not "unix"'],
        ),
        ("[[listen]]", ["1: listen.service: missing: expected one of {services}"]),
        ("[[listen]]\nservice = ['http']", ["2: listen.service: expected one of {services}, not an array"]),
        ("[[listen]]\nservice = 'htpt'", ['2: listen.service: expected one of {services}, not "htpt"']),
        (
            "[[listen]]\nservice = 'https'",
            ['2: listen.service: expected one of {services}, not "https" (https: service = "http" with tls)'],
        ),
        (
            "[[listen]]\nservice = 'http'\naddress = 'x y'",
            ["3: listen.address: not an address: 'x y' ({addresses})"],
        ),
        (
            "[[listen]]\nservice = 'http'\naddress = '::1'",
            ["3: listen.address: not an address: '::1': add a port: [::1]:PORT"],
        ),
        (
            "[[listen]]\nservice = 'http'\naddress = ':65536'",
            ["3: listen.address: not a port: 65536 (the highest is 65535)"],
        ),
        (
            "[[listen]]\nservice = 'http'\naddress = '80'\n[[listen]]\nservice = 'telnet'\naddress = '127.0.0.1:80'",
            ["6: listen.address: duplicate address 127.0.0.1:80"],
        ),
        ("[[listen]]\nservice = 'http'\n[[listen]]\nservice = 'http'", ["3: listen.address: duplicate address 127.0.0.1:8080"]),
    ],
)
def test_a_mistake(path: Path, text: str, expected: list[str]) -> None:
    services = ", ".join(f'"{name}"' for name in SERVICES)
    addresses = mistakes(path, "[[listen]]\nservice = 'http'\naddress = ''")[0].partition("(")[2].removesuffix(")")
    wanted = [
        said.replace("{services}", services).replace("{addresses}", addresses).replace("{folder}", str(path.parent))
        for said in expected
    ]
    assert mistakes(path, text) == [f"conf.toml:{said}" for said in wanted]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("log.access = off", "Invalid value, at column 14 (text is written in quotes)"),
        ("http.root = ~/www", "Invalid value, at column 13 (text is written in quotes)"),
        ("http.index = [index.html]", "Invalid value, at column 15 (text is written in quotes)"),
        (
            "address = 127.0.0.1:80",
            "Expected newline or end of document after a statement, at column 16 (text is written in quotes)",
        ),
        (
            "http.idle_time = 10s",
            "Expected newline or end of document after a statement, at column 20 (text is written in quotes)",
        ),
        ("http.listing = True", "Invalid value, at column 16 (true and false are lower case)"),
        ("http.listing = FALSE", "Invalid value, at column 16 (true and false are lower case)"),
        ("http.listing = Trueish", "Invalid value, at column 16 (text is written in quotes)"),
        ("http.idle_time = .5", "Invalid value, at column 18"),
        ("workers =", "Invalid value, at column 10"),
        ("workers = 1 2", "Expected newline or end of document after a statement, at column 13"),
        ("workers = 1\nworkers = 2", "Cannot overwrite a value, at column 12 (the key occurs twice)"),
        ("[http]\n[log]\n[http]", "[http] is declared twice, at column 6"),
        ("[http.types]\n[ http . types ]", "[http.types] is declared twice, at column 16"),
        ('http.root = "C:\\Users"', "Invalid hex value, at column 18 (double the backslash)"),
        ('http.root = "C:\\site"', "Unescaped '\\' in a string, at column 18 (double the backslash)"),
    ],
)
def test_a_mistake_in_the_syntax(path: Path, text: str, expected: str) -> None:
    assert mistakes(path, text) == [f"conf.toml:{text.count(chr(10)) + 1}: not TOML: {expected}"]


def test_two_free_ports_are_two_ports(path: Path) -> None:
    text = "[[listen]]\nservice = 'http'\naddress = '0'\n" * 2
    assert loaded(path, text).listen == (ListenConfig("http", "0"), ListenConfig("http", "0"))


def test_all_mistakes_are_told_in_order(path: Path) -> None:
    text = "x = 1\n[limits]\ny = 1\n[http]\nlisting = 5\nz = 1\n[[listen]]\n"
    assert [said.split(":")[1] for said in mistakes(path, text)] == ["1", "3", "5", "6", "7"]
