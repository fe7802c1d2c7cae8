"""Sets of peers."""

from __future__ import annotations

import pytest

from rawservers.core.networks import Networks


@pytest.mark.parametrize(
    ("names", "host", "expected"),
    [
        (["10.0.0.0/8"], "10.1.2.3", True),
        (["10.0.0.0/8"], "11.1.2.3", False),
        (["10.0.0.0/8"], "::ffff:10.1.2.3", True),
        (["::ffff:10.0.0.0/104"], "10.1.2.3", True),
        (["::ffff:10.0.0.0/104"], "11.1.2.3", False),
        (["::ffff:192.0.2.1"], "192.0.2.1", True),
        (["10.0.0.0/255.0.0.0"], "10.1.2.3", True),
        (["192.0.2.1"], "192.0.2.1", True),
        (["192.0.2.1"], "192.0.2.2", False),
        (["192.0.2.1/32", "198.51.100.0/24"], "198.51.100.7", True),
        (["0.0.0.0/0"], "192.0.2.1", True),
        (["0.0.0.0/0"], "::1", False),
        (["::/0"], "192.0.2.1", False),
        (["::/0"], "2001:db8::1", True),
        (["fd00::/8"], "fd00:0:0::1", True),
        (["fe80::/10"], "fe80::1%eth0", True),
        (["unix"], "unix:/run/x", True),
        (["unix"], "unix:", True),
        (["unix"], "10.1.2.3", False),
        (["10.0.0.0/8"], "unix:", False),
        (["10.0.0.0/8"], "unix:10.0.0.1", False),
        (["10.0.0.0/8"], "", False),
        (["10.0.0.0/8"], "h", False),
        ([], "10.0.0.1", False),
    ],
)
def test_who_is_in_it(names: list[str], host: str, expected: bool) -> None:
    networks = Networks(names)
    assert (host in networks) is expected
    assert bool(networks) is bool(names)


@pytest.mark.parametrize(
    "text", ["", "x", "10.0.0.0/33", "10.0.0", "10.0.0.0/", "::/129", "proxy.example", "UNIX", " 10.0.0.1", "010.0.0.1"]
)
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ValueError, match=r"^not a network: '.*' \(as in 10\.0\.0\.0/8, 192\.0\.2\.1, fd00::/8 or unix\)$"):
        Networks([text])


@pytest.mark.parametrize(("text", "network"), [("10.0.0.1/8", "10.0.0.0/8"), ("2001:db8::1/32", "2001:db8::/32")])
def test_an_address_that_is_not_that_of_its_network(text: str, network: str) -> None:
    with pytest.raises(ValueError, match=f"^not a network: '{text}': that of this address is {network}$"):
        Networks([text])
