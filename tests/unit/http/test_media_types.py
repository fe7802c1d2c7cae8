"""Media types: the same on every machine and every Python, by ending, or by the whole name of a file without one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rawservers.core.peer import Clock
from rawservers.http import site
from rawservers.http.site import COMPRESSIBLE, TYPES
from rawservers.settings import SiteConfig
from tests.harness.http import get, headers

TEXT = "text/plain; charset=utf-8"
OTHER = "application/octet-stream"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *[(name, TEXT) for name in ("a.txt", "a.log", "nginx.conf", "php.ini", "A.LOG", "a.b.Conf")],
        *[(name, TEXT) for name in ("README", "LICENSE", "COPYING", "CHANGELOG", "Makefile", "Dockerfile")],
        *[(name, TEXT) for name in ("readme", "License", "makefile", "MAKEFILE")],
        *[(name, OTHER) for name in ("READMES", "READ", "LICENSE-MIT", "data", "README.", "txt", "html", "x.readme", "a.b.c1")],
        ("README.md", "text/markdown; charset=utf-8"),
        ("README.txt", TEXT),
        ("Makefile.gz", "application/gzip"),
        ("index.html", "text/html; charset=utf-8"),
        ("app.js", "text/javascript; charset=utf-8"),
        ("app.mjs", "text/javascript; charset=utf-8"),
        ("style.css", "text/css; charset=utf-8"),
        ("a.yaml", "application/yaml"),  # RFC 9512
        ("a.yml", "application/yaml"),
        ("a.toml", "application/toml"),
        ("a.json", "application/json"),
        ("a.mkv", "video/matroska"),  # RFC 9559
        ("a.mka", "audio/matroska"),
        ("a.mp4", "video/mp4"),
        ("a.m4a", "audio/mp4"),
        ("a.flac", "audio/flac"),  # RFC 9639
        ("a.ogg", "audio/ogg"),
        ("a.ttf", "font/ttf"),  # RFC 8081
        ("a.otf", "font/otf"),
        ("a.woff", "font/woff"),
        ("a.woff2", "font/woff2"),
        ("a.7z", "application/x-7z-compressed"),
        ("a.webp", "image/webp"),
        ("a.jxl", "image/jxl"),
        ("a.avif", "image/avif"),
        ("a.svg", "image/svg+xml"),
        ("a.ico", "image/vnd.microsoft.icon"),
        ("a.wasm", "application/wasm"),
        ("a.apk", "application/vnd.android.package-archive"),
        ("a.deb", "application/vnd.debian.binary-package"),
        ("a.iso", "application/vnd.efi.iso"),
        ("a.tar.gz", "application/gzip"),
        ("a.tar.xz", "application/x-xz"),
    ],
)
def test_types(clock: Clock, root: Path, name: str, kind: str) -> None:
    (root / name).write_text("x")
    assert headers(get(clock, SiteConfig(str(root)), path=f"/{name}"))["Content-Type"] == kind


def test_names_without_an_ending(clock: Clock, root: Path) -> None:
    """The type of "" is theirs, unless they have one of their own; a dot is an ending, even with nothing behind it."""
    types = (("", "text/x-notes"), (".txt", "text/x-own"))
    for name, kind in {
        "notes": "text/x-notes; charset=utf-8",
        "v1.2/notes": "text/x-notes; charset=utf-8",
        "README": TEXT,
        "notes.": OTHER,
        "notes.x1": OTHER,
        "a.txt": "text/x-own; charset=utf-8",
    }.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("x")
        reply = get(clock, SiteConfig(str(root), types=types), path=f"/{name}")
        assert (name, headers(reply)["Content-Type"]) == (name, kind)


def test_the_table_is_well_formed() -> None:
    for ending, kind in TYPES.items():
        assert re.fullmatch(r"\.[a-z0-9]+|[a-z]+", ending)
        assert re.fullmatch(r"(application|audio|font|image|message|text|video)/[a-z0-9.+-]+(; charset=utf-8)?", kind)
        assert kind.startswith("text/") == ("charset" in kind)
    table = (Path(site.__file__).parent / "media_types.txt").read_text()
    endings = [word for line in table.splitlines() if not line.startswith("#") for word in line.split()[1:]]
    assert sorted(endings) == sorted(TYPES), "an ending with two types"
    kinds = [line.split()[0] for line in table.splitlines() if line and not line.startswith("#")]
    assert len(kinds) == len(set(kinds)), "a type on two lines"


def test_no_type_is_the_systems_own(tmp_path: Path) -> None:
    """Whatever else in the process has read /etc/mime.types, which Python's module does on first use."""
    (tmp_path / "mime.types").write_text("text/x-of-the-system html own\n")
    code = (
        f"import mimetypes; mimetypes.init([{str(tmp_path / 'mime.types')!r}]);"
        "from rawservers.http.site import TYPES; print(TYPES['.html'], '.own' in TYPES)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "text/html; charset=utf-8 False\n"


def test_what_has_precompressed_variants() -> None:
    """What is text in one form or another; what is compressed by itself has none."""
    small = {"html", "css", "js", "json", "svg", "xml", "txt", "log", "yaml", "toml", "wasm", "ttf", "otf", "ttc", "eot", "ico"}
    small |= {"atom", "rdf", "geojson", "webmanifest", "csv", "md", "rtf", "sql", "ps", "eml", "bmp", "sh", "tex"}
    packed = {
        "png",
        "jpg",
        "webp",
        "avif",
        "jxl",
        "woff",
        "woff2",
        "gz",
        "7z",
        "zip",
        "docx",
        "mp4",
        "mkv",
        "flac",
        "pdf",
        "iso",
    }
    packed |= {"deb", "apk", "tar", "bin", "epub", "m4a", "rar"}
    assert {ending for ending in small | packed if COMPRESSIBLE.match(TYPES[f".{ending}"])} == small
