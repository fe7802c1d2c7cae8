"""A Config in code: what is wrong with a field is said at once, with its name and what it takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import rawservers
from rawservers import serve
from rawservers.services import default_addresses
from rawservers.settings import AuthConfig, Config, ListenConfig, SiteConfig, TLSConfig, settings_of

Class = type[Config] | type[SiteConfig] | type[ListenConfig] | type[AuthConfig] | type[TLSConfig]
CLASSES: list[Class] = [Config, SiteConfig, ListenConfig, AuthConfig, TLSConfig]
REQUIRED: dict[type[Any], dict[str, str]] = {
    ListenConfig: {"service": "http", "address": "0"},
    AuthConfig: {"path": "/", "users": "users"},
    TLSConfig: {"certificate": "site.pem"},
}


def make(config: Class, **values: Any) -> Any:
    return config(**{**REQUIRED.get(config, {}), **values})


@pytest.mark.parametrize(("config", "name"), [(config, name) for config in CLASSES for name in config.FIELDS])
@pytest.mark.parametrize("value", [b"x", 1j, object(), {"a": 1}, ("a", 5, b""), ((),), float("nan"), "\0", -1])
def test_a_wrong_type(config: Class, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"(?s)^{name}: expected .+, not "):
        make(config, **{name: value})


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (SiteConfig, {"hosts": "a"}, "hosts: expected a tuple of host names, not 'a'"),
        (SiteConfig, {"root": Path("/")}, "root: expected the path of a directory as text"),
        (SiteConfig, {"listing": 1}, "listing: expected True or False, not 1"),
        (SiteConfig, {"headers": {"*": {"a": "b"}}}, "headers: expected a tuple of (pattern, name, value), not {'*': "),
        (SiteConfig, {"headers": (("*", "a"),)}, "headers: expected a tuple of (pattern, name, value), not (("),
        (SiteConfig, {"error_pages": (("404", "/x"),)}, "error_pages: expected a tuple of (status, path), not (("),
        (SiteConfig, {"max_age": -1}, "max_age: expected an integer from 0 to 31536000 or None, not -1"),
        (Config, {"listen": ("http", "127.0.0.1:80")}, "listen: expected None, or a tuple of ListenConfig, not ('http', "),
        (Config, {"listen": (("http", "80"),)}, "listen: expected None, or a tuple of ListenConfig, not (("),
        (Config, {"sites": SiteConfig()}, "sites: expected a tuple of SiteConfig, not SiteConfig("),
        (Config, {"sites": ("/srv",)}, "sites: expected a tuple of SiteConfig, not ('/srv',)"),
        (Config, {"workers": -1}, "workers: expected an integer from 0 to 1024, not -1"),
        (Config, {"workers": 1025}, "workers: expected an integer from 0 to 1024, not 1025"),
        (Config, {"workers": 1.0}, "workers: expected an integer from 0 to 1024, not 1.0"),
        (Config, {"workers": True}, "workers: expected an integer from 0 to 1024, not True"),
        (Config, {"idle_time": -0.5}, "idle_time: expected a number of seconds from 0 to 86400, not -0.5"),
        (Config, {"idle_time": "5"}, "idle_time: expected a number of seconds from 0 to 86400, not '5'"),
        (Config, {"idle_time": None}, "idle_time: expected a number of seconds from 0 to 86400, not None"),
        (Config, {"log_format": "xml"}, "log_format: expected 'combined' or 'json', not 'xml'"),
        (Config, {"handlers": {"/a": print}}, "handlers: expected a tuple of (path, function), not {"),
        (Config, {"handlers": (("/a", "b"),)}, "handlers: expected a tuple of (path, function), not (("),
        (ListenConfig, {"address": "x y"}, "address: not an address: 'x y' (HOST:PORT"),
        (ListenConfig, {"address": "::1"}, "address: not an address: '::1': add a port: [::1]:PORT"),
        (ListenConfig, {"address": 80}, "address: expected a string, not 80"),
        (ListenConfig, {"mode": 0o660}, "mode: only unix sockets have one, not "),
        (ListenConfig, {"owner": "root"}, "owner: only unix sockets have one, not "),
        (ListenConfig, {"proxy_protocol": "unix"}, "proxy_protocol: expected a tuple of networks and \"unix\", not 'unix'"),
        (ListenConfig, {"proxy_protocol": ("unix", "h")}, "proxy_protocol: not a network: 'h' (as in 10.0.0.0/8, "),
        (ListenConfig, {"address": "unix:/s", "mode": "0660"}, "mode: expected a mode from 0 to 0o777 or None, not '0660'"),
    ],
)
def test_what_a_field_takes(config: Class, values: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        make(config, **values)


@pytest.mark.parametrize(
    ("config", "name", "values"),
    [
        (AuthConfig, "users", [""]),
        (Config, "access_log", [""]),
        (Config, "health", ["", "x", "/", "/x/", "//x", "/.x", "/x/.y", "/.well-knownx", "/.well-known/"]),
        (SiteConfig, "error_pages", [((404, "x"),), ((200, "/x"),), ((600, "/x"),), ((404.5, "/x"),)]),
        (SiteConfig, "fallback", ["", "x", "/x/"]),
        (SiteConfig, "hosts", [("",), ("*",), ("*.x",), ("x:80",), ("a", "x/y")]),
        (SiteConfig, "index", [("",), ("a/b",), (".x",)]),
        (SiteConfig, "root", [""]),
        (TLSConfig, "certificate", [""]),
        (TLSConfig, "hosts", [("",), ("*",), ("*.",), ("a b",), ("x.",), ("x:443",), ("é.test",), ("a", "x.*")]),
    ],
)
def test_what_a_file_would_not_be_allowed(config: Class, name: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=rf"^{name}: expected "):
            make(config, **{name: value})


@pytest.mark.parametrize(
    ("config", "values"),
    [
        (Config, {"health": "/.well-known/health"}),
        (Config, {"health": None}),
        (SiteConfig, {"fallback": "/.well-known"}),
        (SiteConfig, {"hosts": ("x", "[::1]", "1.2.3.4", "x_y.")}),
        (SiteConfig, {"error_pages": ((404, "/a b/é\n"), (599, "/x"))}),
        (TLSConfig, {"key": "", "hosts": ("x", "*.x", "1.2.3.4")}),
    ],
)
def test_what_is_allowed(config: Class, values: Mapping[str, Any]) -> None:
    made = make(config, **values)
    assert {name: getattr(made, name) for name in values} == values


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (ListenConfig, {"tls": (TLSConfig("a", "", ("x",)), TLSConfig("b", "", ("y", "X")))}, "tls: duplicate host name 'X'"),
        (ListenConfig, {"tls": (TLSConfig("a", "", ("x", "x")),)}, "tls: duplicate host name 'x'"),
        (SiteConfig, {"auth": (AuthConfig("/a", "u"), AuthConfig("/a/", None))}, "auth: duplicate path '/a/'"),
        (
            Config,
            {"sites": (SiteConfig(), SiteConfig(hosts=("x",)), SiteConfig(hosts=("X.",)))},
            "sites: duplicate host name 'X.'",
        ),
    ],
)
def test_what_may_be_there_once(config: Class, values: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make(config, **values)


def test_lists_become_tuples() -> None:
    listener, site = ListenConfig("http", "0"), SiteConfig(hosts=["a"])  # type: ignore[arg-type]
    config = Config(listen=[listener], sites=[site], handlers=[("/", print)])  # type: ignore[arg-type]
    assert (config.listen, config.sites, config.handlers, site.hosts) == ((listener,), (site,), (("/", print),), ("a",))


@pytest.mark.parametrize("config", [Config, SiteConfig])
def test_defaults_limits_and_aliases_are_valid(config: Class) -> None:
    for name, setting in settings_of(config).items():
        values = [getattr(config(), name), *setting.aliases.values()]  # type: ignore[call-arg]
        if setting.kind in {"int", "seconds"}:
            values += [setting.min, setting.max]
        for value in values:
            assert getattr(make(config, **{name: value}), name) == value


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            Config(listen=(ListenConfig("ftp", "0"),)),
            f"listen[0].service: expected one of {', '.join(default_addresses())}, not 'ftp'",
        ),
        (Config(sites=(SiteConfig(), SiteConfig("/nope"))), "sites[1].root: cannot serve /nope: no such file or directory"),
        (Config(sites=(SiteConfig(__file__),)), f"sites[0].root: cannot serve {__file__}: not a directory"),
    ],
)
def test_what_does_not_exist_when_it_is_to_be_served(config: Config, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        serve(config)


def test_a_config_with_a_difference() -> None:
    config = Config(workers=3, http_version="1.1")
    assert rawservers.replace(config, workers=2) == Config(workers=2, http_version="1.1")
    assert config.workers == 3
    with pytest.raises(ValueError, match="workers"):
        rawservers.replace(config, workers=-1)


def test_a_site_class_of_ones_own_and_no_site_at_all() -> None:
    class Docs(SiteConfig):
        listing: bool = True

    assert (Docs("/tmp").root, Docs("/tmp").listing, Docs("/tmp").index) == ("/tmp", True, SiteConfig().index)
    with pytest.raises(ValueError, match="listing"):
        Docs("/tmp", listing="x")  # type: ignore[arg-type]
    assert Config(sites=()).sites == (SiteConfig(),)
