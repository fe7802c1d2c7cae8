"""Repositories as plain files: what package managers and git do with them, each with settings and caches of its own."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.clients import Traffic, private, run, serving, traffic
from tests.harness.needs import need
from tests.harness.server import Server

PAST = 784111777  # Sun, 06 Nov 1994 08:49:37 GMT


# apt


def debian_package(folder: Path) -> Path:
    """A package `tiny`, of any architecture, with a file of random bytes; made in `folder`."""
    tree = folder / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN").chmod(0o755)  # it insists on that
    control = ("Package: tiny", "Version: 1.0", "Architecture: all", "Maintainer: T <t@example.org>", "Description: tiny")
    (tree / "DEBIAN/control").write_text("\n".join([*control, ""]))
    (tree / "content").write_bytes(bytes(range(256)) * 400)
    run(need("dpkg-deb"), "--build", "--root-owner-group", tree, folder)
    return folder / "tiny_1.0_all.deb"


def index(package: Path, filename: str) -> str:
    """The Packages file of a repository with this package alone, as dpkg-scanpackages writes it."""
    control = run(need("dpkg-deb"), "--field", package).decode()
    content = package.read_bytes()
    return f"{control}Filename: {filename}\nSize: {len(content)}\nSHA256: {hashlib.sha256(content).hexdigest()}\n\n"


class Apt:
    """apt-get with lists, caches and settings of its own, for one source. The machine's are neither read nor written."""

    def __init__(self, folder: Path, source: str) -> None:
        self.command = need("apt-get")
        self.folder = folder
        for name in ("lists/partial", "cache/archives/partial", "downloads"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        (folder / "sources.list").write_text(source + "\n")
        settings = {
            "Dir::State": folder,
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder / "cache",
            "Dir::Etc": folder,
            "APT::Sandbox::User": "root",  # _apt may not write here; an ordinary user's apt stays that user in any case
            "APT::Architecture": "amd64",
            "Acquire::Languages": "none",
            "Acquire::Retries": "0",
        }
        (folder / "apt.conf").write_text("".join(f'{name} "{value}";\n' for name, value in settings.items()))
        self.environment = private(folder / "home", APT_CONFIG=folder / "apt.conf")

    def run(self, *arguments: str) -> str:
        """What it says; warnings are failures."""
        command = (self.command, "-q", "-o", "APT::Update::Error-Mode=any", *arguments)
        return run(*command, env=self.environment, cwd=self.folder / "downloads").decode()


def update_and_download(apt: Apt, package: Path, server: Server) -> Traffic:
    """The second update takes nothing that it has, and the package arrives as it is. Gives what was asked for at first."""
    apt.run("update")
    first = traffic(server)
    again = apt.run("update")
    second = traffic(server, skip=len(first.entries))
    assert "Hit:" in again
    assert second.count(304) == 1
    assert second.size() == sum(entry.size for entry in second.entries if entry.status == 404)
    apt.run("download", "tiny")
    assert (apt.folder / "downloads" / package.name).read_bytes() == package.read_bytes()
    return first


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return debian_package(tmp_path)


def test_apt_with_a_flat_repository(folder: Path, tmp_path: Path, package: Path) -> None:
    """Its addresses have a segment of one dot: /./Packages."""
    (folder / package.name).write_bytes(package.read_bytes())
    (folder / "Packages").write_text(index(package, f"./{package.name}"))
    os.utime(folder / "Packages", (PAST, PAST))
    with serving(folder) as server:
        apt = Apt(tmp_path / "apt", f"deb [trusted=yes] {server.url} ./")
        first = update_and_download(apt, package, server)
        assert ("GET /./Packages HTTP/1.1", 200) in [entry[:2] for entry in first.entries]
        assert traffic(server).connections == 3  # one of each run: it pipelines


def test_apt_with_a_pool(folder: Path, tmp_path: Path, package: Path) -> None:
    pool = f"pool/main/t/tiny/{package.name}"
    packages = index(package, pool).encode()
    files = {"Packages": packages, "Packages.gz": gzip.compress(packages, mtime=0)}
    lists = folder / "dists/stable/main/binary-amd64"
    for made in (lists, (folder / pool).parent):
        made.mkdir(parents=True)
    (folder / pool).write_bytes(package.read_bytes())
    release = ["Suite: stable", "Codename: stable", "Architectures: amd64", "Components: main"]
    release += ["Date: Sun, 06 Nov 1994 08:49:37 UTC", "SHA256:"]
    for name, content in files.items():
        (lists / name).write_bytes(content)
        release.append(f" {hashlib.sha256(content).hexdigest()} {len(content)} main/binary-amd64/{name}")
    (folder / "dists/stable/Release").write_text("\n".join([*release, ""]))
    os.utime(folder / "dists/stable/Release", (PAST, PAST))
    with serving(folder) as server:
        apt = Apt(tmp_path / "apt", f"deb [trusted=yes] {server.url} stable main")
        first = update_and_download(apt, package, server)
        assert [entry.status for entry in first.entries if entry.line.split()[1].endswith("/Packages.gz")] == [200]
        assert traffic(server).connections == 3


# pip

SIMPLE = '<!DOCTYPE html>\n<html>\n<body>\n<a href="../../files/{0}#sha256={1}">{0}</a>\n</body>\n</html>\n'


def wheel() -> bytes:
    """Of a package `tiny_thing`, with a module that is too large to come with the list of its files."""
    files = {
        "tiny_thing.py": bytes(range(256)) * 400,
        "tiny_thing-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny-thing\nVersion: 1.0\n",
        "tiny_thing-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "tiny_thing-1.0.dist-info/RECORD": b"",
    }
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return target.getvalue()


WHEEL = "tiny_thing-1.0-py3-none-any.whl"


def pip_download(home: Path, *options: str) -> None:
    """Without what it remembers of an earlier run."""
    command = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "--no-cache-dir", "download"]
    environment = private(home, PIP_CONFIG_FILE="/dev/null")
    run(*command, "--no-deps", "--trusted-host", "127.0.0.1", "-d", home, *options, "Tiny.Thing", env=environment)


def test_pip_with_an_index(folder: Path, tmp_path: Path) -> None:
    """A page of each project (PEP 503), and its files elsewhere."""
    content = wheel()
    for name in ("simple/tiny-thing", "files"):
        (folder / name).mkdir(parents=True)
    (folder / "simple/tiny-thing/index.html").write_text(SIMPLE.format(WHEEL, hashlib.sha256(content).hexdigest()))
    (folder / "files" / WHEEL).write_bytes(content)
    with serving(folder) as server:
        pip_download(tmp_path / "home", "--index-url", f"{server.url}/simple")
        assert (tmp_path / "home" / WHEEL).read_bytes() == content
        seen = traffic(server)
        assert [(entry.line, entry.status) for entry in seen.entries] == [
            ("GET /simple/tiny-thing/ HTTP/1.1", 200),
            (f"GET /files/{WHEEL} HTTP/1.1", 200),
        ]
        assert seen.connections == 1


def test_pip_with_listings(folder: Path, tmp_path: Path) -> None:
    """As an index, and as a folder of links, which is asked for without its slash: what it holds stands beside the redirect."""
    (folder / "simple/tiny-thing").mkdir(parents=True)
    (folder / "simple/tiny-thing" / WHEEL).write_bytes(wheel())
    with serving(folder) as server:
        pip_download(tmp_path / "index", "--index-url", f"{server.url}/simple/")
        assert (tmp_path / "index" / WHEEL).read_bytes() == wheel()
        first = traffic(server)
        assert [entry.status for entry in first.entries] == [200, 200]
        pip_download(tmp_path / "links", "--no-index", "--find-links", f"{server.url}/simple/tiny-thing")
        assert (tmp_path / "links" / WHEEL).read_bytes() == wheel()
        second = traffic(server, skip=2)
        assert [entry.status for entry in second.entries] == [301, 200, 200]
        assert second.connections == first.connections + 1 == 2


def test_pip_reads_metadata_by_ranges(folder: Path, tmp_path: Path) -> None:
    (folder / "simple/tiny-thing").mkdir(parents=True)
    (folder / "simple/tiny-thing" / WHEEL).write_bytes(wheel())
    with serving(folder) as server:
        pip_download(tmp_path / "home", "--use-feature=fast-deps", "--index-url", f"{server.url}/simple/")
        assert (tmp_path / "home" / WHEEL).read_bytes() == wheel()
        seen = traffic(server)
        assert seen.count(206) >= 1
        assert {entry.status for entry in seen.entries} == {200, 206}
        assert seen.connections == 1


# npm


@pytest.fixture
def npm(tmp_path: Path) -> Iterator[tuple[list[str | Path], dict[str, str]]]:
    """The command, but for the registry, and its environment."""
    home = tmp_path / "home"
    settings = {"cache": home / "cache", "userconfig": home / "rc", "globalconfig": home / "global"}
    settings |= {"update-notifier": Path("false"), "audit": Path("false"), "fund": Path("false"), "fetch-retries": Path("0")}
    command = [need("npm"), *(f"--{name}={value}" for name, value in settings.items())]
    return command, private(home, NO_UPDATE_NOTIFIER="1")


def npm_package(folder: Path, url: str) -> bytes:
    """The archive of @scope/thing, and the document that the registry of this address has of it, as files below `folder`."""
    described = {"name": "@scope/thing", "version": "1.0.0"}
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        for name, content in (("package.json", json.dumps(described).encode()), ("index.js", b"module.exports = 42\n")):
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    content = target.getvalue()
    for name in ("@scope", "archives"):
        (folder / name).mkdir()
    (folder / "archives/thing-1.0.0.tgz").write_bytes(content)
    origin = {"tarball": f"{url}/archives/thing-1.0.0.tgz", "shasum": hashlib.sha1(content).hexdigest()}
    document = {
        "name": "@scope/thing",
        "dist-tags": {"latest": "1.0.0"},
        "versions": {"1.0.0": described | {"dist": origin}},
    }
    (folder / "@scope/thing").write_text(json.dumps(document))
    return content


@pytest.mark.slow
def test_npm_with_a_scoped_package(folder: Path, tmp_path: Path, npm: tuple[list[str | Path], dict[str, str]]) -> None:
    """Its document is asked for with an encoded slash, and is the file in the folder of its scope."""
    command, environment = npm
    project = tmp_path / "project"
    project.mkdir()
    (project / "package.json").write_text("{}")
    with serving(folder, "encoded_slash = true") as server:
        content = npm_package(folder, server.url)
        command = [*command, f"--registry={server.url}/"]
        assert run(*command, "view", "@scope/thing", "version", env=environment, cwd=project) == b"1.0.0\n"
        assert [(entry.line, entry.status) for entry in traffic(server).entries] == [("GET /@scope%2fthing HTTP/1.1", 200)]
        run(*command, "pack", "@scope/thing", env=environment, cwd=project)
        assert (project / "scope-thing-1.0.0.tgz").read_bytes() == content
        run(*command, "install", "@scope/thing", env=environment, cwd=project)
        assert (project / "node_modules/@scope/thing/index.js").read_text() == "module.exports = 42\n"
        seen = traffic(server)
        assert {entry.status for entry in seen.entries} == {200, 304}  # a run asks again for what it has from an earlier one
        assert [entry.status for entry in seen.entries if "/archives/" in entry.line] == [200]
        assert seen.connections == 3


# git


@pytest.fixture
def git(tmp_path: Path) -> tuple[list[str | Path], dict[str, str]]:
    """The command and its environment."""
    who = {f"GIT_{role}_{what}": "t@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    own = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_TERMINAL_PROMPT": "0"}
    return [need("git"), "-c", "init.defaultBranch=main"], private(tmp_path / "home", **who, **own)


@pytest.mark.parametrize("packed", [False, True])
def test_git_clones_and_fetches(
    packed: bool, folder: Path, tmp_path: Path, git: tuple[list[str | Path], dict[str, str]]
) -> None:
    """A bare repository whose list of branches is kept by git update-server-info: as single objects, and as packs."""
    command, environment = git
    work, copy = tmp_path / "work", tmp_path / "copy"

    def do(place: Path, *arguments: str | Path) -> bytes:
        return run(*command, "-C", place, *arguments, env=environment)

    def publish(content: str) -> bytes:
        (work / "file").write_text(content)
        do(work, "add", "file")
        do(work, "commit", "-q", "-m", content)
        do(work, "push", "-q", folder / "repo.git", "HEAD:main")
        if packed:
            do(folder / "repo.git", "repack", "-q", "-d")
        do(folder / "repo.git", "update-server-info")
        return do(work, "rev-parse", "HEAD")

    work.mkdir()
    do(work, "init", "-q")
    do(folder, "init", "-q", "--bare", folder / "repo.git")
    first = publish("first")
    with serving(folder) as server:
        do(tmp_path, "clone", "-q", f"{server.url}/repo.git", copy)
        assert (copy / "file").read_text() == "first"
        assert do(copy, "rev-parse", "HEAD") == first
        cloned = traffic(server)
        second = publish("second")
        do(copy, "fetch", "-q")
        assert do(copy, "rev-parse", "origin/main") == second
        assert do(copy, "show", "origin/main:file") == b"second"
        do(copy, "fsck", "--strict")
        fetched = traffic(server, skip=len(cloned.entries))
    for seen in (cloned, fetched):
        assert seen.entries[0] == ("GET /repo.git/info/refs?service=git-upload-pack HTTP/1.1", 200, 57)
        assert {entry.status for entry in seen.entries} <= {200, 404}  # it looks for what there may be
    packs = sum(
        entry.line.split()[1].endswith(".pack") and entry.status == 200 for entry in [*cloned.entries, *fetched.entries]
    )
    assert packs == (2 if packed else 0)
