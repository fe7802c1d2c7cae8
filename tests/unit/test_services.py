"""The table of services: its rows, the default listeners, and services that are added to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from rawservers import Closing, Config, Deadline, ListenConfig, Peer, Protocol, Request, Response, add_service
from rawservers.core.peer import Clock
from rawservers.core.protocol import ServiceSpec
from rawservers.daemon.startup import CannotStart, connection_shares, validate
from rawservers.http.conversation import Conversation
from rawservers.services import SERVICES, ServiceContext, default_addresses, make_service, resolve_listeners
from tests.harness.configuration import loaded, mistakes

CONFIG = Config(head_time=1, body_time=2, idle_time=3, telnet_idle_time=4, send_time=5, linger_time=6, function_time=7)
CORE = {Deadline.SEND: 5, Deadline.LINGER: 6}
HTTP = {Deadline.HEAD: 1, Deadline.BODY: 2, Deadline.IDLE: 3, Deadline.NONE: 7}


@pytest.fixture(autouse=True)
def table() -> Iterator[None]:
    """What a test adds to the table is taken out of it again."""
    with mock.patch.dict(SERVICES):
        yield


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "conf.toml"


def spec(name: str, reported: list[object], config: Config = CONFIG) -> ServiceSpec:
    context = ServiceContext(
        Clock(), lambda peer, record, sent, seconds: reported.append(record), lambda: pytest.fail("no status")
    )
    return make_service(name, config, context)


@pytest.mark.parametrize(
    ("name", "deadlines", "is_logged"),
    [
        ("http", HTTP, True),
        ("telnet", {Deadline.HEAD: 1, Deadline.IDLE: 4}, True),
        ("status", HTTP, False),
        ("given", {Deadline.HEAD: 1, Deadline.BODY: 7}, True),
    ],
)
def test_a_service_has_its_deadlines_and_those_of_the_core(
    name: str, deadlines: dict[Deadline, float], is_logged: bool
) -> None:
    add_service("given", lambda peer: Protocol(), deadlines={Deadline.HEAD: "head_time", Deadline.BODY: 7, Deadline.SEND: 99})
    reported: list[object] = []
    made = spec(name, reported)
    assert (made.name, made.deadlines) == (name, deadlines | CORE)
    made.report(Peer(("h", 1), Clock()), "record", 0, 0.0)
    assert reported == ["record"] * is_logged


def test_conversations_are_of_their_protocol() -> None:
    peer = Peer(("h", 1), Clock())
    assert isinstance(spec("http", []).start(peer), Conversation)
    assert isinstance(spec("status", []).start(peer), Conversation)
    assert spec("telnet", []).start(peer).receive(b"x\r\n") == (b"x\r\n",)


def test_connections_come_in_batches_where_clients_speak_first_and_no_handler_may_take_long() -> None:
    def handle(request: Request) -> Response:
        return Response()

    made = [spec(name, []) for name in ("http", "telnet", "status")]
    made.append(spec("http", [], Config(handlers=(("/slow", handle),))))
    assert [each.client_first for each in made] == [True, False, False, False]


def test_who_says_nothing_gets_http_and_telnet() -> None:
    add_service("given", lambda peer: Protocol(), ":1")
    default = (ListenConfig("http", "127.0.0.1:8080"), ListenConfig("telnet", "127.0.0.1:2323"))
    assert resolve_listeners(Config()) == default
    assert resolve_listeners(Config(listen=())) == ()
    assert resolve_listeners(Config(listen=default[:1])) == default[:1]


def test_a_service_that_is_added_is_known_by_its_name(path: Path) -> None:
    class Greeting(Protocol):
        closing = Closing.LINGER
        greeting = b"hello\n"

    add_service("greeting", lambda peer: Greeting(), "127.0.0.1:1313")
    assert default_addresses()["greeting"] == "127.0.0.1:1313"
    assert loaded(path, '[[listen]]\nservice = "greeting"').listen == (ListenConfig("greeting", "127.0.0.1:1313"),)
    assert mistakes(path, '[[listen]]\nservice = "greting"')[0].endswith(
        '"http", "telnet", "status", "greeting", not "greting"'
    )
    validate(Config(listen=(ListenConfig("greeting", "1"),)))
    with pytest.raises(CannotStart, match=r"^unknown service 'greting' \(known: http, telnet, status, greeting\)$"):
        validate(Config(listen=(ListenConfig("greting", "1"),)))
    assert spec("greeting", []).start(Peer(("h", 1), Clock())).greeting == b"hello\n"
    assert "greeting" not in connection_shares(Config(listen=(ListenConfig("greeting", "1"),)))  # all that is left


@pytest.mark.parametrize("name", ["http", "status", "given", "", "log", "wakes", "a.b", "a b", "Å", "A", "1", "a" * 32, "a\n"])
def test_a_name_that_is_taken_or_malformed(name: str) -> None:
    add_service("given", lambda peer: Protocol())
    before = SERVICES.copy()
    with pytest.raises(ValueError, match=r"^service name is (taken|malformed): "):
        add_service(name, lambda peer: Protocol())
    assert dict(SERVICES) == before


def test_names_that_will_do() -> None:
    for name in ("a", "logs", "wakes2", "a-1", "a" * 31):
        add_service(name, lambda peer: Protocol(), "unix:/x")
