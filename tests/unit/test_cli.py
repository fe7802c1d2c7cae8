"""The command line: what it comes to, together with a configuration file and with sockets that are inherited."""

from __future__ import annotations

from pathlib import Path

import pytest

from rawservers.cli import configure, listeners, make_parser, parse, useless_options
from rawservers.core.record import replace
from rawservers.daemon.startup import CannotStart
from rawservers.services import DEFAULT_LISTENERS
from rawservers.settings import WELCOME, Config, ConfigError, ListenConfig, SiteConfig, TLSConfig
from tests.harness.command import asked


def test_the_defaults() -> None:
    assert asked() == Config(listen=DEFAULT_LISTENERS)
    assert asked().listen == (ListenConfig("http", "127.0.0.1:8080"), ListenConfig("telnet", "127.0.0.1:2323"))
    assert asked().sites == (SiteConfig(str(WELCOME)),)


HTTP, TELNET = ("http", "127.0.0.1:8080"), ("telnet", "127.0.0.1:2323")
FILE = (("http", ":80"), ("telnet", ":23"), ("status", "unix:/s"), ("http", ":81"))


@pytest.mark.parametrize(
    ("http", "telnet", "configured", "inherited", "expected"),
    [
        # Nobody says anything but "off"
        ([], [], (), {}, [HTTP, TELNET]),
        ([], [], (), {"http": []}, [HTTP, TELNET]),
        (["off"], [], (), {}, [TELNET]),
        ([], ["off"], (), {}, [HTTP]),
        (["off"], ["off"], (), {}, []),
        # Somebody does
        (["1"], [], (), {}, [("http", "1")]),
        ([], ["1"], (), {}, [("telnet", "1")]),
        (["1", "2"], ["3"], (), {}, [("http", "1"), ("http", "2"), ("telnet", "3")]),
        (["1"], ["off"], (), {}, [("http", "1")]),
        (["off", "1"], [], (), {}, [("http", "1")]),
        # The file
        ([], [], FILE[:1], {}, [("http", ":80")]),
        ([], [], FILE, {}, [("http", ":80"), ("http", ":81"), ("telnet", ":23"), ("status", "unix:/s")]),
        (["1"], [], FILE, {}, [("http", "1"), ("telnet", ":23"), ("status", "unix:/s")]),
        (["off"], ["2", "3"], FILE, {}, [("telnet", "2"), ("telnet", "3"), ("status", "unix:/s")]),
        (["off"], [], FILE[:1], {}, []),
        # Sockets that are there already
        ([], [], (), {"http": [3]}, [("http", "fd:3")]),
        ([], [], (), {"status": [3], "telnet": [4, 5]}, [("telnet", "fd:4"), ("telnet", "fd:5"), ("status", "fd:3")]),
        (["1"], [], FILE, {"http": [3, 4]}, [("http", "fd:3"), ("http", "fd:4"), ("telnet", ":23"), ("status", "unix:/s")]),
        (["off"], ["1"], (), {"http": [3]}, [("http", "fd:3"), ("telnet", "1")]),
        ([], ["off"], FILE, {"status": [3]}, [("http", ":80"), ("http", ":81"), ("status", "fd:3")]),
    ],
)
def test_where_to_listen(
    http: list[str],
    telnet: list[str],
    configured: tuple[tuple[str, str], ...],
    inherited: dict[str, list[int]],
    expected: list[tuple[str, str]],
) -> None:
    found = listeners({"http": http, "telnet": telnet}, [ListenConfig(*row) for row in configured], inherited)
    assert found == tuple(ListenConfig(*row) for row in expected)


def test_inherited_sockets_have_the_proxies_of_the_file() -> None:
    one, other = ListenConfig("http", ":80", proxy_protocol=("unix",)), ListenConfig("http", ":81")
    telnet = ListenConfig("telnet", ":23", proxy_protocol=("unix",))
    found = listeners({}, [one, other, telnet], {"http": [3, 4]})
    assert found == (replace(one, address="fd:3"), replace(one, address="fd:4"), telnet)
    assert listeners({"http": ["1"]}, [one], {}) == (ListenConfig("http", "1"),)
    assert listeners({}, [telnet], {"http": [3]}) == (ListenConfig("http", "fd:3"), telnet)


TLS = (TLSConfig("c.pem", "c.key"),)
OWN = (TLSConfig("own.pem"),)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], [("http", "127.0.0.1:8080"), ("telnet", "127.0.0.1:2323"), ("https", "127.0.0.1:8443")]),
        (["--bind", "h"], [("http", "h:8080"), ("telnet", "h:2323"), ("https", "h:8443")]),
        (["--http", "off", "--telnet", "off"], [("https", "127.0.0.1:8443")]),
        (["--http", "1"], [("http", "1"), ("https", "127.0.0.1:8443")]),
        (["--https", "1", "--https", "2"], [("https", "1"), ("https", "2")]),
        (["--telnets", "3", "--http", "1"], [("http", "1"), ("telnets", "3")]),
    ],
)
def test_where_to_listen_with_tls(arguments: list[str], expected: list[tuple[str, str]]) -> None:
    found = asked("--certificate", "c.pem", "--key", "c.key", *arguments).listen or ()
    assert [(each.name, each.address) for each in found] == expected
    assert all(each.tls == (TLS if each.name.endswith("s") else ()) for each in found)


def test_inherited_sockets_have_the_certificate_of_the_file() -> None:
    https, telnets = ListenConfig("http", ":443", tls=OWN), ListenConfig("telnet", ":992", tls=OWN)
    http = ListenConfig("http", ":80")
    found = listeners({}, [http, https, telnets], {"http": [3], "https": [4, 5], "telnets": [6]})
    assert [(each.name, each.address, each.tls) for each in found] == [
        ("http", "fd:3", ()), ("https", "fd:4", OWN), ("https", "fd:5", OWN), ("telnets", "fd:6", OWN),
    ]  # fmt: skip
    assert listeners({}, [http, https], {"https": [4]}, tls=TLS)[0].tls == TLS
    assert listeners({"http": ["1"]}, [http, https], {}) == (ListenConfig("http", "1"), https)


def test_tls_without_a_certificate_and_certificates_without_use() -> None:
    needs = "https needs a certificate: --certificate, --tls-self-signed, or a \\[\\[listen]] with tls"
    with pytest.raises(CannotStart, match=needs):
        asked("--https", "1")
    with pytest.raises(CannotStart, match="https needs a certificate"):
        listeners({}, [], {"https": [3]})
    with pytest.raises(CannotStart, match="the certificate of the command line would be ignored"):
        asked("--certificate", "c.pem", "--https", "off")
    assert useless_options({"key"}) == "--key would be ignored without --certificate"
    assert useless_options({"certificate", "tls_self_signed"}).startswith("--certificate would be ignored")


def test_the_default_addresses_for_tls_in_the_help() -> None:
    text = " ".join(make_parser().format_help().split())
    assert "--https ADDRESS address to listen on with TLS, or off (default, with a certificate: 127.0.0.1:8443)" in text
    assert "--telnets ADDRESS address to listen on with TLS, or off (default: off)" in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-p", "1"], [("http", "1")]),
        (["-p", "1", "--telnet", "2"], [("http", "1"), ("telnet", "2")]),
        (["--bind", "0.0.0.0"], [("http", "0.0.0.0:8080"), ("telnet", "0.0.0.0:2323")]),
        (["--bind", "::1", "--telnet", "off"], [("http", "[::1]:8080")]),
        (["--bind", "[::1]", "-p", "1"], [("http", "[::1]:1")]),
        (
            ["--bind", "a.b", "--http", "1", "--http", "c:2", "--telnet", "3"],
            [("http", "a.b:1"), ("http", "c:2"), ("telnet", "a.b:3")],
        ),
        (["--bind", "h", "--http", ":1", "--telnet", "2"], [("http", ":1"), ("telnet", "h:2")]),
    ],
)
def test_ports_and_hosts(arguments: list[str], expected: list[tuple[str, str]]) -> None:
    assert asked(*arguments).listen == tuple(ListenConfig(*row) for row in expected)


def test_the_host_of_addresses_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "conf.toml"
    path.write_text("[[listen]]\nservice = 'http'\naddress = '1'\n[[listen]]\nservice = 'status'\naddress = 'unix:/s'\n")
    assert asked("-c", path, "--bind", "h").listen == (ListenConfig("http", "h:1"), ListenConfig("status", "unix:/s"))


def test_what_is_listed(tmp_path: Path) -> None:
    path, file = tmp_path / "conf.toml", tmp_path / "file"
    path.write_text("http.listing = true")
    file.touch()
    for arguments, expected in (
        ([], False),
        ([tmp_path], True),
        ([tmp_path, "--no-listing"], False),
        ([tmp_path, "--listing"], True),
        ([file], False),
        (["-c", path], True),
        (["-c", path, "--no-listing"], False),
        (["-c", path, tmp_path, "--no-listing"], False),
        (["-c", path, tmp_path], True),
        (["-c", path, file], False),
    ):
        assert asked(*arguments).sites[0].listing == expected  # type: ignore[arg-type]


def test_options_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "conf.toml"
    path.write_text(
        """
        workers = 3
        user = "root"
        reload_drain = 5
        [[listen]]
        service = "http"
        address = "1"
        [http]
        root = "/"
        hosts = ["a"]
        [[http.sites]]
        hosts = ["b"]
        root = "/"
        [log]
        access = "off"
        """
    )
    file = asked("-c", path)
    first, second = file.sites
    assert (file.workers, file.user, file.reload_drain, file.access_log, first.root) == (3, "root", 5, "off", "/")
    assert file.listen == (ListenConfig("http", "1"),)
    options = ["--workers", "auto", "--user", "root:root", "--http", "2", "--access-log", "-", "--listing", tmp_path]
    assert asked("--config", path, *options) == replace(
        file,
        workers=0,
        user="root:root",
        listen=(ListenConfig("http", "2"),),
        access_log="-",
        sites=(replace(first, root=str(tmp_path), listing=True), second),
    )
    assert asked("-c", path, "--telnet", "4").listen == (ListenConfig("http", "1"), ListenConfig("telnet", "4"))
    assert asked("-c", path, telnet=[3]).listen == (ListenConfig("http", "1"), ListenConfig("telnet", "fd:3"))


def test_a_content_of_the_file_is_taken_each_time() -> None:
    said = parse(["-c", "conf.toml", "--workers", "5"])
    first = configure(said, {}, b"workers = 3\n[http]\nlisting = true")
    assert (first.workers, first.sites[0].listing) == (5, True)
    second = configure(said, {}, b"workers = 4")
    assert (second.workers, second.sites[0].listing) == (5, False)
    with pytest.raises(ConfigError, match=r":1: workers: expected an integer from 0 to 1024, or \"auto\", not an array"):
        configure(said, {}, b"workers = []")


LISTEN = b"[[listen]]\nservice = 'http'\naddress = '1'\n"


@pytest.mark.parametrize(
    ("running", "content", "taken"),
    [
        (b"", b"# nothing", True),  # at the start
        (b"# nothing", b"workers = 2", True),
        (b"# nothing", LISTEN, True),
        (LISTEN, LISTEN, True),
        (LISTEN + LISTEN.replace(b"http", b"telnet").replace(b"1", b"2"), LISTEN, True),  # a service is removed
        (LISTEN, b"workers = 2", False),
        (LISTEN, b"# nothing", False),
    ],
)
@pytest.mark.parametrize("options", [[], ["--http", "2"]])
def test_a_reload_without_listeners_is_not_taken(running: bytes, content: bytes, taken: bool, options: list[str]) -> None:
    said = parse(["-c", "conf.toml", *options])
    if taken:
        assert configure(said, {}, content, running).listen
    else:
        with pytest.raises(
            ConfigError, match=r"^conf\.toml: has no \[\[listen]], unlike the running configuration: not taken$"
        ):
            configure(said, {}, content, running)


def test_what_options_replace_need_not_be_there(tmp_path: Path) -> None:
    path = tmp_path / "conf.toml"
    path.write_text('user = "no such"\nhttp.root = "nope"\nlog.access = "/nope/nope"')
    with pytest.raises(ConfigError) as error:
        asked("-c", path)
    assert len(error.value.errors) == 3
    assert asked("-c", path, "--user", "root", "--access-log", "off", tmp_path).sites[0].root == str(tmp_path)
