"""What is shipped: sdist, wheel and rawservers.pyz, made, installed and used as others do, and the release command."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from rawservers import __version__
from tests.harness.checkout import copy_checkout, tracked_files
from tests.harness.clients import private, run
from tests.harness.needs import ROOT, need
from tests.harness.server import Server, exchange
from tests.harness.waiting import until
from tools import archive, packages
from tools.packages import BuildError

pytestmark = pytest.mark.timeout(600)

SDIST, WHEEL = f"rawservers-{__version__}.tar.gz", f"rawservers-{__version__}-py3-none-any.whl"
SHARE, SUMS = f"rawservers-{__version__}-share.tar.gz", "SHA256SUMS"
GENERATED = re.compile(r"rawservers\.egg-info/.*|PKG-INFO|setup\.cfg")  # what setuptools adds to an sdist

# Files below share/ that an installation has, and where they are from.
SHARED = {
    f"rawservers/{path.relative_to(ROOT).as_posix()}": path.relative_to(ROOT).as_posix()
    for folder in ("conf", "systemd")
    for path in (ROOT / folder).iterdir()
} | {
    "bash-completion/completions/rawservers": "completions/rawservers",
    "fish/vendor_completions.d/rawservers.fish": "completions/rawservers.fish",
    "man/man1/rawservers.1": "docs/rawservers.1",
    "zsh/site-functions/_rawservers": "completions/_rawservers",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all packages of a copy of the checkout. To build them gives no warning."""
    target = tmp_path_factory.mktemp("dist")
    made = packages.build(copy_checkout(tmp_path_factory.mktemp("checkout")), target)
    assert {path.name for path in made} == {SDIST, WHEEL, archive.NAME, SHARE} == set(os.listdir(target))
    return target


def test_the_sdist_is_the_checkout(built: Path) -> None:
    with tarfile.open(built / SDIST) as file:
        members = {each.name.partition("/")[2]: each for each in file if not each.isdir()}
        assert {name for name in members if not GENERATED.fullmatch(name)} == set(tracked_files())
        for name in tracked_files():
            content = file.extractfile(members[name])
            assert content
            assert content.read() == (ROOT / name).read_bytes(), name


def test_the_wheel_has_what_runs(built: Path) -> None:
    with zipfile.ZipFile(built / WHEEL) as file:
        for name in tracked_files():
            if name.startswith("rawservers/"):
                assert file.read(name) == (ROOT / name).read_bytes()
        for name, source in SHARED.items():
            assert file.read(f"rawservers-{__version__}.data/data/share/{name}") == (ROOT / source).read_bytes()
        tops = {name.partition("/")[0] for name in file.namelist()}
        assert tops == {"rawservers", f"rawservers-{__version__}.data", f"rawservers-{__version__}.dist-info"}
        entry_points = file.read(f"rawservers-{__version__}.dist-info/entry_points.txt").decode()
    assert "rawservers = rawservers.__main__:main\n" in entry_points
    with tarfile.open(built / SHARE) as shared:
        assert {each.name for each in shared if each.isfile()} == {f"share/{name}" for name in SHARED}


def test_the_metadata_of_the_wheel(built: Path) -> None:
    """It is what an index takes, and its description can be shown."""
    metadata = packages.check_metadata(built / WHEEL)
    expected = {"Name": "rawservers", "Version": __version__, "License-Expression": "MIT", "Requires-Python": ">=3.11"}
    assert {name: metadata[name] for name in expected} == expected
    labels = {line.partition(", ")[0] for line in metadata.get_all("Project-URL", [])}
    assert labels == {"Homepage", "Documentation", "Changelog", "Issues", "Security"}
    assert not [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]


def test_metadata_that_an_index_refuses(built: Path, tmp_path: Path) -> None:
    for change in (("License-Expression: MIT", "License-Expression: M I T"), ("text/markdown", "text/x-rst")):
        changed = tmp_path / WHEEL
        with zipfile.ZipFile(built / WHEEL) as source, zipfile.ZipFile(changed, "w") as target:
            name = f"rawservers-{__version__}.dist-info/METADATA"
            target.writestr(name, source.read(name).decode().replace(*change))
        with pytest.raises(BuildError, match=WHEEL):
            packages.check_metadata(changed)


# Used


def use(folder: Path, *command: str | Path, env: dict[str, str] | None = None) -> None:
    """Serve `folder` and the welcome page with this command, and ask, reload and stop the server."""
    environment = env or private(folder.parent / "home")
    said = run(*command, "--version", env=environment)
    assert said.decode() == f"rawservers {__version__}\n"
    config = folder.parent / "printed.toml"
    config.write_bytes(run(*command, "--print-config", env=environment))
    assert config.read_text() == (ROOT / "conf" / "rawservers.toml").read_text()
    assert run(*command, "--check", "-c", config, env=environment) == b"ok\n"
    for arguments, page in (([], b"rawservers</title>"), ([folder], b'href="f"')):
        with Server(*arguments, "--http", "0", "--telnet", "0", command=command, env=environment) as server:
            assert page in exchange(server, b"GET / HTTP/1.0\r\n\r\n")
            with server.connect("telnet") as sock:
                sock.sendall(b"hello\r\n")
                assert sock.recv(100) == b"hello\r\n"
            pid = str(server.process.pid)
            assert b"http" in run(*command, "--status", f"pid:{pid}", env=environment)
            run(*command, "--reload", pid, env=environment)
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
            assert server.complaints() == ["reloading"]


def installed(prefix: Path) -> None:
    """Below `prefix` are the files of share/."""
    for name, source in SHARED.items():
        assert (prefix / "share" / name).read_bytes() == (ROOT / source).read_bytes()


@pytest.mark.slow
def test_the_archive_runs_alone(built: Path, folder: Path, tmp_path: Path) -> None:
    """From a path with a space, whoever calls it."""
    pyz = tmp_path / "my programs" / archive.NAME
    pyz.parent.mkdir()
    pyz.write_bytes((built / archive.NAME).read_bytes())
    use(folder, sys.executable, pyz)


def test_the_archive_is_reproducible(built: Path, tmp_path: Path) -> None:
    """The same files give the same bytes, whatever their times are; and it can be executed."""
    copied = copy_checkout(tmp_path / "copy")
    os.utime(copied / "rawservers" / "cli.py", (0, 0))
    archive.write_archive(copied, tmp_path / archive.NAME)
    assert (tmp_path / archive.NAME).read_bytes() == (built / archive.NAME).read_bytes()
    assert (built / archive.NAME).stat().st_mode & 0o777 == 0o755


def test_the_archive_is_replaced_under_a_running_server(built: Path, folder: Path, tmp_path: Path) -> None:
    """A reload still finds the templates that it had, and a new worker too."""
    pyz = tmp_path / archive.NAME
    pyz.write_bytes((built / archive.NAME).read_bytes())
    with Server("--http", "0", "--telnet", "off", command=(sys.executable, pyz)) as server:
        before = exchange(server, b"GET / HTTP/1.0\r\n\r\n")
        (tmp_path / "new").write_bytes(b"another program\n")
        (tmp_path / "new").rename(pyz)
        run(sys.executable, "-m", "rawservers", "--reload", str(server.process.pid), cwd=ROOT)
        (worker,) = server.workers()
        os.kill(worker, signal.SIGKILL)
        until(lambda: server.workers() not in ([], [worker]), "another worker")
        after = exchange(server, b"GET / HTTP/1.0\r\n\r\n")
        templates = [page.partition(b"\r\n\r\n")[2].partition(b"</style>")[0] for page in (before, after)]
        assert templates[0] == templates[1]  # what follows is of the connection
        assert len(templates[0]) > 3000
        assert "Traceback" not in server.stderr()


# Installed


def install(*command: str | Path, env: dict[str, str] | None = None) -> None:
    """Run what may take its time, such as pip. It is this machine's own settings that say where it finds packages."""
    done = subprocess.run(command, capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("package", [SDIST, WHEEL])
def test_pip(built: Path, folder: Path, tmp_path: Path, package: str) -> None:
    """In a fresh virtual environment; it builds an sdist by itself. Removed, it leaves nothing."""
    programs = tmp_path / "venv" / "bin"
    install(sys.executable, "-m", "venv", tmp_path / "venv")
    before = set((tmp_path / "venv").rglob("*"))
    install(programs / "pip", "install", "--disable-pip-version-check", built / package)
    use(folder, programs / "rawservers")
    installed(tmp_path / "venv")
    install(programs / "pip", "uninstall", "--yes", "rawservers")
    left = {path for path in set((tmp_path / "venv").rglob("*")) - before if not path.is_dir() and path.suffix != ".pyc"}
    assert left == set()


@pytest.mark.slow
def test_pip_to_the_place_that_the_units_use(built: Path, folder: Path, tmp_path: Path) -> None:
    """`pip install --target` makes what the command in systemd/ and the units expect in /usr/local/lib/rawservers."""
    target = tmp_path / "lib"
    install(sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--target", target, built / WHEEL)
    installed(target)
    command = tmp_path / "rawservers"
    wrapper = (target / "share/rawservers/systemd/rawservers").read_text()
    assert wrapper.count("/usr/local/lib/rawservers") == 1
    command.write_text(wrapper.replace("/usr/local/lib/rawservers", str(target)))
    command.chmod(0o755)
    use(folder, command)


@pytest.mark.slow
def test_pipx(built: Path, folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "pipx"
    places = {"PIPX_HOME": home, "PIPX_BIN_DIR": tmp_path / "bin", "PIPX_MAN_DIR": tmp_path / "man"}
    environment = private(tmp_path / "home", PIPX_DEFAULT_PYTHON=sys.executable, **places)
    install(sys.executable, "-m", "pipx", "install", built / WHEEL, env=environment)
    use(folder, tmp_path / "bin" / "rawservers")
    assert (tmp_path / "man/man1/rawservers.1").read_bytes() == (ROOT / "docs/rawservers.1").read_bytes()


@pytest.mark.slow
def test_uvx(built: Path, folder: Path, tmp_path: Path) -> None:
    """Without an index: there is nothing to fetch."""
    environment = private(tmp_path / "home", UV_CACHE_DIR=tmp_path / "cache", UV_PYTHON=sys.executable)
    uvx = Path(sys.executable).with_name("uvx")
    said = run(uvx, "--offline", "--from", built / WHEEL, "rawservers", "--version", env=environment)
    assert said.decode() == f"rawservers {__version__}\n"
    install(uvx.with_name("uv"), "--offline", "tool", "install", built / WHEEL, env=environment)
    use(folder, tmp_path / "home/.local/bin/rawservers")


# Released


def release(checkout: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command: Sequence[str | Path] = [sys.executable, "-m", "tools.release", *arguments]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True)


@pytest.mark.slow
def test_a_release(tmp_path: Path) -> None:
    """Refused until all is well; then everything is made, and what is left to do is said."""
    checkout = copy_checkout(tmp_path / "checkout")
    who = ("-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")

    def commit() -> None:
        run(need("git"), *who, "add", "--all", cwd=checkout)
        run(need("git"), *who, "commit", "-q", "-m", "all", cwd=checkout)

    run(need("git"), "init", "-q", cwd=checkout)
    commit()
    changes = (checkout / "CHANGELOG.md").read_text()
    (checkout / "CHANGELOG.md").write_text(re.sub(r"(?m)^## \S+ - .*$", f"## {__version__} - unreleased", changes, count=1))
    (checkout / "docs/rawservers.1").write_text("")
    refused = release(checkout)
    assert (refused.returncode, refused.stdout) == (1, "")
    lines = refused.stderr.splitlines()
    assert "not committed: docs/rawservers.1" in lines
    assert f"CHANGELOG.md: version {__version__} has no date, but 'unreleased'" in lines
    assert lines[-1] == "not up to date: docs/rawservers.1"

    (checkout / "CHANGELOG.md").write_text(re.sub(r"(?m)^## \S+ - .*$", "## 9.9.9 - 2026-01-01", changes, count=1))
    assert f"CHANGELOG.md: the first section is not that of version {__version__}\n" in release(checkout).stderr

    (checkout / "CHANGELOG.md").write_text(re.sub(r"(?m)^## \S+ - .*$", f"## {__version__} - 2026-01-01", changes, count=1))
    run(need("git"), "checkout", "-q", "docs/rawservers.1", cwd=checkout)
    commit()
    done = release(checkout)
    assert (done.returncode, done.stderr) == (0, "")
    made = {SDIST, WHEEL, archive.NAME, SHARE, SUMS}
    assert set(os.listdir(checkout / "dist")) == made
    assert all(name in done.stdout for name in made)
    run("sha256sum", "--check", "--strict", SUMS, cwd=checkout / "dist")
    assert run(need("git"), "status", "--porcelain", cwd=checkout) == b""
    assert release(checkout).stderr == f"{checkout}/dist is not empty\n"
