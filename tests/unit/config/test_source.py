"""How a configuration file is read: only a regular file, of a bounded size, that nobody is writing any more."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rawservers.config import source
from rawservers.config.source import MAX_WAIT, SETTLE_TIME, Reading
from rawservers.core.regular_file import MAX_SIZE
from rawservers.settings import ConfigError
from tests.harness.configuration import load

Change = Callable[[Path], object]


def drive(path: Path, *changes: Change) -> tuple[bytes | str, int]:
    """What a reading with these changes before its attempts comes to, the content or the error, and the number of attempts."""
    reading, now = Reading(str(path)), 1000.0
    for number in range(100):
        if number < len(changes):
            changes[number](path)
        try:
            if (content := reading.attempt(now)) is not None:
                return content, number + 1
        except ConfigError as error:
            (message,) = error.errors
            return message.removeprefix(f"{path}: "), number + 1
        now += SETTLE_TIME
    raise AssertionError


def write(text: str) -> Change:
    return lambda path: path.write_text(text)


def append(text: str) -> Change:
    def change(path: Path) -> None:
        with path.open("a") as file:
            file.write(text)

    return change


def nothing(path: Path) -> None: ...


def remove(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    """By another file of the same content and times."""
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    status = path.stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(path)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([write("a = 1")], (b"a = 1", 2)),
        ([write(""), append("a"), append(" = "), append("1")], (b"a = 1", 5)),
        ([write("a"), nothing], (b"a", 2)),
        ([write("a"), write("b"), write("a")], (b"a", 4)),
        ([write("a"), replace], (b"a", 3)),
        ([nothing, write("a")], (b"a", 3)),  # it is missing for a moment
        ([write("a"), remove, write("b")], (b"b", 4)),
        ([write("a"), remove], ("cannot be read: no such file or directory", 3)),
        ([nothing], ("cannot be read: no such file or directory", 2)),
    ],
)
def test_a_file_is_taken_when_two_reads_find_the_same(
    path: Path, changes: list[Change], expected: tuple[bytes | str, int]
) -> None:
    assert drive(path, *changes) == expected


def test_a_file_that_never_settles_is_given_up(path: Path) -> None:
    said, attempts = drive(path, *[append("a")] * 99)
    assert said == "still changing after 2 seconds: not taken"
    assert attempts == MAX_WAIT / SETTLE_TIME + 1


def test_a_period_that_meets_every_read_is_noticed(path: Path) -> None:
    """Each read finds the same first half of a file that is written over and over."""

    def rewrite(path: Path) -> None:
        inode = path.stat().st_ino if path.exists() else 0
        path.write_text("first half, second half")
        path.write_text("first half")
        assert inode in {0, path.stat().st_ino}
        os.utime(path, ns=(counter.pop(), 0))  # the file system's clock may be too coarse for a test

    counter = list(range(99))
    assert drive(path, *[rewrite] * 99)[0] == "still changing after 2 seconds: not taken"


def test_only_a_regular_file_is_read(path: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    link = tmp_path / "link"
    link.symlink_to(fifo)
    for name in (fifo, link, Path("/dev/zero"), Path("/dev/null"), Path("/dev/tty")):
        said, _ = drive(name)
        assert said in {"cannot be read: not a regular file", "cannot be read: no such device or address"}
    assert drive(tmp_path) == ("cannot be read: is a directory", 2)
    path.write_bytes(b"#" * MAX_SIZE)
    assert drive(path) == (b"#" * MAX_SIZE, 2)
    path.write_bytes(b"#" * (MAX_SIZE + 1))
    assert drive(path) == ("cannot be read: too large (the limit is 1 MiB)", 2)
    os.truncate(path, 1 << 40)
    assert drive(path) == ("cannot be read: too large (the limit is 1 MiB)", 2)


def test_a_start_waits_for_the_second_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text("a")
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 1:
            path.write_text("bb")

    monkeypatch.setattr("time.sleep", sleep)
    assert source.read_settled(str(path)) == b"bb"
    assert waits == [SETTLE_TIME, SETTLE_TIME]


def test_reading_leaves_nothing_open(path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    path.write_text("# well\n")
    load(str(path), {})
    for name in (str(path.parent), "/dev/zero", ""):
        with pytest.raises(ConfigError):
            load(name, {})
    assert os.listdir("/proc/self/fd") == before
