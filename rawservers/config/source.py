"""The bytes of a configuration file: read without waiting, up to a limit, and only when nobody is writing it any more.

An editor or `cp` empties a file before it writes it anew, so that a reader may find it empty, or cut anywhere. A file is taken
when two reads in a row, SETTLE_TIME apart, find the same.
"""

from __future__ import annotations

import time
from typing import TypeAlias

from rawservers.core.errors import os_error_text
from rawservers.core.regular_file import read_regular
from rawservers.settings import ConfigError

SETTLE_TIME = 0.1  # seconds between two reads
MAX_WAIT = 2.0  # seconds until a file that changes all the time is given up

Version: TypeAlias = "tuple[int, ...]"  # differs between two files, and between two states of one


class Reading:
    """One reading of the file at `path`, which may be being written: as many attempts as it takes."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._last: tuple[Version, bytes] | str | None = None  # what the last attempt has found; an error as its text
        self._deadline = 0.0

    def attempt(self, now: float) -> bytes | None:
        """Read the file. The content, if the last attempt found the same; None: call again in SETTLE_TIME seconds.

        now: monotonic time. Raises ConfigError if the file cannot be read, or still changes after MAX_WAIT.
        """
        last = self._last
        try:
            found: tuple[Version, bytes] | str = read_version(self._path)
        except (OSError, ValueError) as error:  # it may be missing for a moment, while it is replaced
            found = os_error_text(error)
        if last is None:
            self._deadline = now + MAX_WAIT
        elif found == last:
            if isinstance(found, str):
                raise ConfigError([f"{self._path}: cannot be read: {found}"])
            return found[1]
        elif now >= self._deadline:
            raise ConfigError([f"{self._path}: still changing after {MAX_WAIT:g} seconds: not taken"])
        self._last = found
        return None


def read_settled(path: str) -> bytes:
    """The content of the file at `path`, waiting for MAX_WAIT at most. Raises ConfigError."""
    reading = Reading(path)
    while (content := reading.attempt(time.monotonic())) is None:
        time.sleep(SETTLE_TIME)
    return content


def read_version(path: str) -> tuple[Version, bytes]:
    """The version and the content of a regular file of up to MAX_SIZE bytes. Raises OSError or ValueError."""
    found, content = read_regular(path)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns), content
