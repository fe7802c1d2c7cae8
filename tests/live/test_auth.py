"""Basic authentication in the real server: real clients, the log, the start, privileges and reloads."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Error, expect

import rawservers
from rawservers.daemon import control
from rawservers.daemon.startup import CannotStart
from rawservers.settings import AuthConfig, Config, SiteConfig
from tests.harness.auth import SECRETS, basic, hashed, write_users
from tests.harness.browser import chromium
from tests.harness.clients import private, run
from tests.harness.command import run as run_command
from tests.harness.needs import ROOT, need, need_root
from tests.harness.server import Server
from tests.harness.supervisor import configure, supervise
from tests.harness.tls import issue
from tests.harness.waiting import DEADLINE, until

PAGE = '<title>wait</title><script src="page.js"></script><img src="image.svg" onload="document.title += \' and an image\'">'
SCRIPT = """
document.title = "a script";
fetch(`${location.origin}/private/data.json`).then(answer => answer.text()).then(text => document.title += text);
"""
FILES = {"f": "open", "private/f": "secret", "private/index.html": PAGE, "private/page.js": SCRIPT, "private/data.json": " {}"}
FILES["private/image.svg"] = '<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>'


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to serve, and users that htpasswd has written."""
    place = tmp_path_factory.mktemp("auth")
    for name, content in FILES.items():
        (place / "www" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "www" / name).write_text(content)
    create = "-c"
    for user, password in SECRETS.items():
        run(need("htpasswd"), f"-B{create[1:]}i", "-C", "5", place / "users", user, stdin=password.encode())
        create = "-"
    return place


CONF = """
workers = 1
[[listen]]
service = "http"
address = "ADDRESS"
[log]
trace = TRACE
[http]
root = "www"
listing = true
auth = [{ path = "/private", users = "users", realm = "Members only" }]
"""


def configured(place: Path, address: str = "127.0.0.1:0", trace: str = "false") -> Path:
    path = place / "conf.toml"
    path.write_text(CONF.replace("ADDRESS", address).replace("TRACE", trace))
    return path


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Server]:
    with Server("-c", configured(place)) as server:
        yield server


# Clients


def curl(*arguments: str | Path) -> tuple[int, str]:
    """The status and the body."""
    body, _, status = run(need("curl"), "-s", "-q", "-w", "\n%{http_code}", *arguments).decode().rpartition("\n")
    return int(status), body


def test_curl(server: Server, tmp_path: Path) -> None:
    url = f"{server.url}/private/f"
    assert curl(url)[0] == curl("-u", "bob:x", url)[0] == curl("-u", "mallory:x", url)[0] == 401
    assert curl("-u", "bob:hunter2", url) == (200, "secret")
    assert curl("--anyauth", "-u", "bob:hunter2", url) == (200, "secret")
    assert curl("-u", f"ada:{SECRETS['ada']}", url) == (200, "secret")
    assert curl("-u", "eve:", url) == (200, "secret")
    assert curl(f"http://max:{SECRETS['max']}@{url.removeprefix('http://')}") == (200, "secret")
    assert curl("-u", f"max:{SECRETS['max']}x", url)[0] == 401
    assert curl("-H", "Authorization: Basic ???", url)[0] == 401
    assert curl("-u", "bob:hunter2", "-L", f"{server.url}/private")[1] == PAGE
    large = tmp_path / "large"
    large.write_bytes(bytes(1 << 20))
    for credentials, status in (("bob:x", 401), ("bob:hunter2", 405)):
        assert curl("-u", credentials, "-T", large, url)[0] == status
        assert curl("--anyauth", "-u", credentials, "-T", large, url)[0] == status


def test_wget(server: Server, tmp_path: Path) -> None:
    """It sends its password only once it was asked for it."""
    command = need("wget"), "-q", "-O", "-", "--user=bob"
    environment = private(tmp_path / "home")
    assert run(*command, "--password=hunter2", f"{server.url}/private/f", env=environment) == b"secret"
    run(*command, "--password=x", f"{server.url}/private/f", env=environment, status=6)


def test_requests(server: Server) -> None:
    with requests.Session() as session:

        def get(path: str, **options: object) -> requests.Response:
            return session.get(f"{server.url}{path}", timeout=DEADLINE, **options)  # type: ignore[arg-type]

        asked = get("/private/f")
        assert (asked.status_code, asked.headers["WWW-Authenticate"]) == (401, 'Basic realm="Members only", charset="UTF-8"')
        for value in ("Basic", "Basic x", basic("bob", "x"), basic("bob") + ", " + basic("bob"), "Bearer x"):
            assert get("/private/f", headers={"Authorization": value}).status_code == 401
        session.auth = ("bob", "hunter2")
        for _ in range(3):
            answer = get("/private/f")
            assert (answer.status_code, answer.text, answer.headers["Cache-Control"]) == (200, "secret", "private")
        again = get("/private/f", headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status_code, again.headers["Cache-Control"]) == (304, "private")
        assert get("/private").history[0].status_code == 301
        assert get("/f").text == "open"
        assert session.head(f"{server.url}/private/f", timeout=DEADLINE, auth=("bob", "x")).status_code == 401


@pytest.mark.slow
def test_a_browser(server: Server) -> None:
    """With what belongs to the page, all of it at once: told by the URL, asked for it, and without a password."""
    address = server.url.removeprefix("http://")
    with chromium() as browser:
        for user, url in ((None, f"http://bob:hunter2@{address}/private/"), ("bob", f"{server.url}/private")):
            credentials = {"username": user, "password": SECRETS[user]} if user else None
            page = browser.new_context(http_credentials=credentials).new_page()
            answer = page.goto(url)
            assert answer
            assert answer.status == 200
            for part in ("a script", "{}", "an image"):
                expect(page).to_have_title(re.compile(part), timeout=1000 * DEADLINE)
        for url in (f"{server.url}/private/f", f"http://bob:x@{address}/private/f"):
            with pytest.raises(Error, match="ERR_INVALID_AUTH_CREDENTIALS"):
                browser.new_context().new_page().goto(url)


# Logs


def test_the_log_has_verified_users_only(place: Path) -> None:
    with Server("-c", configured(place)) as server:
        for user, password in (("bob", "hunter2"), ("bob", "x"), ("mallory", "hunter2"), ("", "")):
            requests.get(f"{server.url}/private/f", auth=(user, password), timeout=DEADLINE)
        requests.get(f"{server.url}/f", auth=("bob", "hunter2"), timeout=DEADLINE)
        lines = server.await_log(5)
    assert [line.split()[2] for line in lines] == ["bob", "-", "-", "-", "-"]
    assert [line.split('"')[2].split()[0] for line in lines] == ["200", "401", "401", "401", "200"]


def test_no_log_has_a_password(place: Path) -> None:
    """Nor does the trace."""
    with Server("-c", configured(place, trace="true")) as server:
        for user, password in (("bob", "hunter2"), ("bob", "hunter3"), ("ada", SECRETS["ada"])):
            for path in ("/private/f", "/private/", "/f", "/fn"):
                requests.get(f"{server.url}{path}", auth=(user, password.encode()), timeout=DEADLINE)
        server.await_log(12)
        server.signal()
        assert server.wait() == 0
        told = server.stderr() + "\n".join(server.log())
    assert "GET /private/f" in told
    secrets = ["hunter", "hler:1", *(line.split(":")[1] for line in (place / "users").read_text().splitlines())]
    secrets += [basic("bob").split()[1], basic("ada").split()[1], b64encode(b"bob:hunter3").decode()]
    assert [secret for secret in secrets if secret in told] == []


# Start


def test_mistakes_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "www").mkdir()
    conf = configured(tmp_path)
    users = tmp_path / "users"
    for content, expected in (
        (None, f"{users}: cannot be read: no such file or directory\n"),
        ("bob:{SHA}x\n\nada:$apr1$x\n", f"{users}:1: the hash of 'bob' is SHA-1 ({{SHA}}); only bcrypt is accepted"),
    ):
        if content is not None:
            users.write_text(content)
        for arguments in ((), ("--check",)):
            done = run_command("-c", conf, *arguments)
            assert done.returncode == os.EX_CONFIG
            assert done.stderr.startswith(expected)
    assert f"{users}:3: the hash of 'ada' is MD5 ($apr1$)" in done.stderr
    write_users(users, "bob")
    assert run_command("-c", conf, "--check").stdout == "ok\n"
    command = [sys.executable, "-S", "-m", "rawservers", "-c", conf, "--check"]  # with the standard library alone
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE)
    assert (done.returncode, done.stdout) == (os.EX_CONFIG, "")
    assert done.stderr.startswith(f"{users}: authentication needs the Python package bcrypt: pip install 'rawservers[auth]'")


@pytest.mark.parametrize(
    ("address", "tls", "is_exposed"),
    [("127.0.0.1:0", False, False), ("[::1]:0", False, False), ("0.0.0.0:0", False, True), ("0.0.0.0:0", True, False)],
)
def test_a_warning_where_others_could_read_passwords(place: Path, address: str, tls: bool, is_exposed: bool) -> None:
    conf = configured(place, address)
    if tls:
        table = f"tls = {issue(place).toml}"
        conf.write_text(conf.read_text().replace("[log]", f"{table}\n[log]"))
    with Server("-c", conf) as server:
        until(lambda: " listening on " in server.stderr(), "the addresses")
        server.signal()
        assert server.wait() == 0
        assert ("are sent unencrypted: there is no TLS" in server.stderr()) is is_exposed


def test_a_server_in_a_program(place: Path, tmp_path: Path) -> None:
    site = SiteConfig(str(place / "www"), auth=(AuthConfig("/private", str(place / "users")),))
    with rawservers.Server(config=Config(sites=(site,), access_log="off")) as server:
        url = server.http_url("/private/f")
        answers = [requests.get(url, auth=auth, timeout=DEADLINE).status_code for auth in (None, ("bob", "hunter2"))]
    assert answers == [401, 200]
    site = SiteConfig(str(place / "www"), auth=(AuthConfig("/private", str(tmp_path / "none")),))
    with pytest.raises(CannotStart, match=f"^cannot start: {tmp_path}/none: cannot be read: no such file or directory$"):
        rawservers.Server(config=Config(sites=(site,))).start()


# Changes of the file


def statuses(server: Server, *users: str) -> list[int]:
    return [
        requests.get(f"{server.url}/f", auth=(user, SECRETS[user].encode()), timeout=DEADLINE).status_code for user in users
    ]


def test_a_change_needs_no_reload(conf: Path, folder: Path, tmp_path: Path) -> None:
    users = Path(write_users(tmp_path / "users", "bob"))
    configure(conf, folder)
    conf.write_text(conf.read_text().replace("[limits]", f'auth = [{{ path = "/", users = "{users}" }}]\n[limits]'))
    with supervise("-c", conf) as server:
        assert statuses(server, "bob", "eve") == [200, 401]
        run(need("htpasswd"), "-Bbi", "-C", "4", users, "eve", stdin=b"")
        until(lambda: [statuses(server, "eve") for _ in range(8)] == [[200]] * 8, "eve is known to all workers")
        run(need("htpasswd"), "-D", users, "bob")
        until(lambda: [statuses(server, "bob") for _ in range(8)] == [[401]] * 8, "bob is known to no worker")


def test_a_reload(conf: Path, public: Path) -> None:
    """A file that is root's alone is read as root, at a reload again; with a mistake in it the reload is not taken."""
    need_root("become somebody else")
    configure(conf, public)
    users = Path(write_users(public.parent / "users", "bob"))
    users.chmod(0o600)
    conf.write_text(conf.read_text().replace("[limits]", f'auth = [{{ path = "/", users = "{users}" }}]\n[limits]'))
    with supervise("-c", conf, "--user", "nobody") as server:
        assert statuses(server, "bob", "eve") == [200, 401]
        users.write_text(f"{users.read_text()}eve:{{SHA}}x\n")
        with pytest.raises(CannotStart, match="rejected"):
            control.reload(server.process.pid)
        assert f"{users}:2: the hash of 'eve' is SHA-1 ({{SHA}})" in server.stderr()
        assert statuses(server, "bob", "eve") == [200, 401]
        users.write_text(f"eve:{hashed('')}\n")

        def is_told() -> bool:
            assert statuses(server, "bob", "eve") == [200, 401]
            return "workers may not read it: reload" in server.stderr()

        until(is_told, "the warning")
        control.reload(server.process.pid)
        assert statuses(server, "bob", "eve") == [401, 200]
        for pid in server.workers():
            os.kill(pid, signal.SIGKILL)
        until(lambda: len(server.workers()) == 2, "other workers")
        assert statuses(server, "bob", "eve") == [401, 200]
