"""Opening a log as root: no link is followed that somebody else could have made, and no file of somebody else is opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rawservers.logs.access import open_target

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be led astray")

USER, OTHER = 65534, 1  # of the workers; somebody else


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory that is root's, below those that are; with a secret in it."""
    (tmp_path / "secret").write_text("secret\n")
    (tmp_path / "secret").chmod(0o600)
    yield tmp_path
    assert (tmp_path / "secret").read_text() == "secret\n"


def folder(path: Path, owner: int = USER, mode: int = 0o755) -> Path:
    path.mkdir()
    os.chown(path, owner, -1)
    path.chmod(mode)
    return path


def append(target: Path | str) -> None:
    fd = open_target(str(target), USER)
    os.write(fd, b"line\n")
    os.close(fd)


FOLDERS = [(USER, 0o755), (OTHER, 0o755), (0, 0o775), (0, 0o757), (0, 0o1777)]


@pytest.mark.parametrize(("owner", "mode"), FOLDERS)
def test_a_link_in_a_folder_that_others_may_write_to(place: Path, owner: int, mode: int) -> None:
    logs = folder(place / "logs", owner, mode)
    for target in ("../secret", str(place / "secret"), "nowhere", "file"):
        (logs / "log").symlink_to(target)
        with pytest.raises(OSError, match="link that others than root may have made"):
            append(logs / "log")
        (logs / "log").unlink()
    os.link(place / "secret", logs / "log")
    with pytest.raises(PermissionError, match="has another name"):
        append(logs / "log")
    assert not (logs / "nowhere").exists()


@pytest.mark.parametrize(("owner", "mode"), FOLDERS[:-1])
def test_a_link_further_up(place: Path, owner: int, mode: int) -> None:
    """Also one to a directory that is root's."""
    top = folder(place / "top", owner, mode)
    (top / "logs").symlink_to(folder(place / "logs", 0))
    with pytest.raises(OSError, match="link that others than root may have made"):
        append(top / "logs" / "log")
    folder(top / "own", 0)  # which its owner may have put there in the place of another one
    (top / "own" / "log").symlink_to(place / "secret")
    with pytest.raises(OSError, match="link that others than root may have made"):
        append(top / "own" / "log")
    assert not (place / "logs" / "log").exists()


def test_a_link_that_leads_through_a_folder_of_others(place: Path) -> None:
    """It is root's, but what it leads to is not."""
    logs = folder(place / "logs")
    (logs / "real").symlink_to(place / "secret")
    (place / "log").symlink_to("logs/real")
    with pytest.raises(OSError, match="link that others than root may have made"):
        append(place / "log")


@pytest.mark.parametrize(("owner", "mode"), FOLDERS)
@pytest.mark.parametrize("holder", [None, 0, USER])
def test_a_file_in_such_a_folder(place: Path, owner: int, mode: int, holder: int | None) -> None:
    log = folder(place / "logs", owner, mode) / "log"
    if holder is not None:
        log.touch()
        os.chown(log, holder, -1)
    if holder and mode & 0o1000 and Path("/proc/sys/fs/protected_regular").read_text() != "0\n":
        with pytest.raises(PermissionError):
            append(log)
        return
    append(log)
    append(log)
    assert log.read_text() == "line\nline\n"


def test_a_file_of_somebody_else(place: Path) -> None:
    log = folder(place / "logs") / "log"
    log.touch()
    os.chown(log, OTHER, -1)
    with pytest.raises(PermissionError, match="belongs to somebody else"):
        append(log)
    assert log.read_text() == ""


def test_links_that_are_roots(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = folder(place / "real", 0)
    (place / "logs").symlink_to("real")
    (real / "log").symlink_to(f"{place}/logs/../real/./file")
    monkeypatch.chdir(place)
    for target in (place / "logs" / "log", "logs/log", "./logs//log", "real/../logs/log"):
        append(target)
    assert (real / "file").read_text() == "line\n" * 4
    (real / "circle").symlink_to("circle")
    with pytest.raises(OSError, match="too many links"):
        append(real / "circle")
    for nothing in (real, f"{real}/", place / "none" / "log", real / "file" / "log"):
        with pytest.raises(OSError, match="directory"):
            append(nothing)


def test_links_that_the_kernel_makes(place: Path) -> None:
    reader, writer = os.pipe()
    fd = open_target(f"/proc/self/fd/{writer}", USER)
    os.close(writer)
    os.write(fd, b"line\n")
    os.close(fd)
    assert os.read(reader, 100) == b"line\n"
    os.close(reader)
    os.close(open_target("/dev/null", USER))
