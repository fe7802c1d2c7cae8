"""The files of users, and the verification of passwords: its cost, its limits, what is remembered, and when a file is read."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from rawservers.core.peer import Clock
from rawservers.core.regular_file import MAX_SIZE
from rawservers.http import users as module
from rawservers.http.cache import FreshnessClock
from rawservers.http.response import Busy
from rawservers.http.users import (
    MAX_COST,
    MAX_PASSWORD,
    MAX_QUEUED,
    MAX_REQUESTS,
    MAX_VERIFIED,
    SETTLE_TIME,
    THREADS,
    VERIFIED_TIME,
    Users,
    VerifierThreads,
    check_password,
    parse_users,
    read_all_users,
    read_users,
)
from rawservers.settings import AuthConfig, ConfigError, SiteConfig
from tests.harness.auth import SECRETS, basic, hashed, write_users
from tests.harness.http import Client, router
from tests.harness.http_cache import get as request
from tests.harness.waiting import DEADLINE, until

HASH = "$2y$04$NGSefgfj.HnBfI0ARXjAPOx6ZjCcCrGh32T1CcPWVu9GM2w8atNDS"  # by htpasswd, of "x"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Path(write_users(tmp_path / "users", "ada", "bob"))


@pytest.fixture
def users(path: Path, clock: Clock) -> Iterator[Users]:
    threads = VerifierThreads()
    yield Users(str(path), read_users(str(path)), FreshnessClock(clock), threads)
    until(lambda: threads._threads == 0, "the threads have ended")


def verified(users: Users, user: str, password: str | None = None) -> bool:
    """Whether it is the password of this user, after whatever wait."""
    args = user.encode(), (SECRETS[user] if password is None else password).encode()
    answer = users.verify(*args)
    if not isinstance(answer, bool):
        wait([answer], DEADLINE)
        answer = users.verify(*args, answer)
    assert isinstance(answer, bool)
    return answer


def is_remembered(users: Users, user: str) -> bool:
    """Whether this user need not wait."""
    return users.verify(user.encode(), SECRETS[user].encode()) is True


# The file


@pytest.mark.parametrize("prefix", ["$2y$", "$2b$", "$2a$"])
@pytest.mark.parametrize("end", ["\n", "\r\n", " \t\n", ":a comment\n", ""])
def test_a_line(prefix: str, end: str) -> None:
    for before in ("", "\n", "# a comment:$apr1$\n", " \r\n"):
        content = f"{before}ada lövelace:{prefix}{HASH[4:]}{end}".encode()
        assert parse_users("F", content) == {"ada lövelace".encode(): f"{prefix}{HASH[4:]}".encode()}


def test_a_file_without_users() -> None:
    assert parse_users("F", b"") == parse_users("F", b"# nobody\n") == {}


ONLY = "; only bcrypt is accepted: set the password anew with htpasswd -B"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ada:$apr1$aaaaaaaa$aaaaaaaaaaaaaaaaaaaaaa", f"the hash of 'ada' is MD5 ($apr1$){ONLY}"),
        ("ada:$1$aaaaaaaa$aaaaaaaaaaaaaaaaaaaaaa", f"the hash of 'ada' is MD5 ($1$){ONLY}"),
        ("ada:{SHA}aaaaaaaaaaaaaaaaaaaaaaaaaaa=", f"the hash of 'ada' is SHA-1 ({{SHA}}){ONLY}"),
        ("ada:$5$aaaaaaaa$aaaaa", f"the hash of 'ada' is SHA-256 ($5$){ONLY}"),
        ("ada:$6$aaaaaaaa$aaaaa", f"the hash of 'ada' is SHA-512 ($6$){ONLY}"),
        ("ada:$y$j9T$aaaaa$aaaaa", f"the hash of 'ada' is yescrypt ($y$){ONLY}"),
        ("ada:$argon2id$v=19$aaaaa", f"the hash of 'ada' is Argon2{ONLY}"),
        (f"ada:$2x{HASH[3:]}", f"the hash of 'ada' is faulty bcrypt ($2x$){ONLY}"),
        ("ada:aaaaaaaaaaaaa", f"the hash of 'ada' is crypt (DES){ONLY}"),
        ("ada:my secret", f"no bcrypt hash of 'ada', or a damaged one{ONLY}"),
        ("ada", f"no bcrypt hash of 'ada', or a damaged one{ONLY}"),
        (f"ada:{HASH[:-1]}", f"no bcrypt hash of 'ada', or a damaged one{ONLY}"),
        (f"ada:{HASH}x", f"no bcrypt hash of 'ada', or a damaged one{ONLY}"),
        (f"ada:$2y$31${HASH[7:]}", f"the cost of the bcrypt hash of 'ada' is 31: expected 4 to {MAX_COST}"),
        (f"ada:$2y$03${HASH[7:]}", f"the cost of the bcrypt hash of 'ada' is 3: expected 4 to {MAX_COST}"),
        (f":{HASH}", "the user name is empty, or contains control characters"),
        (f"a\0b:{HASH}", "the user name is empty, or contains control characters"),
        (f"\udcff:{HASH}", "the user name is not UTF-8"),
        (f"bob:{HASH}", "duplicate user 'bob'"),
    ],
)
def test_a_mistake_has_its_line_and_no_hash(line: str, expected: str) -> None:
    content = f"# users\nbob:{HASH}\n{line}\nmax:{HASH}\n:".encode("utf-8", "surrogateescape")
    with pytest.raises(ConfigError) as error:
        parse_users("/etc/users", content)
    assert error.value.errors == [
        f"/etc/users:3: {expected}",
        "/etc/users:5: the user name is empty, or contains control characters",
    ]
    assert not any(secret in str(error.value) for secret in (HASH[7:], "aaaaa", "my secret"))


def test_so_many_mistakes_at_most() -> None:
    with pytest.raises(ConfigError) as error:
        parse_users("F", b"x\n" * 1000)
    assert len(error.value.errors) == module.MAX_ERRORS


def sites(*paths: Path | str | None, root: str = "/nonexistent") -> list[SiteConfig]:
    return [SiteConfig(root, auth=(AuthConfig("/", None if path is None else str(path)),)) for path in paths]


def test_all_files_are_read_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(module, "read_users", lambda path: read.append(path) or read_users(path))
    assert {*read_all_users(sites(path, path, None))} == {str(path)}
    assert read == [str(path)]
    assert read_all_users(sites(None)) == {}


def test_all_mistakes_are_told(tmp_path: Path) -> None:
    (tmp_path / "bad").write_text("ada:x\n")
    (tmp_path / "large").write_text("#" * (MAX_SIZE + 1))
    with pytest.raises(ConfigError) as error:
        read_all_users(sites(*(tmp_path / name for name in ("absent", "bad", "", "large"))))
    absent, bad, folder, large = error.value.errors
    assert absent == f"{tmp_path}/absent: cannot be read: no such file or directory"
    assert bad.startswith(f"{tmp_path}/bad:1: ")
    assert folder == f"{tmp_path}: is a directory"
    assert large == f"{tmp_path}/large: too large (the limit is 1 MiB)"


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match="not a regular file"):
        read_all_users(sites(tmp_path / "fifo"))


@pytest.mark.parametrize("name", ["users", "sub/users", "link"])
def test_a_file_that_anyone_could_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "www/sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("www/users")
    path = tmp_path / name if name == "link" else tmp_path / "www" / name
    write_users(path, "ada")
    (tmp_path / "root").symlink_to("www")
    for root in (tmp_path / "www", tmp_path / "root"):
        with pytest.raises(ConfigError, match=f"{path}: is below the document root {root}: anyone could read the hashes"):
            read_all_users(sites(path, root=str(root)))
    assert read_all_users(sites(write_users(tmp_path / "www/.htpasswd", "ada"), root=str(tmp_path / "www")))


def test_without_bcrypt(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bcrypt", None)
    with pytest.raises(ConfigError) as error:
        read_all_users(sites(path))
    (message,) = error.value.errors
    assert message.startswith(f"{path}: authentication needs the Python package bcrypt: pip install 'rawservers[auth]'")
    assert read_all_users(sites(None)) == {}


# Passwords


def test_right_and_wrong(users: Users) -> None:
    assert verified(users, "ada")
    assert verified(users, "bob")
    assert check_password(b"x", HASH.encode(), 4)
    for user, password in (
        ("ada", "hunter2"),
        ("ada", ""),
        ("bob", "Hunter2"),
        ("bob", "hunter2 "),
        ("mallory", "x"),
        ("", ""),
    ):
        assert not verified(users, user, password)


def test_so_many_bytes_at_most(path: Path, clock: Clock) -> None:
    """bcrypt ignores the others: a longer password would be as good as its beginning."""
    path.write_text(f"ada:{hashed('ä' * 36)}\n")
    users = Users(str(path), read_users(str(path)), FreshnessClock(clock), VerifierThreads())
    assert MAX_PASSWORD == 72
    assert verified(users, "ada", "ä" * 36)
    assert users.verify(b"ada", b"x" * 73) is False
    assert users.verify(b"ada", ("ä" * 36 + "x").encode()) is False


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The costs that are paid."""
    paid: list[int] = []
    hashpw = bcrypt.hashpw

    def pay(password: bytes, salt: bytes) -> bytes:
        paid.append(int(salt[4:6]))
        return hashpw(password, salt)

    monkeypatch.setattr(bcrypt, "hashpw", pay)
    return paid


def test_whoever_asks_it_takes_as_long(path: Path, clock: Clock, costs: list[int]) -> None:
    path.write_text("".join(f"{user}:{hashed('x', cost)}\n" for user, cost in (("four", 4), ("five", 5), ("seven", 7))))
    costs.clear()
    users = Users(str(path), read_users(str(path)), FreshnessClock(clock), VerifierThreads())
    for user in ("four", "five", "seven", "nobody"):
        for password in ("x", "y"):
            assert verified(users, user, password) is (user != "nobody" and password == "x")
            assert sum(2**cost for cost in costs) == 2**7, (user, costs)
            costs.clear()


def test_of_an_empty_file_as_well(tmp_path: Path, clock: Clock, costs: list[int]) -> None:
    (tmp_path / "nobody").touch()
    users = Users(str(tmp_path / "nobody"), read_users(str(tmp_path / "nobody")), FreshnessClock(clock), VerifierThreads())
    assert not verified(users, "ada", "x")
    assert costs == [4]


def test_the_dummy_is_no_ones_hash() -> None:
    for cost in (4, 5):
        assert not check_password(b"", module.DUMMY % cost, cost)


# What is remembered


def test_who_was_verified_lately_need_not_wait(users: Users, clock: Clock) -> None:
    assert not is_remembered(users, "ada")
    assert verified(users, "ada")
    for _ in range(5):  # each use counts
        clock.now += VERIFIED_TIME - 1
        assert is_remembered(users, "ada")
    assert users.verify(b"ada", b"x") is not True
    assert users.verify(b"bob", SECRETS["ada"].encode()) is not True
    clock.now += VERIFIED_TIME
    assert not is_remembered(users, "ada")


def test_a_wrong_password_is_not_remembered(users: Users, costs: list[int]) -> None:
    for number in range(1, 4):
        assert not verified(users, "ada", "x")
        assert len(costs) == number


def test_so_many_are_remembered(users: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_VERIFIED", 1)
    for user in ("ada", "bob"):
        assert verified(users, user)
        assert is_remembered(users, user)
    assert not is_remembered(users, "ada")
    assert len(users._verified) == 1
    assert MAX_VERIFIED <= 10_000


def test_the_least_recently_used_is_forgotten(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_VERIFIED", 2)
    path = write_users(tmp_path / "three", "ada", "bob", "eve")
    users = Users(path, read_users(path), FreshnessClock(clock), VerifierThreads())
    assert verified(users, "ada")
    assert verified(users, "bob")
    assert is_remembered(users, "ada")
    assert verified(users, "eve")
    assert is_remembered(users, "ada")
    assert not is_remembered(users, "bob")
    until(lambda: users._threads._threads == 0, "the threads have ended")


def test_no_password_is_kept(users: Users) -> None:
    assert verified(users, "bob")
    assert users._verified
    kept = repr(vars(users)).encode()
    assert b"hunter2" not in kept
    assert all(len(digest) == 32 for digest in users._verified)


# Changes of the file


def change(path: Path, content: str, clock: Clock) -> None:
    path.write_text(content)
    clock.epoch += 1
    clock.time = path.stat().st_ctime + 2 * SETTLE_TIME


def test_a_change_is_applied_at_once(users: Users, path: Path, clock: Clock) -> None:
    lines = path.read_text().splitlines()
    assert verified(users, "ada")
    assert verified(users, "bob")
    change(path, f"{lines[0]}\n", clock)
    assert is_remembered(users, "ada") is False, "everybody is forgotten"
    assert not verified(users, "bob")
    assert verified(users, "ada")
    change(path, f"ada:{hashed('new')}\n", clock)
    assert not verified(users, "ada")
    assert verified(users, "ada", "new")
    change(path, "", clock)
    assert not verified(users, "ada", "new")


def test_once_it_has_been_left_alone(users: Users, path: Path, clock: Clock) -> None:
    """It may still be being written; a clock that is behind is no reason to wait for ever."""
    assert verified(users, "ada")
    path.write_text("")
    for seconds, known in ((0.0, True), (SETTLE_TIME / 2, True), (-SETTLE_TIME / 2, True), (-3600.0, False)):
        clock.epoch += 1
        clock.time = path.stat().st_ctime + seconds
        assert is_remembered(users, "ada") is known


def test_one_look_in_an_epoch(users: Users, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    stats = []
    real = os.stat

    def count(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        stats.append(path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", count)
    for number in range(1, 4):
        clock.epoch += 1
        for _ in range(3):
            users.verify(b"ada", b"x")
        assert stats == [users._path] * number


def removed(path: Path, clock: Clock) -> None:
    path.unlink()
    clock.epoch += 1


def damaged(path: Path, clock: Clock) -> None:
    change(path, f"{path.read_text()}eve:x\n", clock)


@pytest.mark.parametrize(("spoil", "told"), [(removed, "no such file or directory"), (damaged, ":3: no bcrypt hash of 'eve'")])
def test_a_file_that_cannot_be_used_changes_nothing(
    users: Users, path: Path, clock: Clock, caplog: pytest.LogCaptureFixture, spoil: Callable[..., None], told: str
) -> None:
    content = path.read_text()
    spoil(path, clock)
    assert verified(users, "ada")
    clock.epoch += 1
    assert is_remembered(users, "ada")
    assert caplog.text.count(told) == 1
    assert caplog.text.count("is not applied: keeping the former users") == 1
    change(path, content.splitlines()[0] + "\n", clock)
    assert not verified(users, "bob")


def test_a_file_that_workers_may_not_read(
    users: Users, path: Path, clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "read_users", refuse)
    change(path, "", clock)
    for _ in range(3):
        clock.epoch += 1
        assert verified(users, "ada")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.text.count("workers may not read it: reload to apply it") == 1


def test_a_folder_that_workers_may_not_enter(
    users: Users, clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", refuse)
    clock.epoch += 1
    assert verified(users, "ada")
    assert not caplog.records


def test_a_password_that_is_changed_meanwhile(users: Users, path: Path, clock: Clock) -> None:
    """What was being verified is no longer true."""
    args = b"bob", SECRETS["bob"].encode()
    future = users.verify(*args)
    assert not isinstance(future, bool)
    wait([future], DEADLINE)
    assert future.result()
    change(path, f"bob:{hashed('new')}\n", clock)
    assert users.verify(*args, future) is False
    assert not is_remembered(users, "bob")


# The threads


class Slow:
    """Functions that end when they are told."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.running = 0
        self.most = 0
        self._lock = threading.Lock()

    def __call__(self) -> bool:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        assert self.go.wait(DEADLINE)
        with self._lock:
            self.running -= 1
        return True


@pytest.fixture
def slow() -> Iterator[Slow]:
    slow = Slow()
    yield slow
    slow.go.set()


def test_two_at_once_and_so_many_wait(slow: Slow) -> None:
    threads = VerifierThreads()
    futures = [threads.submit(b"%d" % number, slow) for number in range(THREADS + MAX_QUEUED)]
    with pytest.raises(Busy):
        threads.submit(b"one more", slow)
    until(lambda: slow.running == THREADS, "two run")
    with pytest.raises(Busy):
        threads.submit(b"one more", slow)
    assert threads.submit(b"0", slow) is futures[0], "the same is shared"
    slow.go.set()
    wait(futures, DEADLINE)
    assert all(future.result() for future in futures)
    assert slow.most == THREADS == 2
    assert MAX_QUEUED == 16
    until(lambda: threads._threads == 0, "the threads have ended")
    assert (threads._requests, threads._unfinished, list(threads._queue)) == (0, {}, [])
    assert threads.submit(b"again", lambda: False).result(DEADLINE) is False


def test_so_many_share_one_at_most(slow: Slow) -> None:
    threads = VerifierThreads()
    futures = {threads.submit(b"same", slow) for _ in range(MAX_REQUESTS)}
    assert len(futures) == 1
    for key in (b"same", b"other"):
        with pytest.raises(Busy):
            threads.submit(key, slow)


def test_a_failure_is_no_success(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> bool:
        raise ValueError("by a test")

    threads = VerifierThreads()
    assert threads.submit(b"x", fail).result(DEADLINE) is False
    assert "cannot verify a password" in caplog.text
    assert threads.submit(b"x", lambda: True).result(DEADLINE) is True


def test_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threads = VerifierThreads()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(Busy):
        threads.submit(b"x", lambda: True)
    monkeypatch.undo()
    assert threads.submit(b"x", lambda: True).result(DEADLINE) is True


# Guesses


def test_a_thousand_guesses_hold_nobody_up(
    clock: Clock, root: Path, path: Path, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While no verification ends, others are answered by the same calls as ever; most of those who guess, too, by 503."""
    site = router(clock, SiteConfig(str(root), auth=(AuthConfig("/sub/", str(path)),)))
    honest, known = Client(site, clock), Client(site, clock)
    plain, mine = request("/index.html"), request("/sub/data.json", f"Authorization: {basic('ada')}")
    honest.send(plain, plain)
    known.send(mine)
    monkeypatch.setattr(module, "check_password", lambda *_: slow() and False)
    guessers = []
    for number in range(1000):
        guesser = Client(site, clock)
        guesser.patient = False
        guessers.append(guesser.send(request("/sub/", f"Authorization: {basic('ada', str(number))}")))
        for client, data in ((honest, plain), (known, mine)):
            client.said = b""
            client.take(client.conversation.receive(data))
            assert client.said.startswith(b"HTTP/1.0 200 ")
    assert honest.conversation._counters.cache_hits >= 1000
    replies = [reply for guesser in guessers for reply in guesser.replies()]
    assert [reply.status for reply in replies] == [503] * (1000 - THREADS - MAX_QUEUED)
    assert {dict(reply.headers)["Retry-After"] for reply in replies} == {"1"}
    slow.go.set()
    for guesser in guessers:
        guesser.patient = True
        guesser.take(guesser.resume() if guesser.conversation._future else ())
    assert [guesser.replies()[-1].status for guesser in guessers].count(401) == THREADS + MAX_QUEUED
