"""What a test gives as content, as the body and type of a response."""

from __future__ import annotations

from pathlib import Path

import pytest

from rawservers.testing.content import serialize


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.tar.gz", "application/gzip"),
        ("README", "text/plain; charset=utf-8"),
        ("a.html", "text/html; charset=utf-8"),
        ("a.unheard-of", "application/octet-stream"),
    ],
)
def test_a_file_has_the_type_that_the_server_gives_it(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_bytes(b"content")
    assert serialize(tmp_path / name) == (b"content", kind)
