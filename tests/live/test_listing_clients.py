"""Clients for which a listing is a folder: its files are what its links lead to, and the one up is none of them."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from fsspec.implementations.http import HTTPFileSystem

from tests.harness.clients import Traffic, serving, traffic
from tests.harness.server import Server

PAST = 784111777  # Sun, 06 Nov 1994 08:49:37 GMT
FOLDERS = ("", "a/", "a/b/", "with space/", "größe/", "100%/")
NAMES = ("plain.txt", "a+b", "ü.txt", "semi;colon", "50%", "tag<b>", "amp&amp;", "co:lon", "que?stion#")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    """What is below tmp_path/www, by name."""
    files = {folder + name: f"{folder}{name}".encode() * 50 for folder in FOLDERS for name in NAMES}
    for name, content in files.items():
        path = tmp_path / "www" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (PAST, PAST))
    return files


# fsspec


@pytest.fixture
def fs() -> HTTPFileSystem:
    return HTTPFileSystem(skip_instance_cache=True, use_listings_cache=False)


def traffic_of(fs: HTTPFileSystem, server: Server) -> Traffic:
    """Also closes the connections that it keeps."""
    HTTPFileSystem.close_session(fs.loop, fs._session)
    return traffic(server)


def test_fsspec_reads_parts(files: dict[str, bytes], tmp_path: Path, fs: HTTPFileSystem) -> None:
    content = random.Random(5).randbytes(3_000_000)
    (tmp_path / "www/big").write_bytes(content)
    with serving(tmp_path / "www") as server:
        url = f"{server.url}/big"
        assert fs.info(url)["size"] == len(content)
        assert fs.cat_file(url, start=1000, end=2000) == content[1000:2000]
        assert fs.cat_file(url, start=-7) == content[-7:]
        starts = [*range(0, 2000, 100)]
        parts = fs.cat_ranges([url] * len(starts), starts, [start + 50 for start in starts])
        assert parts == [content[start : start + 50] for start in starts]
        with fs.open(url, block_size=1 << 16) as file:
            file.seek(2_500_000)
            assert file.read(10) == content[2_500_000:2_500_010]
        seen = traffic_of(fs, server)
        assert seen.count(206) == len(seen.entries) - seen.count(200, "HEAD") == 2 + len(starts) + 1
        assert seen.size() == 1000 + 7 + 50 * len(starts) + (1 << 16) + 10
        assert seen.connections <= len(starts)
