"""Certificates: which one a client is shown, and what is wrong with a pair of files."""

from __future__ import annotations

import datetime
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rawservers.core.certificates import Certificate, find, is_exposed, load_context, validity_warning
from rawservers.core.peer import Clock
from rawservers.core.regular_file import MAX_SIZE
from rawservers.core.tls import SharedTLS
from rawservers.core.tls_engine import Engine
from tests.harness.needs import need
from tests.harness.tls import Client, issue, make_dated


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.example", "a"),
        ("b.example", None),
        ("x.b.example", "b"),
        ("x.y.b.example", None),  # a wildcard is one label (RFC 6125 §6.4.3)
        ("", None),
        ("*.b.example", "b"),
        ("a.example.", "a"),
        ("x.b.example.", "b"),
        ("a.example..", None),
        (".", None),
    ],
)
def test_a_host_and_its_certificate(name: str, expected: str | None) -> None:
    assert find({"a.example": "a", "*.b.example": "b"}, name) == expected  # type: ignore[comparison-overlap,dict-item]


@pytest.mark.parametrize("name", [b"\xff\xfe" * 8, b"xn--\xc3\xa9.test"])
def test_a_server_name_that_is_not_ascii(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes) -> None:
    """It fails the handshake (RFC 6066 §3: ASCII). What else Python ignores is shown as before."""
    shown: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: shown.append(unraisable.exc_type))
    files = issue(tmp_path)
    certificate = Certificate(str(files.certificate), str(files.key), ("b.test",))
    shared = SharedTLS(load_context([certificate]), Clock())
    load_context([certificate])  # as at a reload
    plain = b"x" * len(name)
    client = Client(host=plain.decode())
    client.hear(b"")
    hello = client.say()
    assert hello.count(plain) == 1
    with pytest.raises(ssl.SSLError):
        Engine(shared).receive(hello.replace(plain, name))
    assert shown == []
    shared.context.sni_callback = lambda *_: fail()
    with pytest.raises(ssl.SSLError):
        Engine(shared).receive(hello)
    assert shown == [LookupError]


def fail() -> None:
    raise LookupError


def test_what_is_refused_by_the_context(tmp_path: Path) -> None:
    files = issue(tmp_path)
    context = load_context([Certificate(str(files.certificate), str(files.key))])
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
    ciphers = [each["name"] for each in context.get_ciphers() if each["protocol"] == "TLSv1.2"]
    assert ciphers
    assert all(name.startswith("ECDHE-") and ("GCM" in name or "CHACHA20" in name) for name in ciphers)


BOTH = b"".join(b"-----BEGIN %b-----\nAAAA\n-----END %b-----\n" % (label, label) for label in (b"CERTIFICATE", b"PRIVATE KEY"))


@pytest.mark.parametrize("which", ["certificate", "key"])
def test_the_broken_one_of_both_files_is_named(tmp_path: Path, which: str) -> None:
    files = issue(tmp_path)
    path = getattr(files, which)
    path.write_bytes(BOTH)
    with pytest.raises(ValueError, match=f"^{path}: not valid: "):
        load_context([Certificate(str(files.certificate), str(files.key))])


def test_an_encrypted_key_asks_nobody_for_a_password(tmp_path: Path) -> None:
    files = issue(tmp_path)
    encrypted = tmp_path / "encrypted.key"
    command = [need("openssl"), "pkey", "-in", files.key, "-aes256", "-passout", "pass:x", "-out", encrypted]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(ValueError, match=rf"^{encrypted}: the private key is encrypted; decrypt it: openssl pkey -in "):
        load_context([Certificate(str(files.certificate), str(encrypted))])


def test_what_only_the_server_can_read_is_not_looked_at(tmp_path: Path) -> None:
    """A warning is no reason to refuse what OpenSSL serves."""
    path = tmp_path / "site.pem"
    for content in ("", "-----BEGIN TRUSTED CERTIFICATE-----\nAAAA\n-----END TRUSTED CERTIFICATE-----\n"):
        path.write_text(content)
        assert validity_warning(str(path), time.time()) == ""
    assert validity_warning(str(tmp_path / "none"), time.time()) == ""


@pytest.mark.parametrize("which", ["certificate", "key"])
def test_only_regular_files_are_read(tmp_path: Path, which: str) -> None:
    """Others may keep the server waiting, or have no end."""
    files = issue(tmp_path)
    fifo, socket_file, large = tmp_path / "fifo", tmp_path / "socket", tmp_path / "large"
    os.mkfifo(fifo)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(socket_file))
    large.write_bytes(b"-----BEGIN " * MAX_SIZE)
    what = {"certificate": "certificate", "key": "private key"}[which]
    reasons = {
        fifo: "not a regular file", socket_file: "no such device or address", Path("/dev/zero"): "not a regular file",
        tmp_path: "is a directory", large: "too large (the limit is 1 MiB)",
    }  # fmt: skip
    for path, reason in reasons.items():
        chosen = files._replace(**{which: path})
        with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: cannot read the {what}: {reason}')}$"):
            load_context([Certificate(str(chosen.certificate), str(chosen.key))])


@pytest.mark.parametrize(("mode", "expected"), [(0o600, False), (0o640, False), (0o644, True), (0o604, True)])
def test_an_exposed_key(tmp_path: Path, mode: int, expected: bool) -> None:
    (tmp_path / "key").touch()
    (tmp_path / "key").chmod(mode)
    assert is_exposed(str(tmp_path / "key")) == expected


START, END = 1_700_000_000, 1_800_000_000  # 2023-11-14 22:13:20 and 2027-01-15 08:00:00, UTC


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (START - 1, "the certificate is not valid before 2023-11-14 22:13:20 UTC"),
        (START, ""),
        (END - 14 * 86400, ""),
        (END - 14 * 86400 + 1, "the certificate expires at 2027-01-15 08:00:00 UTC"),
        (END, "the certificate expires at 2027-01-15 08:00:00 UTC"),
        (END + 1, "the certificate has expired at 2027-01-15 08:00:00 UTC"),
    ],
)
def test_what_is_told_of_the_validity(tmp_path: Path, now: int, expected: str) -> None:
    dates = [datetime.datetime.fromtimestamp(each, datetime.UTC) for each in (START, END)]
    certificate = make_dated(tmp_path, *dates)
    assert validity_warning(str(certificate), now) == expected


def test_a_certificate_whose_dates_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The function of ssl that reads it is not public: no warning is better than no start."""
    monkeypatch.delattr("_ssl._test_decode_cert")
    assert validity_warning(str(issue(tmp_path).certificate), 1e11) == ""
    monkeypatch.undo()
    assert validity_warning(str(issue(tmp_path).certificate), 1e11) != ""
