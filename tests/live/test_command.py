"""The command line of the real process: what it listens on, what it refuses, how it ends."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from rawservers import __version__
from rawservers.daemon import control
from rawservers.settings import ListenConfig
from tests.harness.command import asked, run
from tests.harness.configuration import EXAMPLE
from tests.harness.needs import ROOT
from tests.harness.server import Server, exchange
from tests.harness.sockets import receive_all
from tests.harness.waiting import until


def test_nothing_to_serve() -> None:
    done = run("--http", "off", "--telnet", "off")
    assert (done.returncode, done.stderr) == (2, "rawservers: nothing to serve\n")
    assert asked("--http", "off", "--telnet", "off", http=[3]).listen == (ListenConfig("http", "fd:3"),)


def test_a_check_of_what_is_well(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "conf.toml").write_text('[http]\nroot = "www"')
    for arguments in ([], [folder], ["-c", tmp_path / "conf.toml"], ["-c", ROOT / "conf" / "rawservers.toml"]):
        done = run("--check", *arguments)
        assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


def test_the_configuration_that_is_printed(tmp_path: Path) -> None:
    """It is the file in conf/, and it is valid as it is, and with every default uncommented."""
    done = run("--print-config")
    assert (done.returncode, done.stdout, done.stderr) == (0, (ROOT / "conf" / "rawservers.toml").read_text(), "")
    for content in (done.stdout, EXAMPLE):
        (tmp_path / "conf.toml").write_text(content)
        done = run("--check", "-c", tmp_path / "conf.toml")
        assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


@pytest.mark.parametrize("check", [["--check"], []])
def test_a_wrong_file_is_refused_with_every_mistake(tmp_path: Path, check: list[str]) -> None:
    path = tmp_path / "conf.toml"
    path.write_text('workers = "two"\n[http]\nlsiting = true\nroot = "nope"\n')
    done = run("-c", path, "--http", "0", *check)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.splitlines() == [
        f'{path}:1: workers: expected an integer from 0 to 1024, or "auto", not "two"',
        f"{path}:3: http.lsiting: unknown key (did you mean http.listing?)",
        f"{path}:4: http.root: cannot serve {tmp_path}/nope: no such file or directory",
    ]


@pytest.mark.parametrize("check", [["--check"], []])
def test_no_file(tmp_path: Path, check: list[str]) -> None:
    done = run("-c", tmp_path / "nope", *check)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == f"{tmp_path / 'nope'}: cannot be read: no such file or directory\n"


@pytest.mark.parametrize("check", [["--check"], []])
def test_what_is_no_file(tmp_path: Path, check: list[str]) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, Path("/dev/zero"), Path("/dev/stdin")):
        done = run("-c", path, *check)
        assert (done.returncode, done.stdout, done.stderr) == (78, "", f"{path}: cannot be read: not a regular file\n")


def test_a_start_with_a_file(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "conf.toml"
    path.write_text(f"""
        [[listen]]
        service = "http"
        address = "0"
        [http]
        root = "{folder.name}"
        [log]
        access = "access.log"
    """)
    with Server("-c", path) as server:
        assert exchange(server, b"GET /f\r\n") == b"content of f\n"
        until(lambda: "GET /f" in (tmp_path / "access.log").read_text(), "the line")
        assert "telnet" not in server.stderr()
        assert f"(serving {folder})" in server.stderr()


def test_a_start_loads_nothing_that_it_does_not_need(folder: Path) -> None:
    program = (
        "import sys; from rawservers.cli import configure, parse; configure(parse(sys.argv[1:]), {}, b'# nothing');"
        "print(*{'tomllib', 'difflib', 'pwd', 'grp', 'rawservers.config.toml'} & sys.modules.keys())"
    )
    for arguments, some in ((["--http", "0", "--workers", "2", folder], False), (["-c", "/dev/null"], True)):
        done = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
        assert ("rawservers.config.toml" in done.stdout.split()) == some, done.stderr
        assert bool(done.stdout.split()) == some


def test_version_and_help() -> None:
    assert run("--version").stdout == f"rawservers {__version__}\n"
    said = run("--help").stdout
    for word in (
        "DIR",
        "FILE",
        "--http",
        "--port",
        "--bind",
        "--no-listing",
        "--telnet",
        "--access-log",
        "--workers",
        "--user",
        "--config",
        "--check",
        "--version",
        "unix:PATH",
        "off",
        "127.0.0.1:8080",
        "127.0.0.1:2323",
    ):
        assert word in said


def test_it_says_where_it_listens(folder: Path) -> None:
    with Server(folder, "--http", "0", "--http", "[::1]:0", "--telnet", ":0") as server:
        until(lambda: server.stderr().count(" listening on ") == 3, "three lines")
        first, second, third = [line for line in server.stderr().splitlines() if " listening on " in line]
    assert re.fullmatch(rf"http listening on http://127\.0\.0\.1:[1-9]\d*/ \(serving {re.escape(str(folder))}\)", first)
    assert re.fullmatch(rf"http listening on http://\[::1\]:[1-9]\d*/ \(serving {re.escape(str(folder))}\)", second)
    assert re.fullmatch(r"telnet listening on \[::\]:[1-9]\d*", third)


@pytest.mark.parametrize("telnet", ["off", "0", "[::1]:0"])
def test_the_welcome_page(telnet: str) -> None:
    """It names what runs, where it runs."""
    with Server("--http", "0", "--telnet", telnet) as server:
        host, port = server.address("http")
        answer = requests.get(server.url, timeout=10)
        assert "It works" in answer.text
        assert f"| nc {host} {port}<" in answer.text
        if telnet == "off":
            assert "telnet" not in answer.text
            assert "telnet listening" not in server.stderr()
        else:
            assert "<code>telnet {} {}</code>".format(*server.address("telnet")) in answer.text
        assert "2323" not in answer.text
        assert "It works" in requests.get(f"{server.url}/index.html", timeout=10).text
        assert int(requests.head(server.url, timeout=10).headers["Content-Length"]) > 10_000
        assert requests.get(f"{server.url}/other", timeout=10).status_code == 404
        assert "(serving the welcome page)" in server.stderr()


def test_the_welcome_page_on_unix_sockets_and_all_addresses(tmp_path: Path) -> None:
    path = tmp_path / "a b"
    with Server("--http", ":0", "--http", f"unix:{path}", "--telnet", ":0") as server:
        port = server.address("http")[1]
        text = requests.get(f"http://127.0.0.1:{port}/", timeout=10).text
        assert f"| nc 127.0.0.1 {port}<" in text
        assert f"| nc -U &#x27;{path}&#x27;<" in text
        assert f"<code>telnet 127.0.0.1 {server.address('telnet')[1]}</code>" in text
        assert f"| nc ::1 {port}<" in requests.get(f"http://[::1]:{port}/", timeout=10).text
        hostile = requests.get(f"http://127.0.0.1:{port}/", headers={"Host": "a$(id);b"}, timeout=10).text
        assert f"| nc &#x27;a$(id);b&#x27; {port}<" in hostile  # whoever copies the command runs nothing else


def test_one_file(folder: Path) -> None:
    """It is served with all that HTTP has for a file, and nothing beside it."""
    (folder / "g").write_bytes(b"secret")
    (folder / "sub").mkdir()
    (folder / "sub" / "f").write_bytes(b"secret")
    (folder / "f.gz").write_bytes(b"secret")
    (folder / "name.txt").write_bytes(b"0123456789")
    (folder / "link.html").symlink_to("name.txt")
    for name, file_type in (("name.txt", "text/plain"), ("link.html", "text/html")):
        with Server(folder / name, "-p", "0") as server:
            whole = requests.get(f"{server.url}/{name}", timeout=10)
            assert (whole.status_code, whole.content) == (200, b"0123456789")
            assert whole.headers["Content-Type"].startswith(file_type)
            assert requests.get(server.url, timeout=10).content == whole.content
            part = requests.get(server.url, headers={"Range": "bytes=2-4"}, timeout=10)
            assert (part.status_code, part.content) == (206, b"234")
            tag = {"If-None-Match": whole.headers["ETag"]}
            assert requests.get(server.url, headers=tag, timeout=10).status_code == 304
            head = requests.head(server.url, timeout=10)
            assert (head.status_code, head.headers["Content-Length"], head.content) == (200, "10", b"")
            for path in ("g", "f.gz", "sub", "sub/", "sub/f", f"sub/{name}", f"{name}/", ".", "%2e%2e/", "sub/%2e%2e/g", "f"):
                answer = requests.get(f"{server.url}/{path}", timeout=10)
                assert answer.status_code in {400, 404} or answer.content == whole.content
                assert b"secret" not in answer.content
            assert f"(serving {folder / name})" in server.stderr()
            assert "telnet" not in server.stderr()


def test_a_link_to_one_file_elsewhere(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "latest.iso").symlink_to(folder / "f")
    with Server(tmp_path / "latest.iso", "-p", "0") as server:
        for path in ("", "latest.iso", "f"):
            assert requests.get(f"{server.url}/{path}", timeout=10).content == b"content of f\n"
        (folder / "new").write_bytes(b"replaced")
        (folder / "new").rename(folder / "f")
        assert requests.get(server.url, timeout=10).content == b"replaced"


def test_a_directory_is_listed_unless_told_otherwise(folder: Path, tmp_path: Path) -> None:
    conf = tmp_path / "conf.toml"
    conf.write_text("# nothing")
    for options, status in (([], 200), (["--no-listing"], 403), (["-c", conf], 403), (["-c", conf, "--listing"], 200)):
        with Server(folder, "-p", "0", *options) as server:
            assert requests.get(server.url, timeout=10).status_code == status


def test_it_says_who_can_read(folder: Path) -> None:
    with Server(folder, "--bind", "0.0.0.0", "--http", "0", "--http", "127.0.0.1:0", "--telnet", "0") as server:
        until(lambda: server.stderr().count(" listening on ") == 3, "three lines")
        first, second, third = [line for line in server.stderr().splitlines() if " listening on " in line]
    where = r"0\.0\.0\.0:[1-9]\d*"
    assert re.fullmatch(
        rf"http listening on http://({where})/ \(serving {folder}; anyone who can reach \1 can read it\)", first
    )
    assert "anyone" not in second
    assert re.fullmatch(rf"telnet listening on {where}", third)


def test_two_free_ports(folder: Path, tmp_path: Path) -> None:
    conf = tmp_path / "conf.toml"
    conf.write_text("[[listen]]\nservice = 'http'\naddress = '0'\n" * 2 + f"[http]\nroot = '{folder}'\n")
    for arguments in ([folder, "--http", "0", "--http", "0"], ["-c", conf]):
        with Server(*arguments) as server:  # type: ignore[arg-type]
            until(lambda: len(ports(server)) == 2, "two lines")
            before = ports(server)
            assert len(set(before)) == 2
            control.reload(server.process.pid)
            until(lambda: len(ports(server)) == 4, "two more lines")
            assert ports(server)[2:] == before
            for port in before:
                assert requests.get(f"http://127.0.0.1:{port}/f", timeout=10).content == b"content of f\n"


def ports(server: Server) -> list[str]:
    return re.findall(r"listening on http://127\.0\.0\.1:(\d+)/", server.stderr())


def test_every_interface_is_ipv4_and_ipv6(folder: Path) -> None:
    with Server(folder, "--http", ":0", "--telnet", "off") as server:
        _, port = server.address("http")
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, port), timeout=10) as sock:
                sock.sendall(b"GET /f\r\n")
                assert receive_all(sock) == b"content of f\n"
        assert [line.split()[0] for line in server.await_log(2)] == ["127.0.0.1", "::1"]


def test_a_name_with_several_addresses_is_bound_to_all(folder: Path) -> None:
    with Server(folder, "--http", "localhost:0", "--telnet", "off") as server:
        _, port = server.address("http")
        for _, _, _, _, address in socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM):
            with socket.create_connection(address[:2], timeout=10) as sock:
                sock.sendall(b"GET /f\r\n")
                assert receive_all(sock) == b"content of f\n"


def test_a_port_in_use(server: Server) -> None:
    host, port = server.address("http")
    assert host == "127.0.0.1"
    for option, address in (("--http", f"{host}:{port}"), ("-p", f"{port}")):
        done = run("--telnet", "0", option, address)
        assert (done.returncode, done.stderr) == (2, f"rawservers: cannot listen on {host}:{port}: address already in use\n")


def test_no_such_folder(tmp_path: Path) -> None:
    done = run(tmp_path / "nope")
    assert (done.returncode, done.stderr) == (2, f"rawservers: cannot serve {tmp_path / 'nope'}: no such file or directory\n")
    assert run("--check", tmp_path / "nope").stderr == done.stderr
    done = run("/dev/null")
    assert (done.returncode, done.stderr) == (2, "rawservers: cannot serve /dev/null: not a directory\n")
    done = run("8080", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "rawservers: cannot serve 8080: no such file or directory (-p 8080 is the port)\n"


def test_a_check_tests_the_directories_of_unix_sockets(folder: Path) -> None:
    done = run("--check", "--http", f"unix:{folder}/s", "--telnet", f"unix:{folder}/nope/s")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"rawservers: cannot listen on unix:{folder}/nope/s: no such directory\n"
    assert run("--check", "--http", f"unix:{folder}/s", "--telnet", "unix:s").stdout == "ok\n"
    default = folder / "conf.toml"  # the unit of systemd makes its directory
    default.write_text("[[listen]]\nservice = 'status'\n")
    assert run("--check", "-c", default).stdout == "ok\n"


@pytest.mark.parametrize("log", ["nope/log", "."])
def test_a_check_tests_the_log_file_of_the_command_line(folder: Path, log: str) -> None:
    done = run("--check", folder, "--access-log", folder / log)
    assert (done.returncode, done.stdout) == (2, "")
    reason = {"nope/log": "no such directory", ".": "is a directory"}[log]
    assert done.stderr == f"rawservers: cannot write to {folder / log}: {reason}\n"


def test_a_check_makes_all_services(tmp_path: Path) -> None:
    done = run("--check", ".", before="os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "rawservers: cannot serve http on 127.0.0.1:8080: no such file or directory\n"


OUTPUTS = {
    "closed": ("os.close({0})", "bad file descriptor"),
    "full": ("os.dup2(os.open('/dev/full', os.O_WRONLY), {0})", "no space left on device"),
    "a pipe that nobody reads": ("r, w = os.pipe(); os.dup2(w, {0}); os.close(r)", "broken pipe"),
}


@pytest.mark.parametrize("output", OUTPUTS)
def test_output_that_cannot_be_written(output: str) -> None:
    before, reason = OUTPUTS[output]
    done = run("--check", before=before.format(1))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"rawservers: cannot write to standard output: {reason}\n"


@pytest.mark.parametrize("output", OUTPUTS)
def test_errors_that_cannot_be_written(output: str, tmp_path: Path) -> None:
    done = run("--check", tmp_path / "nope", before=OUTPUTS[output][0].format(2))
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


@pytest.mark.parametrize("limit", [7, 8, 9, 10])  # of open files: its first ones are its own
def test_too_few_descriptors_for_a_start(limit: int) -> None:
    program = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))"
    done = run("--http", "0", before=program)
    assert (done.returncode, done.stderr) == (2, "rawservers: cannot start: too many open files\n")


def test_no_such_log(folder: Path) -> None:
    done = run(folder, "--access-log", folder / "nope" / "log")
    assert done.returncode == 2
    assert done.stderr == f"rawservers: cannot open the access log {folder / 'nope' / 'log'}: no such file or directory\n"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--bind", "::1", "--http", "127.0.0.1:0"], "--bind would be ignored: no address is only a port"),
        (["--listing", __file__], f"--[no-]listing would be ignored: {__file__} is a file"),
        ([ROOT / ".gitignore"], f"cannot serve {ROOT / '.gitignore'}: its name begins with a dot"),
    ],
)
def test_what_would_be_ignored(arguments: list[str | Path], why: str) -> None:
    done = run("--check", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"rawservers: {why}\n")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (
            ["--http", "x y"],
            "argument --http: not an address: 'x y' (HOST:PORT, [IPV6]:PORT, PORT, :PORT, unix:PATH or off)",
        ),
        (["--http", "localhost"], "argument --http: not an address: 'localhost': add a port: localhost:8080"),
        (["--http", "0.0.0.0"], "argument --http: not an address: '0.0.0.0': add a port: 0.0.0.0:8080"),
        (["--http", "::1"], "argument --http: not an address: '::1': add a port: [::1]:8080"),
        (["--telnet", "[::1]"], "argument --telnet: not an address: '[::1]': add a port: [::1]:2323"),
        (["--lising"], "unrecognized arguments: --lising (did you mean --listing or --no-listing?)"),
        (["--tls"], "unrecognized arguments: --tls (did you mean --tls-self-signed?)"),
        (["--b", "::1"], "unrecognized arguments: --b (did you mean --bind?)"),
        (["--t"], "unrecognized arguments: --t (did you mean --telnet or --telnets?)"),
        (["--htpp=8080"], "unrecognized arguments: --htpp=8080 (did you mean --http or --https?)"),
        (["--wrokers", "2"], "unrecognized arguments: --wrokers (did you mean --workers?)"),
        (["-p", "x"], "argument -p/--port: not a port: 'x'"),
        (["-p", "65536"], "argument -p/--port: not a port: 65536 (the highest is 65535)"),
        (["--bind", "1.2.3.4:80"], "argument --bind: expected a host without a port, not '1.2.3.4:80'"),
        (["--bind", ""], "argument --bind: expected a host without a port, not ''"),
        (["--format", "json"], "--format would be ignored without --status"),
        (["--reload", "1", "--http", "9000"], "--http would be ignored: --reload asks a server that is running"),
        (["--reload", "1", "."], "DIR would be ignored: --reload asks a server that is running"),
        (["--reload", "1", "--check"], "--check would be ignored: --reload asks a server that is running"),
        (["--print-config", "--check"], "--check would be ignored: --print-config prints a file, and no more"),
        (["--print-config", "--status"], "--status would be ignored: --print-config prints a file, and no more"),
        (["--status", "1", "--workers", "0"], "--workers would be ignored: --status asks a server that is running"),
        (["-p", "1", "--http", "2"], "-p would be ignored: --http has the port"),
        (["--no-listing"], "--[no-]listing needs a DIR"),
        (["--status", "pid:1", "--watch"], "--watch needs the address of a status service, not pid:N"),
        (["--telnet", "1.2.3.4:99999"], "argument --telnet: not a port: 99999"),
        (["--nope"], "unrecognized arguments: --nope"),
        (["a", "b"], "unrecognized arguments: b"),
        (["--workers", "two"], "argument --workers: expected an integer from 0 to 1024, or \"auto\", not 'two'"),
        (["--workers", "1025"], "argument --workers: expected an integer from 0 to 1024, or \"auto\", not '1025'"),
        (["--workers", "٣"], "argument --workers: expected an integer"),
        (["--user", "no such"], "argument --user: unknown user 'no such'"),
        (["--user", "root:nope", "--check"], "argument --user: unknown group 'nope'"),
        (["-c"], "argument -c/--config: expected one argument"),
        (["-c", ""], "argument -c/--config: expected a path, not ''"),
        ([""], "argument DIR|FILE: expected a path, not ''"),
        (["--access-log", ""], "argument --access-log: expected a path, not ''"),
        (["--reload", "abc"], "argument --reload: expected a process ID, not 'abc'"),
        (["--reload=-1"], "argument --reload: expected a process ID, not '-1'"),
        (["--reload", "9" * 20], f"argument --reload: expected a process ID, not '{'9' * 20}'"),
    ],
)
def test_a_wrong_command_line(arguments: list[str], why: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    first, *rest = done.stderr.splitlines()
    assert first.startswith(f"rawservers: error: {why}")
    assert rest == ['Try "rawservers --help".']
