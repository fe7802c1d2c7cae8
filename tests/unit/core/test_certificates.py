"""Certificates: which one a client is shown, and what is wrong with a pair of files."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from rawservers.core.certificates import Certificate, find, is_exposed, load_context
from tests.harness.needs import need
from tests.harness.tls import issue


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.example", "a"),
        ("b.example", None),
        ("x.b.example", "b"),
        ("x.y.b.example", None),  # a wildcard is one label (RFC 6125 §6.4.3)
        ("", None),
        ("*.b.example", "b"),
    ],
)
def test_a_host_and_its_certificate(name: str, expected: str | None) -> None:
    assert find({"a.example": "a", "*.b.example": "b"}, name) == expected  # type: ignore[comparison-overlap,dict-item]


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


@pytest.mark.parametrize(("mode", "expected"), [(0o600, False), (0o640, False), (0o644, True), (0o604, True)])
def test_an_exposed_key(tmp_path: Path, mode: int, expected: bool) -> None:
    (tmp_path / "key").touch()
    (tmp_path / "key").chmod(mode)
    assert is_exposed(str(tmp_path / "key")) == expected
