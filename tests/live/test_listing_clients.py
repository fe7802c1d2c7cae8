"""Clients for which a listing is a folder: its files are what its links lead to, and the one up is none of them."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from fsspec.implementations.http import HTTPFileSystem

from tests.harness.clients import Traffic, files_below, private, run, serving, traffic
from tests.harness.needs import need, need_root, unable
from tests.harness.server import Server
from tests.harness.waiting import until

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


# rclone


def test_rclone_copies_and_syncs(files: dict[str, bytes], tmp_path: Path) -> None:
    root, target = tmp_path / "www", tmp_path / "target"
    limits = ("--retries=1", "--low-level-retries=1", "--checkers=4", "--transfers=4")
    command = [need("rclone"), "--config", tmp_path / "rclone.conf", *limits]
    environment = private(tmp_path / "home", LC_ALL="C.UTF-8")
    (tmp_path / "rclone.conf").touch()

    with serving(root) as server:

        def rclone(*arguments: str | Path) -> str:
            return run(*command, f"--http-url={server.url}", *arguments, env=environment).decode()

        assert sorted(rclone("lsf", "-R", "--files-only", ":http:").splitlines()) == sorted(files)
        assert sorted(rclone("lsf", "--dirs-only", "--format=p", ":http:a").splitlines()) == ["b/"]
        assert rclone("lsl", ":http:a/b/plain.txt").split()[:2] == [str(len(files["a/b/plain.txt"])), "1994-11-06"]
        before = traffic(server)
        rclone("copy", ":http:", target)
        assert files_below(target) == files
        assert {path.stat().st_mtime for path in target.rglob("*") if path.is_file()} == {PAST}
        copied = traffic(server, skip=len(before.entries))
        assert copied.count(200, "GET") == len(files) + len(FOLDERS)
        assert {entry.status for entry in copied.entries} == {200}
        assert copied.connections - before.connections < len(copied.entries) // 2  # it keeps as many as it works at a time
        # A sync fetches what has changed, and nothing else but listings.
        (root / "a/plain.txt").write_bytes(b"changed\n")
        (root / "a/b/plain.txt").unlink()
        rclone("sync", ":http:", target)
        assert files_below(target) == files_below(root)
        assert traffic(server, skip=len(before.entries) + len(copied.entries)).count(200, "GET") == len(FOLDERS) + 1


# fsspec


@pytest.fixture
def fs() -> HTTPFileSystem:
    return HTTPFileSystem(skip_instance_cache=True, use_listings_cache=False)


def traffic_of(fs: HTTPFileSystem, server: Server) -> Traffic:
    """Also closes the connections that it keeps."""
    HTTPFileSystem.close_session(fs.loop, fs._session)
    return traffic(server)


def test_fsspec_finds_each_file_once(files: dict[str, bytes], tmp_path: Path, fs: HTTPFileSystem) -> None:
    """And asks for each listing once: as it leaves the slash of a folder out, behind a redirect."""

    def named(url: str) -> str:
        """The name of a file below the root. What a link has before a name with a colon, it leaves there."""
        return unquote(url.removeprefix(server.url + "/").replace("./co", "co"))

    with serving(tmp_path / "www") as server:
        found = fs.find(f"{server.url}/")
        assert sorted(map(named, found)) == sorted(files)
        assert sorted(map(named, fs.ls(f"{server.url}/a/", detail=False))) == sorted(f"a/{name}" for name in ("b/", *NAMES))
        assert {named(url): content for url, content in fs.cat(found).items()} == files
        seen = traffic_of(fs, server)
        assert seen.count(301) == len(FOLDERS) - 1
        assert seen.count(200, "GET") == len(FOLDERS) + 1 + len(files)
        assert len(seen.entries) == seen.count(301) + seen.count(200)


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


# httpdirfs


@contextlib.contextmanager
def mounted(url: str, folder: Path) -> Iterator[Path]:
    """A folder that is this address, mounted where nobody else sees it: in a namespace that ends with httpdirfs."""
    need_root("mount")
    if not os.access("/dev/fuse", os.W_OK):
        unable("no /dev/fuse")
    namespace = [need("setpriv"), "--pdeathsig=KILL", need("unshare"), "--mount", "--propagation=private"]
    command = [*namespace, need("httpdirfs"), "-f", url, folder]
    folder.mkdir()
    messages = folder.with_suffix(".log")
    environment = private(folder.with_suffix(".home"))
    with messages.open("wb") as said, subprocess.Popen(command, stderr=said, env=environment) as process:
        inside = Path(f"/proc/{process.pid}/root{folder}")

        def is_mounted() -> bool:
            assert process.poll() is None, messages.read_text()
            return os.path.ismount(inside)

        try:
            until(is_mounted, "the mount")
            yield inside
        finally:
            process.kill()


@pytest.mark.slow
def test_httpdirfs_mounts_a_listing(files: dict[str, bytes], tmp_path: Path) -> None:
    """It shows the files of a folder, reads parts of them, and has sizes and times by asking for heads."""
    content = random.Random(9).randbytes(20_000_000)
    with serving(tmp_path / "www") as server:
        (tmp_path / "www/big").write_bytes(content)
        with mounted(server.url, tmp_path / "mount") as folder:
            assert (folder / "big").stat().st_size == len(content)
            assert (folder / "a/plain.txt").stat().st_mtime == PAST
            with (folder / "big").open("rb") as file:
                file.seek(15_000_000)
                assert file.read(1000) == content[15_000_000:15_001_000]
            found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
            plain = {name for name in files if ":" not in name}  # it wants links that are names alone
            assert plain | {"big"} <= found <= {*files, "big"}
            assert (
                files_below(folder / "a/b").items() >= {name: files[f"a/b/{name}"] for name in NAMES if ":" not in name}.items()
            )
        seen = traffic(server)
        assert {entry.status for entry in seen.entries} <= {200, 206, 301}
        assert seen.count(200, "HEAD") == len(found)
        assert seen.count(200, "GET") == len(FOLDERS)
