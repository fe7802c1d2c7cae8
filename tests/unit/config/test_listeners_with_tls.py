"""`tls` of a listener in a configuration file: one certificate, several, and mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from rawservers.core.certificates import KEY_HINT
from rawservers.settings import ListenConfig, TLSConfig
from tests.harness.configuration import loaded, mistakes
from tests.harness.tls import issue

LISTEN = '[[listen]]\nservice = "http"\naddress = ":443"\ntls = '


def test_one_certificate(path: Path) -> None:
    """Paths are relative to the file."""
    files = issue(path.parent)
    tls = TLSConfig(str(files.certificate), str(files.key))
    text = f'{LISTEN}{{ certificate = "site.pem", key = "{files.key}" }}'
    expected = ListenConfig("http", ":443", tls=(tls,))
    assert loaded(path, text).listen == (expected,)
    assert (expected.name, ListenConfig("http", ":443", tls=tls)) == ("https", expected)  # type: ignore[arg-type]
    files.certificate.write_bytes(files.certificate.read_bytes() + files.key.read_bytes())
    assert loaded(path, f'{LISTEN}{{ certificate = "site.pem" }}').listen == (
        ListenConfig("http", ":443", tls=(TLSConfig(str(files.certificate)),)),
    )


def test_several_certificates(path: Path) -> None:
    files = issue(path.parent)
    text = f'{LISTEN}[ {files.toml}, {files.toml.replace(" }", "")}, hosts = ["a.example", "*.b.example"] }} ]'
    (listen,) = loaded(path, text).listen or ()
    assert [each.hosts for each in listen.tls] == [(), ("a.example", "*.b.example")]
    assert loaded(path, f"{LISTEN}[]").listen == (ListenConfig("http", ":443"),)


def test_listeners_may_have_the_same_host_names(path: Path) -> None:
    files = issue(path.parent)
    tls = f'{files.toml.replace(" }", "")}, hosts = ["x"] }}'
    first, second = loaded(path, f"{LISTEN}{tls}\n{LISTEN.replace('443', '444')}{tls}").listen or ()
    assert first.tls == second.tls


@pytest.mark.parametrize(
    ("tls", "expected"),
    [
        ("true", "4: listen.tls: expected a table, or an array of tables, each with a certificate, not true"),
        ("[1]", "4: listen.tls: expected a table with a certificate and a key, not 1"),
        ("{}", "4: listen.tls.certificate: missing: expected the path of a file"),
        ('{ key = "site.key" }', "4: listen.tls.certificate: missing: expected the path of a file"),
        ('{ certificate = 1, key = "site.key" }', "4: listen.tls.certificate: expected the path of a file, not 1"),
        ('{ certificate = "site.pem", kay = "x" }', "4: listen.tls.kay: unknown key"),
        (
            '{ certificate = "site.pem", key = "site.key", hosts = ["a b"] }',
            '4: listen.tls.hosts: expected a host name without a port, not "a b"',
        ),
        (
            '[{ certificate = "site.pem", key = "site.key" }, { certificate = "site.pem", key = "site.key" }]',
            "4: listen.tls.hosts: missing: all certificates but the first need host names",
        ),
        (
            '[{ certificate = "site.pem", key = "site.key", hosts = ["x", "*.b"] }, '
            '{ certificate = "site.pem", key = "site.key", hosts = ["b", "X"] }]',
            '4: listen.tls.hosts: duplicate host name "X"',
        ),
        ('{ certificate = "site.pem", key = "site.key", hosts = ["x", "x"] }', '4: listen.tls.hosts: duplicate host name "x"'),
        ('{ certificate = "no.pem" }', "4: listen.tls: FOLDER/no.pem: cannot read the certificate: no such file or directory"),
        ('{ certificate = "site.key" }', "4: listen.tls: FOLDER/site.key: no certificate in PEM format"),
        ('{ certificate = "site.pem" }', f"4: listen.tls: FOLDER/site.pem: no private key in PEM format{KEY_HINT}"),
        (
            '{ certificate = "site.pem", key = "other.key" }',
            "4: listen.tls: FOLDER/other.key: not the private key of the certificate FOLDER/site.pem",
        ),
    ],
)
def test_mistakes(path: Path, tls: str, expected: str) -> None:
    issue(path.parent)
    issue(path.parent, name="other")
    (found,) = mistakes(path, f"{LISTEN}{tls}")
    assert found.replace(f"{path.parent}", "FOLDER") == f"conf.toml:{expected}"
