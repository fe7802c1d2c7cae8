"""The users of a file made by `htpasswd -B`, and the verification of their passwords.

bcrypt takes tens of milliseconds on purpose, so it runs in threads (it releases the interpreter lock): THREADS at once, and
MAX_QUEUED more wait. Who was verified lately does not wait: a keyed digest of user, password and hash is remembered, never the
password itself. An unknown user takes as long as a known one.

A file is read before the start and at each reload, as root if the server is started so. A worker looks at it by stat before
each verification, and reads it again if it has changed, and if the worker may read it. A file that has changed less than
SETTLE_TIME ago may still be being written, so that has to wait. If there are mistakes in it, the former users stay.
"""

from __future__ import annotations

import errno
import hmac
import logging
import os
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from threading import Lock, Thread, get_native_id
from typing import Any, NamedTuple

from rawservers.core.regular_file import read_regular
from rawservers.http.auth import CONTROL, Verify
from rawservers.http.cache import FreshnessClock
from rawservers.http.files import FileState, is_hidden, signature
from rawservers.http.response import Busy
from rawservers.settings import ConfigError, SiteConfig

log = logging.getLogger("rawservers")

THREADS = 2
MAX_QUEUED = 16  # verifications that wait for a thread: at the usual cost of 10 about half a second
MAX_REQUESTS = 256  # that wait in all. They may share a verification, and are then answered in one iteration of the event loop
NICENESS = 5  # of the threads: the event loop comes first, and where processors are scarce they still get a share

MAX_PASSWORD = 72  # bytes: bcrypt ignores what follows, so a longer one would be as good as its beginning
MAX_VERIFIED = 4096  # users and passwords that are remembered
VERIFIED_TIME = 600.0  # seconds from their last use for which they are
SETTLE_TIME = 0.1  # seconds since the last change of a file, before a worker reads it
MAX_ERRORS = 100  # of one file

MIN_COST, MAX_COST = 4, 17  # those of htpasswd. Each doubles the time; with 17 it takes seconds
BCRYPT = re.compile(rb"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}")
DUMMY = b"$2b$%02d$" + b"." * 53  # the hash of no password, with this cost
OTHER_HASHES = {
    "$apr1$": "MD5 ($apr1$)", "$1$": "MD5 ($1$)", "{SHA}": "SHA-1 ({SHA})", "{SSHA}": "SHA-1 ({SSHA})", "$5$": "SHA-256 ($5$)",
    "$6$": "SHA-512 ($6$)", "$y$": "yescrypt ($y$)", "$7$": "scrypt ($7$)", "$argon2": "Argon2", "$2x$": "faulty bcrypt ($2x$)",
}  # fmt: skip


class UsersFile(NamedTuple):
    """state: of the file that was read; hashes: of the passwords, by user."""

    state: FileState
    hashes: dict[bytes, bytes]


class Verification(Future[bool]):
    """The future of a call of `function`. key: what it is shared by; requests: number of those that share it."""

    def __init__(self, key: bytes, function: Callable[[], bool]) -> None:
        super().__init__()
        self.key = key
        self.function = function
        self.requests = 0


class VerifierThreads:
    """The queue of verifications, and the threads that run them. These end when it is empty."""

    def __init__(self) -> None:
        self._lock = Lock()  # guards the attributes below
        self._unfinished: dict[bytes, Verification] = {}  # by key
        self._queue: deque[Verification] = deque()
        self._requests = 0
        self._threads = 0

    def submit(self, key: bytes, function: Callable[[], bool]) -> Verification:
        """The future of a call of `function`, or the unfinished one with the same key. Raises Busy.

        The future is shared, and must not be cancelled.
        """
        with self._lock:
            found = self._unfinished.get(key)
            if self._requests >= MAX_REQUESTS or (not found and len(self._unfinished) >= THREADS + MAX_QUEUED):
                raise Busy(errno.EAGAIN, "too many passwords to verify")
            if not found:
                if self._threads < THREADS:
                    try:
                        Thread(target=self._run, name="verifier", daemon=True).start()
                        self._threads += 1
                    except RuntimeError as failure:
                        if not self._threads:
                            raise Busy(errno.EAGAIN, "too many threads") from failure
                found = self._unfinished[key] = Verification(key, function)
                self._queue.append(found)
            found.requests += 1
            self._requests += 1
            return found

    def _run(self) -> None:
        with suppress(OSError):  # of a sandbox
            os.setpriority(os.PRIO_PROCESS, get_native_id(), NICENESS)
        while verification := self._begin_next():
            verified = False
            try:
                verified = verification.function()
            except BaseException:  # the thread continues
                log.exception("cannot verify a password")
            with self._lock:
                self._requests -= verification.requests
                del self._unfinished[verification.key]
            verification.set_result(verified)

    def _begin_next(self) -> Verification | None:
        """The next verification; None, and the thread is to end, if there is none."""
        with self._lock:
            if self._queue:
                return self._queue.popleft()
            self._threads -= 1
            return None


class Users:
    """The users of the file at `path`. file: as it was read before the privileges were dropped."""

    def __init__(self, path: str, file: UsersFile, clock: FreshnessClock, threads: VerifierThreads) -> None:
        self._path = path
        self._state: FileState | None = file.state  # of the last file that was looked at
        self._clock = clock
        self._epoch = -1  # in which that was
        self._threads = threads
        self._key = os.urandom(32)
        self._verified: OrderedDict[bytes, float] = OrderedDict()  # digests, least recently used first; when each expires
        self._take(file.hashes)

    def _take(self, hashes: dict[bytes, bytes]) -> None:
        self._hashes = hashes
        self._highest = max(map(cost_of, hashes.values()), default=MIN_COST)
        self._verified.clear()

    def verify(self, user: bytes, password: bytes, future: Future[Any] | None = None) -> bool | Future[Any]:
        """Whether `user` has this password; a future if that is not known yet: call again with it once it is done.

        Raises Busy.
        """
        if len(password) > MAX_PASSWORD:
            return False
        self._refresh()
        hashed = self._hashes.get(user, DUMMY % self._highest)
        key = hmac.digest(self._key, b"\0".join((hashed, user, password)), "sha256")
        now = self._clock.loop_clock.now
        if future is None and self._verified.get(key, now) <= now:
            return self._threads.submit(key, partial(check_password, password, hashed, self._highest))
        if isinstance(future, Verification) and not (future.key == key and future.result(timeout=0)):
            return False  # also if the password was changed meanwhile
        self._verified[key] = now + VERIFIED_TIME
        self._verified.move_to_end(key)
        if len(self._verified) > MAX_VERIFIED:
            self._verified.popitem(last=False)
        return True

    def _refresh(self) -> None:
        """Read the file again if it has changed; at most one stat per freshness epoch."""
        if self._epoch == self._clock.epoch:
            return
        self._epoch = self._clock.epoch
        state: FileState | None = None
        try:
            status = os.stat(self._path)
            state = signature(status)
            if abs(self._clock.loop_clock.time - status.st_ctime) < SETTLE_TIME:
                return
        except PermissionError:  # to the directory
            return
        except OSError:
            pass  # it is missing, which is logged below
        if state == self._state:
            return
        self._state = state
        try:
            self._take(read_users(self._path).hashes)
            log.info("users read from %s: %d", self._path, len(self._hashes))
        except PermissionError:
            log.warning("%s has changed, and workers may not read it: reload to apply it", self._path)
        except ConfigError as failure:
            for error in failure.errors:
                log.error("%s", error)
            log.error("%s is not applied: keeping the former users", self._path)


def check_password(password: bytes, hashed: bytes, highest: int) -> bool:
    """Whether this is the hash of `password`. It takes as long as for a hash of the cost `highest`."""
    import bcrypt  # here, since it is not of the standard library

    matches = hmac.compare_digest(bcrypt.hashpw(password, hashed), hashed)
    for cost in range(cost_of(hashed), highest):  # each takes twice as long as the one before
        bcrypt.hashpw(password, DUMMY % cost)
    return matches


def cost_of(hashed: bytes) -> int:
    return int(hashed[4:6])


def read_users(path: str) -> UsersFile:
    """The users of the file at `path`. Raises ConfigError, but PermissionError if it may not be read."""
    try:
        status, content = read_regular(path)
    except PermissionError:
        raise
    except OSError as failure:
        raise ConfigError([f"{path}: cannot be read: {str(failure.strerror).lower()}"]) from failure
    except ValueError as failure:
        raise ConfigError([f"{path}: {failure}"]) from failure
    return UsersFile(signature(status), parse_users(path, content))


def parse_users(path: str, content: bytes) -> dict[bytes, bytes]:
    """The hashes by user: lines as htpasswd writes them, empty ones, and comments. Raises ConfigError with all mistakes."""
    hashes: dict[bytes, bytes] = {}
    errors = []
    for number, line in enumerate(content.split(b"\n"), 1):
        line = line.strip()
        if not line or line.startswith(b"#"):
            continue
        user, _, hashed = line.partition(b":")
        hashed = hashed.partition(b":")[0]
        if mistake := find_mistake(user, hashed, hashes):
            errors.append(f"{path}:{number}: {mistake}")
        hashes[user] = hashed
    if errors:
        raise ConfigError(errors[:MAX_ERRORS])
    return hashes


def find_mistake(user: bytes, hashed: bytes, others: Mapping[bytes, bytes]) -> str:
    """What is wrong with a line; "" if nothing is. It does not quote a hash, which may be a password by mistake."""
    try:
        name = repr(user.decode())
    except UnicodeDecodeError:
        return "the user name is not UTF-8"
    if not user or CONTROL.search(user):
        return "the user name is empty, or contains control characters"
    if user in others:
        return f"duplicate user {name}"
    if match := BCRYPT.fullmatch(hashed):
        if MIN_COST <= int(match[1]) <= MAX_COST:
            return ""
        return f"the cost of the bcrypt hash of {name} is {int(match[1])}: expected {MIN_COST} to {MAX_COST}"
    kind = next((kind for prefix, kind in OTHER_HASHES.items() if hashed.startswith(prefix.encode())), "")
    if re.fullmatch(rb"[./0-9A-Za-z]{13}", hashed):
        kind = "crypt (DES)"
    what = f"the hash of {name} is {kind}" if kind else f"no bcrypt hash of {name}, or a damaged one"
    return f"{what}; only bcrypt is accepted: set the password anew with htpasswd -B"


def read_all_users(sites: Iterable[SiteConfig]) -> dict[str, UsersFile]:
    """The files of users of all sites, by path. Raises ConfigError with all mistakes, also for a file that is served."""
    files: dict[str, UsersFile] = {}
    errors = []
    for path in dict.fromkeys(each.users for site in sites for each in site.auth if each.users is not None):
        try:
            import bcrypt as bcrypt  # here, since it is not of the standard library

            files[path] = read_users(path)
            if root := next((site.root for site in sites if is_served(path, site.root)), None):
                raise ConfigError([f"{path}: is below the document root {root}: anyone could read the hashes"])
        except ImportError:
            text = "needs the Python package bcrypt: pip install 'rawservers[auth]', or apt install python3-bcrypt"
            raise ConfigError([f"{path}: authentication {text}"]) from None
        except PermissionError as failure:
            errors.append(f"{path}: cannot be read: {str(failure.strerror).lower()}")
        except ConfigError as failure:
            errors += failure.errors
    if errors:
        raise ConfigError(errors)
    return files


def is_served(path: str, root: str) -> bool:
    """Whether the file at `path` can be requested from the document root."""
    real_path, real_root = os.fsencode(os.path.realpath(path)), os.fsencode(os.path.realpath(root)).rstrip(b"/")
    return real_path.startswith(real_root + b"/") and not is_hidden(real_path[len(real_root) :])


def make_verifiers(files: Mapping[str, UsersFile], clock: FreshnessClock) -> dict[str, Verify]:
    """The function that verifies the users of each file, by its path."""
    threads = VerifierThreads()
    return {path: Users(path, file, clock, threads).verify for path, file in files.items()}
