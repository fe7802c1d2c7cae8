"""The configuration file: what it can say, what is no such file, and that none of whatever content ends in a traceback."""

from __future__ import annotations

import getpass
import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rawservers.config.keys import KEYS, TABLES
from rawservers.config.toml import has_listeners
from rawservers.core.record import replace
from rawservers.daemon.startup import validate
from rawservers.services import SERVICES, default_addresses
from rawservers.settings import WELCOME, AuthConfig, Config, ConfigError, ListenConfig, SiteConfig
from tests.harness.configuration import EXAMPLE, WRONG, load, loaded, mistakes

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
        "" = "text/x-notes"
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
        types=((".wasm", "application/wasm"), (".t", "text/plain; charset=utf-8"), ("", "text/x-notes")),
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


@pytest.mark.parametrize("text", ["# nothing", "#", "[http]\r\n", "\n\n[telnet]\n[limits]", "\ufeff# nothing"])
def test_a_file_without_settings(path: Path, text: str) -> None:
    assert loaded(path, text) == Config()


@pytest.mark.parametrize("content", [b"", b"\n", b" \t\r\n\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf \n"])
def test_an_empty_file_is_refused(path: Path, content: bytes) -> None:
    assert mistakes(path, content) == ["conf.toml:1: the file is empty: without settings, it must have a comment at least"]


def test_a_byte_order_mark_is_skipped(path: Path) -> None:
    assert loaded(path, "\ufeffworkers = 3").workers == 3
    assert mistakes(path, "\ufeffworkers = 3\nx = 1") == ["conf.toml:2: x: unknown key"]


def test_listeners_are_noticed(path: Path) -> None:
    for text, expected in (("", False), ("# x", False), ("workers = 1", False), ("[[listen]]\nservice = 'http'", True)):
        assert has_listeners(text.encode(), "conf.toml") == expected


def test_a_relative_path_begins_in_the_folder_of_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path.parent / "www").mkdir()
    text = '[http]\nroot = "www"\n[log]\naccess = "a.log"\n[[listen]]\nservice = "http"\naddress = "unix:http.sock"\n'
    config = loaded(path, text)
    assert config.sites[0].root == f"{path.parent}/www"
    assert config.access_log == f"{path.parent}/a.log"
    assert config.listen == (ListenConfig("http", f"unix:{path.parent}/http.sock"),)
    monkeypatch.chdir(path.parent)
    assert load(path.name, default_addresses()).sites[0].root == "www"
    assert load(path.name, default_addresses()).access_log == "a.log"
    assert loaded(path, f'http.root = "{path.parent}/www"').sites[0].root == f"{path.parent}/www"
    assert loaded(path, 'http.root = ""').sites[0].root == str(WELCOME)
    assert loaded(path, 'log.access = "off"').access_log == "off"


def test_a_service_with_and_without_a_usual_address(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SERVICES, "third", replace(SERVICES["http"], address=""))
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
        ("a = 1".encode("utf-16"), "1: not UTF-8, but UTF-16: save it as UTF-8"),
        ("a = 1".encode("utf-16-be"), "1: not TOML: Invalid statement, at column 1"),
        (b"a = 1\nb = '\0'", "2: not TOML: "),
        (b"\xef\xbb\xbf\xef\xbb\xbfa = 1", "1: not TOML: Invalid statement, at column 1"),
        ("a = 1\nb = [\n" + "[" * 5000, "2: not TOML: nested too deeply"),
        ("a = 1\n[b]\nc = 1\nc = 2\n", "4: not TOML: Cannot overwrite a value"),
        ("a = 1\nt = 25:00:00", "2: not TOML: Expected newline"),
        ('a = "\n' + '\\"' * 5000, "1: not TOML: Illegal character '\\n', at column 6"),
        ("a = 1\n" + "b." * 17 + "c = 1", "2: not TOML: Key of more than 16 parts, at column 1"),
        ("a = 1\n[" + '"b" . ' * 17 + "'c']", "2: not TOML: Key of more than 16 parts, at column 1"),
        ("a = '''\n\n'''\nx = {" + "b." * 17 + "c = 1}", "4: not TOML: Key of more than 16 parts, at column 1"),
    ],
)
def test_not_toml(path: Path, text: str | bytes, expected: str) -> None:
    (mistake,) = mistakes(path, text)
    assert mistake.startswith(f"conf.toml:{expected}")


def test_a_file_that_cannot_be_read(path: Path) -> None:
    with pytest.raises(ValueError, match="embedded null") as null_byte:  # whose words are not the same in all Pythons
        os.open("\0", os.O_RDONLY)
    for name, why in (
        (str(path), "no such file or directory"),
        (str(path.parent), "is a directory"),
        ("/dev/zero", "not a regular file"),
        (f"{path}\0", str(null_byte.value)),
        ("", "no such file or directory"),
    ):
        with pytest.raises(ConfigError) as error:
            load(name, {})
        assert error.value.errors == [f"{name}: cannot be read: {why}"]


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
DOTTED_KEYS = [*KEYS, *sorted(TABLES)]
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


@settings(suppress_health_check=list(HealthCheck))
@given(text=OTHER_VALUES.map(edited) | EDITS.map(edited) | st.lists(STATEMENT, max_size=8).map("\n".join))
def test_any_file_is_taken_or_refused_with_its_lines(path: Path, text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    path.write_bytes(data)
    try:
        config = load(str(path), default_addresses())
    except ConfigError as error:
        errors = error.errors
    else:
        for name in SERVICES:
            validate(replace(config, listen=(ListenConfig(name, "0"),)))
        return
    assert errors
    for said in errors:
        match = re.fullmatch(rf"{re.escape(str(path))}:(\d+): .+", said)
        assert match
        assert 1 <= int(match[1]) <= data.count(b"\n") + 1


def test_dots_in_strings_and_comments_are_no_key(path: Path) -> None:
    dots = "a." * 50
    config = loaded(path, f"# {dots}\ntelnet.greeting = '''\n{dots}c = 1\n'''\nhttp.index = ['{dots}', \"{dots}\"]")
    assert config.telnet_greeting == f"{dots}c = 1\n"
    assert config.sites[0].index == (dots, dots)


def test_the_checks_leave_nothing_open(path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    mistakes(path, "[http]\nroot = '/nope'\n[[http.sites]]\nroot = '/'\n")
    assert len(os.listdir("/proc/self/fd")) == before


def test_protected_paths(path: Path) -> None:
    text = "[[http.auth]]\npath = '/a b'\nusers = 'users'\n[[http.auth]]\npath = '/'\nusers = 'off'\nrealm = 'R'\n"
    further = "[[http.sites]]\nhosts = ['a']\nauth = [{ path = '/', users = '/etc/users' }]\n"
    first, second = loaded(path, text + further).sites
    assert first.auth == (AuthConfig("/a b", str(path.parent / "users"), "Restricted"), AuthConfig("/", None, "R"))
    assert second.auth == (AuthConfig("/", "/etc/users"),)
