"""The configuration file: every key, every mistake with its line, and no traceback whatever it holds."""

from __future__ import annotations

import getpass
import json
import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rawservers.config.converters import KINDS, allowed_values
from rawservers.config.keys import DOTTED_KEYS, KEYS
from rawservers.config.positions import line_numbers
from rawservers.config.toml import load
from rawservers.core.peer import Clock
from rawservers.logs.access import FORMATS
from rawservers.services import SERVICES
from rawservers.settings import ADDRESSES, WELCOME, Config, ConfigError, ListenConfig, SiteConfig, settings_of
from tests.example_configuration import PATH, uncommented, written
from tests.harness.server import ROOT

EXAMPLE = uncommented(written())
IN_CODE_ONLY = {"handlers", "telnet_service"}

# What no key takes, but for `true` where there is a switch.
WRONG = ["true", "-1", "-0.5", '"\\u0000"', "[1979-05-27]", "{ a.b.c = 1 }", "1979-05-27"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "conf.toml"


def loaded(path: Path, text: str, given: tuple[str, ...] = ()) -> Config:
    path.write_text(text)
    return load(str(path), given)


def mistakes(path: Path, text: str | bytes) -> list[str]:
    """What is wrong with such a file, without its folder."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as error:
        load(str(path))
    assert str(error.value) == "\n".join(error.value.errors)
    assert not [line for line in error.value.errors if len(line.splitlines()) != 1]
    return [line.removeprefix(f"{path.parent}/") for line in error.value.errors]


# The example, which holds every key


def keys_of(text: str) -> Iterator[tuple[str, int]]:
    """Every key of the example and its line."""
    table = ""
    for line, said in enumerate(text.splitlines(), 1):
        if header := re.fullmatch(r"\[+([a-z.]+)\]+", said):
            table = f"{header[1]}."
        elif key := re.match(r"([a-z_]+) = ", said):
            yield table + key[1], line


def test_the_example_is_made_from_the_code() -> None:
    assert PATH.read_text() == written(), "python3 -m tests.example_configuration"


def test_the_example_says_the_defaults(path: Path) -> None:
    assert load(str(PATH)) == Config(listen=())
    assert loaded(path, EXAMPLE) == Config()
    assert tomllib.loads(EXAMPLE)["http"]["root"] == ""


def test_the_example_holds_every_key() -> None:
    tables = {name for name, below in KEYS.items() if isinstance(below, dict)}
    in_sites = {name for name in DOTTED_KEYS if name.startswith("http.sites.")}
    assert {name for name, _ in keys_of(EXAMPLE)} == set(DOTTED_KEYS) - tables - in_sites - {"listen"}
    assert {field.name for field in fields(Config)} - IN_CODE_ONLY == set(settings_of(Config))
    assert {field.name for field in fields(SiteConfig)} == set(settings_of(SiteConfig))


@pytest.mark.parametrize("config", [Config, SiteConfig])
def test_every_default_is_within_its_limits(config: type[Config] | type[SiteConfig]) -> None:
    for name, setting in settings_of(config).items():
        default = getattr(config(), name)
        assert allowed_values(setting)
        if KINDS[setting.kind] in {KINDS["seconds"], KINDS["integer"]} and default is not None:
            assert setting.min <= default <= setting.max


def test_every_example_of_a_value_holds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rawservers.config.converters.check_user", lambda name: None)
    (path.parent / "docs").mkdir()
    for config, before in ((SiteConfig, "[http]\n"), (Config, "")):
        for name, setting in settings_of(config).items():
            if setting.example:
                found = loaded(path, before + setting.example)
                thing = found.sites[0] if config is SiteConfig else found
                assert getattr(thing, name) != getattr(config(), name)


def test_the_words_and_names_are_those_of_the_rest() -> None:
    assert settings_of(Config)["log_format"].aliases.keys() == FORMATS.keys()
    assert set(SERVICES) <= set(ADDRESSES)
    assert Config().listen == (ListenConfig("http", ADDRESSES["http"]), ListenConfig("telnet", ADDRESSES["telnet"]))


# What a file can say


def test_all_of_it(path: Path) -> None:
    (path.parent / "www").mkdir()
    config = loaded(
        path,
        """
        workers = "auto"
        drain_time = 2.5
        [[listen]]
        service = "http"
        address = ":80"
        [[listen]]
        service = "telnet"
        [http]
        root = "www"
        hosts = ["a.example", "[::1]"]
        listing = true
        max_age = 60
        head_time = 5
        error_pages = { 404 = "/404.html", 500 = "/500.html" }
        [http.headers]
        "*.csv" = { "Access-Control-Allow-Origin" = "*", X = "1" }
        "/a/*" = { X-Robots-Tag = "none" }
        [http.redirects]
        "/old/*" = "https://new.example/*"
        "/one" = "/two?x=%20"
        [http.types]
        ".wasm" = "application/wasm"
        ".t" = "text/plain; charset=utf-8"
        [[http.sites]]
        hosts = ["B.example."]
        fallback = "/index.html"
        [[http.sites]]
        hosts = ["c.example"]
        index = ["main.htm", "index.html"]
        [telnet]
        greeting = "hello\\n"
        [log]
        access = "access.log"
        format = "json"
        [limits]
        connections = 7
        """,
    )
    first = SiteConfig(
        f"{path.parent}/www",
        hosts=("a.example", "[::1]"),
        listing=True,
        max_age=60,
        headers=(
            ("*.csv", "Access-Control-Allow-Origin", "*"),
            ("*.csv", "X", "1"),
            ("/a/*", "X-Robots-Tag", "none"),
        ),
        redirects=(("/old/*", "https://new.example/*"), ("/one", "/two?x=%20")),
        error_pages=((404, "/404.html"), (500, "/500.html")),
        types=((".wasm", "application/wasm"), (".t", "text/plain; charset=utf-8")),
    )
    second = SiteConfig(hosts=("B.example.",), fallback="/index.html")
    third = SiteConfig(hosts=("c.example",), index=("main.htm", "index.html"))
    assert config == Config(
        sites=(first, second, third),
        workers=0,
        drain_time=2.5,
        listen=(ListenConfig("http", ":80"), ListenConfig("telnet", "127.0.0.1:2323")),
        head_time=5,
        telnet_greeting="hello\n",
        access_log=f"{path.parent}/access.log",
        log_format="json",
        connections=7,
    )


def test_an_empty_file(path: Path) -> None:
    assert loaded(path, "") == loaded(path, "# nothing\r\n[http]\r\n") == Config(listen=())


def test_a_relative_path_begins_in_the_folder_of_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path.parent / "www").mkdir()
    text = '[http]\nroot = "www"\n[log]\naccess = "a.log"\n[[listen]]\nservice = "http"\naddress = "unix:http.sock"\n'
    config = loaded(path, text)
    assert config.sites[0].root == f"{path.parent}/www"
    assert config.access_log == f"{path.parent}/a.log"
    assert config.listen == (ListenConfig("http", f"unix:{path.parent}/http.sock"),)
    monkeypatch.chdir(path.parent)
    assert load(path.name).sites[0].root == "www"
    assert load(path.name).access_log == "a.log"
    assert loaded(path, f'http.root = "{path.parent}/www"').sites[0].root == f"{path.parent}/www"
    assert loaded(path, 'http.root = ""').sites[0].root == str(WELCOME)
    assert loaded(path, 'log.access = "off"').access_log == "off"


def test_a_service_with_and_without_a_usual_address(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SERVICES, "third", SERVICES["http"])
    text = '[[listen]]\nservice = "status"\n'
    assert loaded(path, text).listen == (ListenConfig("status", "unix:/run/rawservers/status"),)
    (mistake,) = mistakes(path, text + '[[listen]]\nservice = "third"')
    assert mistake == "conf.toml:3: listen.address: missing: third has no default address"
    assert loaded(path, '[[listen]]\nservice = "third"\naddress = "7"').listen == (ListenConfig("third", "7"),)


def test_a_user(path: Path) -> None:
    name = getpass.getuser()
    assert loaded(path, f'user = "{name}"').user == name
    assert loaded(path, 'user = "root:root"').user == "root:root"
    assert mistakes(path, '\nuser = "no such"') == ["conf.toml:2: user: unknown user 'no such'"]
    assert mistakes(path, 'user = "root:nope"') == ["conf.toml:1: user: unknown group 'nope'"]
    assert mistakes(path, 'user = "root:"') == ["conf.toml:1: user: unknown group ''"]


def test_what_the_command_line_says_instead_is_not_looked_up(path: Path) -> None:
    text = (
        'user = "no such"\n[http]\nroot = "nope"\n[[http.sites]]\nhosts = ["a"]\nroot = "nope"\n[log]\naccess = "/nope/nope"\n'
    )
    assert len(mistakes(path, text)) == 4
    with pytest.raises(ConfigError) as error:
        loaded(path, text, ("user", "http.root", "log.access"))
    assert error.value.errors == [f"{path}:6: http.sites.root: cannot serve {path.parent}/nope: no such file or directory"]
    with pytest.raises(ConfigError, match="expected the name of a user"):
        loaded(path, "user = 5", ("user",))


def test_the_example_in_the_readme(path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    match = re.search(r"^```toml\n(.*?)^```\n", readme, re.MULTILINE | re.DOTALL)
    assert match
    for name in ("www", "docs", "log"):
        (path.parent / name).mkdir()
    text = match[1].replace("/srv/", f"{path.parent}/").replace("/var/log/rawservers/", f"{path.parent}/log/")
    config = loaded(path, text)
    assert (config.workers, config.listen) == (0, (ListenConfig("http", ":80"), ListenConfig("telnet", ":23")))
    assert [site.root for site in config.sites] == [f"{path.parent}/www", f"{path.parent}/docs"]
    for said in mistakes(path, text.replace('"auto"', '"two"').replace("listing", "lsiting")):
        assert f"    {said.replace('conf.toml', 'rawservers.toml')}\n" in readme


# Mistakes


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


@pytest.mark.parametrize("name", [name for name, each in settings_of(Config).items() if each.kind in {"seconds", "integer"}])
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
        # Values
        ('\n\nworkers = "two"', ['3: workers: expected an integer from 0 to 1024, or "auto", not "two"']),
        ("workers = true", ['1: workers: expected an integer from 0 to 1024, or "auto", not true']),
        ("workers = 1.0", ['1: workers: expected an integer from 0 to 1024, or "auto", not 1.0']),
        ("log.format = 'xml'", ['1: log.format: expected "combined" or "json", not "xml"']),
        ("log.access = ''", ['1: log.access: expected the path of a file, or "-", or "off", not ""']),
        ("log.access = '/'", ["1: log.access: cannot write to /: is a directory"]),
        ("log.access = '/nope/log'", ["1: log.access: cannot write to /nope/log: no such directory"]),
        ("http.root = '/nope'", ["1: http.root: cannot serve /nope: no such file or directory"]),
        ('http.root = "/no\\npe"', ["1: http.root: cannot serve /no\\npe: no such file or directory"]),
        ("http.root = '/dev/null'", ["1: http.root: cannot serve /dev/null: not a directory"]),
        ("http.max_age = 'on'", ['1: http.max_age: expected an integer from 0 to 31_536_000, or "off", not "on"']),
        (
            "http.fallback = 'index.html'",
            ['1: http.fallback: expected the path of a file, beginning with a slash, or "off", not "index.html"'],
        ),
        (
            "http.fallback = '/'",
            ['1: http.fallback: expected the path of a file, beginning with a slash, or "off", not "/"'],
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
            "[http.error_pages]\n399 = '/x'\n404 = 'x'\n600 = 5\n0404 = '/x'",
            [
                "2: http.error_pages.399: not an error status: expected 400 to 599",
                '3: http.error_pages.404: expected the path of a file, beginning with a slash, not "x"',
                "4: http.error_pages.600: not an error status: expected 400 to 599",
                "4: http.error_pages.600: expected the path of a file, beginning with a slash, not 5",
                "5: http.error_pages.0404: not an error status: expected 400 to 599",
            ],
        ),
        (
            "[http.types]\nwasm = 'a/b'\n'.tar.gz' = 'a/b'\n'.X' = 'a/b'\n'.y' = 'ab'\n'.z' = 5",
            [
                "2: http.types.wasm: not a file name extension: expected the last dot and what follows it, in lower case",
                '3: http.types.".tar.gz": not a file name extension: expected the last dot and what follows it, in lower case',
                '4: http.types.".X": not a file name extension: expected the last dot and what follows it, in lower case',
                '5: http.types.".y": expected a media type, such as "text/html", not "ab"',
                '6: http.types.".z": expected a media type, such as "text/html", not 5',
            ],
        ),
        # Listeners
        ("[[listen]]", ["1: listen.service: missing: expected one of {services}"]),
        ("[[listen]]\nservice = 'htpt'", ['2: listen.service: expected one of {services}, not "htpt"']),
        (
            "[[listen]]\nservice = 'http'\naddress = 'x'",
            ["3: listen.address: not an address: 'x' ({addresses})"],
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
    services = ", ".join(f'"{name}"' for name in ADDRESSES)
    addresses = mistakes(path, "[[listen]]\nservice = 'http'\naddress = ''")[0].partition("(")[2].removesuffix(")")
    wanted = [said.replace("{services}", services).replace("{addresses}", addresses) for said in expected]
    assert mistakes(path, text) == [f"conf.toml:{said}" for said in wanted]


def test_two_free_ports_are_two_ports(path: Path) -> None:
    text = "[[listen]]\nservice = 'http'\naddress = '0'\n" * 2
    assert loaded(path, text).listen == (ListenConfig("http", "0"), ListenConfig("http", "0"))


def test_all_mistakes_are_told_in_order(path: Path) -> None:
    text = "x = 1\n[limits]\ny = 1\n[http]\nlisting = 5\nz = 1\n[[listen]]\n"
    assert [said.split(":")[1] for said in mistakes(path, text)] == ["1", "3", "5", "6", "7"]


# Files that are no TOML, or no files


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = 1\nb c", "2: not TOML: Expected '=' after a key in a key/value pair, at column 3"),
        ("a = 1\na = 2", "2: not TOML: Cannot overwrite a value, at column 6"),
        ('a = 1\n[b]\nc = """\n\n\nd', "3: not TOML: Unterminated string"),
        ("a = 1\nb = [\n1,\n", "2: not TOML: Invalid value"),
        ("a = 1\nb =", "2: not TOML: Invalid value"),
        ("a = 2020-02-31", "1: not TOML: Invalid date or datetime"),
        ("a = 1\nb = " + "1" * 5000, "2: not TOML: Exceeds the limit"),
        ("a = 1\nb = " + "[" * 5000, "2: not TOML: nested too deeply"),
        ("workers = 0x" + "f" * 9000, '1: workers: expected an integer from 0 to 1024, or "auto", not a number of this size'),
        (b"a = 1\nb = '\xff'", "2: not UTF-8: byte 0xff"),
    ],
)
def test_not_toml(path: Path, text: str | bytes, expected: str) -> None:
    (mistake,) = mistakes(path, text)
    assert mistake.startswith(f"conf.toml:{expected}")


def test_a_file_that_cannot_be_read(path: Path) -> None:
    for name, why in (
        (str(path), "no such file or directory"),
        (str(path.parent), "is a directory"),
        (f"{path}\0", "embedded null byte"),
        ("", "no such file or directory"),
    ):
        with pytest.raises(ConfigError) as error:
            load(name)
        assert error.value.errors == [f"{name}: cannot be read: {why}"]


# Lines

TEXT = """
a = 1
b.c.d = 2 ; b.c.e = 3
t = {x = 1, y = {z = 2}}

  [ tab ]  # comment
  s = '''
[not.a.header]
  a = 5
'''
array = [
  1, # one
  [2, "]"],
  {f = 1},
]
[[many]]
k = 1
[many.below]
k = 2
[[many]]
"q.q" = 3
[many.below]
k = 4
[[many.more]]
k = 5
[[many.more]]
k = 6
[tab.sub.sub]
k = 7
""".replace(" ; ", "\n")


def test_the_line_of_every_key() -> None:
    lines = {
        (): 1,
        ("a",): 2,
        ("b", "c", "d"): 3,
        ("b", "c", "e"): 4,
        ("t",): 5,
        ("t", "y", "z"): 5,
        ("tab",): 7,
        ("tab", "s"): 8,
        ("tab", "array"): 12,
        ("tab", "array", 1, 0): 12,
        ("tab", "array", 2, "f"): 12,
        ("many",): 17,
        ("many", 0): 17,
        ("many", 0, "k"): 18,
        ("many", 0, "below"): 19,
        ("many", 0, "below", "k"): 20,
        ("many", 1): 21,
        ("many", 1, "q.q"): 22,
        ("many", 1, "below", "k"): 24,
        ("many", 1, "more", 0, "k"): 26,
        ("many", 1, "more", 1, "k"): 28,
        ("tab", "sub"): 29,
        ("tab", "sub", "sub", "k"): 30,
    }
    found = line_numbers(TEXT)
    assert {keys: found[keys] for keys in lines} == lines


def test_lines_that_end_as_on_windows(path: Path) -> None:
    assert mistakes(path, b"\r\n[http]\r\nhosts = [\r\n'a',\r\n5]\r\nx = 1\r\n") == [
        "conf.toml:3: http.hosts: expected a host name without a port, not 5",
        "conf.toml:6: http.x: unknown key",
    ]


# Whatever it holds

LINES = [line for line in EXAMPLE.splitlines() if not line.startswith("#")]
VALUES = [line.partition(" = ")[2] for line in LINES if " = " in line]
NASTY = [
    *WRONG,
    '"/"',
    '"a"',
    '"unix:"',
    '":0"',
    '"\\u0007"',
    "[]",
    "[{}]",
    "{}",
    "{'' = ''}",
    "nan",
    "[[['a']]]",
    "0x" + "f" * 99,
]
NASTY += ['{"*" = {"" = ""}}', '{404 = ""}', '{"/*" = "/*"}', "'''\n\n'''", "[\n\n]"]
HEADERS = [
    "[http]",
    "[[http]]",
    "[[listen]]",
    "[listen]",
    "[http.headers]",
    "[[http.sites]]",
    "[http.sites.types]",
    "['']",
    "[a",
]
SOME_KEYS = st.sampled_from([name.rpartition(".")[2] for name in DOTTED_KEYS] + DOTTED_KEYS)
KEY = SOME_KEYS | st.text(max_size=3).map(lambda text: f"'{text}'")
VALUE = st.sampled_from(VALUES + NASTY) | st.text(max_size=8).map(json.dumps)
WILD = st.sampled_from(['"""', "["]) | st.text(max_size=8)
STATEMENT = st.builds("{} = {}".format, KEY, VALUE | WILD) | st.sampled_from(HEADERS) | st.text(max_size=12)
LINE = st.integers(0, len(LINES) - 1)
EDITS = st.lists(st.tuples(LINE, st.sampled_from(["put", "add", "cut"]), STATEMENT), max_size=4)
OTHER_VALUES = st.lists(st.tuples(LINE, st.just("value"), VALUE), max_size=8)


def edited(edits: list[tuple[int, str, str]]) -> str:
    """The example with some lines put in place of others, added, cut, or with another value."""
    lines = list(LINES)
    for number, how, what in edits:
        number %= len(lines)
        if how == "value":
            key, sign, _ = lines[number].partition(" = ")
            lines[number] = f"{key} = {what}" if sign else key
        else:
            lines[number : number + (how != "add")] = [what] * (how != "cut")
    return "\n".join(lines)


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=OTHER_VALUES.map(edited) | EDITS.map(edited) | st.lists(STATEMENT, max_size=8).map("\n".join))
def test_any_file_is_taken_or_refused_with_its_lines(path: Path, text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    path.write_bytes(data)
    try:
        config = load(str(path))
    except ConfigError as error:
        errors = error.errors
    else:
        for service in SERVICES.values():
            service(config, Clock(now=1.0, time=1.0), lambda *answered: None)
        return
    assert errors
    for said in errors:
        match = re.fullmatch(rf"{re.escape(str(path))}:(\d+): .+", said)
        assert match
        assert 1 <= int(match[1]) <= data.count(b"\n") + 1


def test_the_checks_leave_nothing_open(path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    mistakes(path, "[http]\nroot = '/nope'\n[[http.sites]]\nroot = '/'\n")
    assert len(os.listdir("/proc/self/fd")) == before
