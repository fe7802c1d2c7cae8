"""The client behind proxies: which entry of their fields is believed."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawservers.core.networks import Networks
from rawservers.http.forwarded import MAX_HOPS, TrustedProxies, forwarded, forwarded_for, parse_node
from rawservers.http.request import parse_fields

PROXIES = TrustedProxies(["10.0.0.0/8", "fd00::/8", "unix"])
PROXY = ("10.0.0.1", 5)

FOR, PROTO, FORWARDED = "X-Forwarded-For: ", "X-Forwarded-Proto: ", "Forwarded: "


def origin(*lines: str, peer: tuple[str, int] = PROXY) -> tuple[str, int, str]:
    (host, port), scheme = PROXIES.origin(peer, parse_fields("".join(f"{line}\r\n" for line in lines)))
    return host, port, scheme


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        # X-Forwarded-For
        ([FOR + "192.0.2.1"], ("192.0.2.1", 0)),
        ([FOR + "203.0.113.9, 192.0.2.1"], ("192.0.2.1", 0)),  # the first one may be forged
        ([FOR + "192.0.2.1, 10.0.0.2"], ("192.0.2.1", 0)),
        ([FOR + "192.0.2.1,10.0.0.2,\t10.9.9.9 , fd00::7"], ("192.0.2.1", 0)),
        ([FOR + "192.0.2.1", FOR + "10.0.0.2"], ("192.0.2.1", 0)),  # several lines
        ([FOR + "10.0.0.3, 10.0.0.2"], ("10.0.0.3", 0)),  # nothing but proxies: the first
        ([FOR + "::ffff:192.0.2.1, ::ffff:10.0.0.2"], ("192.0.2.1", 0)),
        ([FOR + "2001:DB8::0:1"], ("2001:db8::1", 0)),
        ([FOR + "[2001:db8::1]"], ("2001:db8::1", 0)),
        ([FOR + "[2001:db8::1]:40000"], ("2001:db8::1", 40000)),
        ([FOR + "192.0.2.1:40000"], ("192.0.2.1", 40000)),
        ([FOR + ",, 192.0.2.1 ,,"], ("192.0.2.1", 0)),
        ([FOR + "evil, 192.0.2.1"], ("192.0.2.1", 0)),
        ([FOR + "192.0.2.1, evil"], PROXY),
        ([FOR + "192.0.2.1, evil, 10.0.0.2"], ("10.0.0.2", 0)),  # the last that is known
        ([FOR + "unknown"], PROXY),
        ([FOR], PROXY),
        ([FOR + ","], PROXY),
        ([FOR + "192.0.2.1 192.0.2.2"], PROXY),
        ([FOR + "192.0.2.256"], PROXY),
        ([FOR + "192.0.02.1"], PROXY),
        ([FOR + "192.0.2.1:65536"], PROXY),
        ([FOR + "192.0.2.1:"], PROXY),
        ([FOR + "fe80::1%eth0"], PROXY),
        ([FOR + "1234:80"], PROXY),
        ([FOR + "\xb2"], PROXY),
        ([FOR + ", ".join(["192.0.2.1", *["10.0.0.2"] * (MAX_HOPS - 1)])], ("192.0.2.1", 0)),
        ([FOR + ", ".join(["192.0.2.1", *["10.0.0.2"] * MAX_HOPS])], ("10.0.0.2", 0)),
        # Forwarded
        ([FORWARDED + "for=192.0.2.1"], ("192.0.2.1", 0)),
        ([FORWARDED + "For=192.0.2.1"], ("192.0.2.1", 0)),
        ([FORWARDED + 'for="192.0.2.1:40000"'], ("192.0.2.1", 40000)),
        ([FORWARDED + 'for="192.0.2.1:_port"'], ("192.0.2.1", 0)),
        ([FORWARDED + 'for="[2001:db8::1]"'], ("2001:db8::1", 0)),
        ([FORWARDED + 'for="[2001:db8::1]:40000";by="[fd00::1]"'], ("2001:db8::1", 40000)),
        ([FORWARDED + "by=203.0.113.9;for=192.0.2.1;host=h;proto=http"], ("192.0.2.1", 0)),
        ([FORWARDED + "for=192.0.2.1; proto=http ;by=x;"], ("192.0.2.1", 0)),
        ([FORWARDED + "for=203.0.113.9, for=192.0.2.1, for=10.0.0.2"], ("192.0.2.1", 0)),
        ([FORWARDED + "for=192.0.2.1", FORWARDED + "for=10.0.0.2"], ("192.0.2.1", 0)),
        ([FORWARDED + ", for=192.0.2.1, , for=10.0.0.2 ,"], ("192.0.2.1", 0)),
        ([FORWARDED + 'for=192.0.2.1;host="a, for=203.0.113.9"'], ("192.0.2.1", 0)),
        ([FORWARDED + 'for="192.\\0.2.1"'], ("192.0.2.1", 0)),  # an escaped digit
        ([FORWARDED + "for=_hidden"], PROXY),
        ([FORWARDED + "for=unknown, for=10.0.0.2"], ("10.0.0.2", 0)),
        ([FORWARDED + "by=10.0.0.1;proto=http"], PROXY),
        ([FORWARDED + "for=192.0.2.1;for=203.0.113.9"], PROXY),
        ([FORWARDED + "for=192.0.2.1;FOR=203.0.113.9"], PROXY),
        ([FORWARDED + "for = 192.0.2.1"], PROXY),
        ([FORWARDED + "for=[2001:db8::1]"], PROXY),  # not in quotation marks
        ([FORWARDED + "192.0.2.1"], PROXY),
        ([FORWARDED + 'for="192.0.2.1'], PROXY),
        ([FORWARDED + ""], PROXY),
        # What a client has sent cannot hide what its proxy has appended
        ([FORWARDED + 'for="203.0.113.9', FORWARDED + "for=192.0.2.1"], ("192.0.2.1", 0)),
        ([FORWARDED + 'for=203.0.113.9;host="', FORWARDED + 'for="192.0.2.1:1";by="[fd00::1]"'], ("192.0.2.1", 1)),
        ([FORWARDED + "for=203.0.113.9;;;=", FORWARDED + "for=192.0.2.1"], ("192.0.2.1", 0)),
        ([FORWARDED + 'for="\\', FORWARDED + 'for="192.0.2.1"'], ("192.0.2.1", 0)),
        # Both
        ([FOR + "192.0.2.1", FORWARDED + "for=192.0.2.1"], ("192.0.2.1", 0)),
        ([FOR + "192.0.2.1, 10.0.0.2", FORWARDED + 'for="192.0.2.1:7"'], ("192.0.2.1", 7)),
        ([FOR + "192.0.2.1", FORWARDED + "for=203.0.113.9"], PROXY),
        ([FOR + "evil", FORWARDED + "for=192.0.2.1"], ("192.0.2.1", 0)),
        ([FOR + "192.0.2.1", FORWARDED + "for=_hidden"], ("192.0.2.1", 0)),
        ([FOR + "192.0.2.1", FORWARDED + 'for="'], ("192.0.2.1", 0)),
        # Neither
        ([], PROXY),
        (["X-Real-IP: 192.0.2.1", "Host: h"], PROXY),
    ],
)
def test_the_client(lines: list[str], client: tuple[str, int]) -> None:
    assert origin(*lines)[:2] == client


@pytest.mark.parametrize(
    ("lines", "scheme"),
    [
        ([PROTO + "https"], "https"),
        ([PROTO + "HTTPS"], "https"),
        ([PROTO + "http"], "http"),
        ([PROTO + "gopher"], ""),
        ([PROTO], ""),
        ([FOR + "192.0.2.1", PROTO + "https"], "https"),
        ([FOR + "192.0.2.1, 10.0.0.2", PROTO + "https"], "https"),  # one for all hops
        ([FOR + "192.0.2.1, 10.0.0.2", PROTO + "https, http"], "https"),
        ([FOR + "203.0.113.9, 192.0.2.1", PROTO + "http, https"], "https"),
        ([FOR + "192.0.2.1, 10.0.0.2", PROTO + "https, http, http"], ""),
        ([FORWARDED + "for=192.0.2.1;proto=https"], "https"),
        ([FORWARDED + "for=192.0.2.1;proto=https, for=10.0.0.2;proto=http"], "https"),
        ([FORWARDED + "for=203.0.113.9;proto=http, for=192.0.2.1;proto=https"], "https"),
        ([FORWARDED + "proto=https"], "https"),
        ([FORWARDED + "for=_hidden;proto=https"], "https"),
        ([FORWARDED + 'for=192.0.2.1;proto="https"'], "https"),
        ([PROTO + "https", FORWARDED + "proto=http"], ""),
        ([FOR + "192.0.2.1", PROTO + "https", FORWARDED + "for=203.0.113.9;proto=https"], ""),
        ([], ""),
    ],
)
def test_the_scheme(lines: list[str], scheme: str) -> None:
    assert origin(*lines)[2] == scheme


def test_a_peer_that_is_no_trusted_proxy_is_the_client() -> None:
    lines = [FOR + "192.0.2.1", PROTO + "https", FORWARDED + "for=192.0.2.1;proto=https"]
    assert origin(*lines, peer=("198.51.100.7", 5)) == ("198.51.100.7", 5, "")
    assert origin(*lines, peer=("unix:", 0)) == ("192.0.2.1", 0, "https")
    assert origin(*lines, peer=("fd12::1", 0)) == ("192.0.2.1", 0, "https")


@given(st.text('192.0:[]af,;="\\ _\tFORfor', max_size=60), st.sampled_from([FOR, FORWARDED + "for="]))
def test_nothing_before_an_entry_of_a_proxy_changes_it(sent: str, appended: str) -> None:
    name, _, prefix = appended.partition(" ")
    fields = {name[:-1].lower(): f"{sent}, {prefix}192.0.2.1"}
    assert PROXIES.origin(PROXY, fields) == (("192.0.2.1", 0), "")


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_any_text_gives_an_address(one: str, other: str, third: str) -> None:
    fields = {"x-forwarded-for": one, "forwarded": other, "x-forwarded-proto": third}
    (host, port), scheme = PROXIES.origin(PROXY, fields)
    assert host in Networks(["0.0.0.0/0", "::/0"])
    assert 0 <= port <= 65535
    assert scheme in {"", "http", "https"}


def test_long_fields_are_not_read_to_their_beginning() -> None:
    """A field with an open quotation mark is no reason to search it again and again."""
    for text in ('"' * 30_000, "for=10.0.0.2," * 2_000, ";" * 30_000, "for=" * 8_000, 'for="' * 6_000):
        assert origin(FORWARDED + text + ", for=192.0.2.1")[:2] == ("192.0.2.1", 0)
        assert origin(FOR + text + ", 192.0.2.1")[:2] == ("192.0.2.1", 0)


@pytest.mark.parametrize("many", [" ", "\t", ",", ";", "a", '"', "\\", "a=", "a=b;", '"\\"', " ;", ", "])
@pytest.mark.parametrize(("before", "after"), [("a=b", "x"), ("a=b;", "=x"), ('a="', ""), ("", "x"), ("", '="'), (",a=b", ",")])
def test_a_field_is_read_in_one_pass(before: str, many: str, after: str) -> None:
    """One that was searched anew from each of its bytes would take days."""
    text = before + many * 400_000 + after
    assert len(list(islice(forwarded(text), 1000))) <= MAX_HOPS
    assert len(list(islice(forwarded_for(text, text), 1000))) <= MAX_HOPS + 1


@pytest.mark.parametrize(
    "text", ["", ":", "[", "[]", "[::1", "::1]", "1.2.3", "1.2.3.4.5", "0x7f.1", "1.2.3.4:_", "_x", "1.2.3.4/8"]
)
def test_what_is_no_node(text: str) -> None:
    assert parse_node(text) is None
