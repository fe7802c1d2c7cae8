"""The benchmark's own arithmetic: what it reads out of its clients, what it makes of it, and that it hides nothing."""

from __future__ import annotations

import collections
import contextlib
import json
import math
import multiprocessing
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import against, capacity, faults, growth, honest, hostile, latency, load, process, pythons, report, works
from bench.__main__ import kept_runs, parse, replaced
from bench.compare import Row, compare, prepare
from bench.footprint import HELD, Footprint
from bench.fresh import Freshness
from bench.install import ROOT, compile_c
from bench.report import Results
from bench.servers import CACHED, NGINX, OURS, STANDARD, Peer, Place, Running, free_port, running, strange
from bench.works import WORKS, Bar
from tests.harness.needs import need
from tests.harness.waiting import until

WRK = """Running 1s test @ http://127.0.0.1:8080/1k
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   657.30us   75.92us   2.72ms   93.36%
    Req/Sec    96.86k     2.39k  100.80k    70.00%
  106010 requests in 1.10s, 1.25GB read
Requests/sec:  96380.12
Transfer/sec:      1.14GB
"""
TROUBLE = WRK.replace(
    "Requests/sec", "  Socket errors: connect 1, read 20, write 3, timeout 4\n  Non-2xx or 3xx responses: 500\nRequests/sec"
)


def rows(**rates: list[float]) -> dict[str, Row]:
    names = {"ours": OURS, "nginx": NGINX, "cached": CACHED, "standard": STANDARD}
    return {
        names[name]: Row(rates=found, cpu=[1 / rate for rate in found], busy=[0.5] * len(found))
        for name, found in rates.items()
    }


# What the clients say


def test_wrk_is_read() -> None:
    found = load.read_wrk(WRK)
    assert found.rates == {"requests/s": 96380.12, "bytes/s": 1.14 * (1 << 30)}
    assert (found.answered, found.failed) == (106010, 0)


def test_what_failed_is_counted() -> None:
    assert load.read_wrk(TROUBLE).failed == 528


@pytest.mark.parametrize(("unit", "size"), [("", 1), ("K", 1 << 10), ("M", 1 << 20)])
def test_units_of_wrk(unit: str, size: int) -> None:
    assert load.read_wrk(WRK.replace("1.14GB", f"20.50{unit}B")).rates["bytes/s"] == 20.5 * size


@pytest.mark.parametrize(
    "said", ["", "unable to connect to 127.0.0.1:1 Connection refused\n", WRK.partition("Requests/sec")[0]]
)
def test_what_wrk_did_not_do_is_no_figure(said: str) -> None:
    with pytest.raises(load.Failed, match="wrk said"):
        load.read_wrk(said)


def test_the_echo_client_is_read() -> None:
    assert load.read_lines("lines 3000 seconds 1.500000\n") == load.Load({"lines/s": 2000.0}, 3000, 0)
    with pytest.raises(load.Failed):
        load.read_lines("")


@pytest.mark.parametrize("in_flight", ["1", "16"])
def test_the_echo_client_checks_what_comes_back(tmp_path: Path, in_flight: str) -> None:
    need("gcc")
    client = compile_c(ROOT / "bench/peers/echo_load.c", tmp_path / "client")
    source = (ROOT / "bench/peers/line_echo.c").read_text()
    (tmp_path / "wrong.c").write_text(
        source.replace("if (whole && send", "if (whole) bytes[whole - 3] ^= 1;\n    if (whole && send")
    )
    assert (tmp_path / "wrong.c").read_text() != source
    for source_file, status in ((ROOT / "bench/peers/line_echo.c", 0), (tmp_path / "wrong.c", 1)):
        program = compile_c(source_file, tmp_path / "server")
        with running("echo", Peer(lambda place, program=program: [program, place.port]), tmp_path) as echo:  # type: ignore[misc]
            command = [client, str(echo.place.port), "8", in_flight, "0.02"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        assert done.returncode == status, done.stderr
        assert load.read_lines(done.stdout).answered > 0 if status == 0 else "not what was sent" in done.stderr


# What is made of it


def test_ratios_are_of_medians() -> None:
    found = rows(ours=[100.0, 1000.0, 120.0], nginx=[60.0, 50.0, 1.0])
    assert report.median(found[OURS]) == 120
    assert report.ratio(found, OURS, NGINX) == 120 / 50
    assert report.ratio(found, OURS, NGINX, "cpu") == pytest.approx(50 / 120)
    assert report.ratio(found, OURS, CACHED) is None
    assert report.ratio(found | {CACHED: Row(note="nginx is not installed")}, OURS, CACHED) is None


@pytest.mark.parametrize(
    ("bar", "ratio", "reached"),
    [
        (Bar(NGINX, 1.25), 1.25, True),
        (Bar(NGINX, 1.25), 1.2499, False),
        (Bar(NGINX, 0.9, "cpu"), 0.9, True),
        (Bar(NGINX, 0.9, "cpu"), 0.9001, False),
    ],
)
def test_bars(bar: Bar, ratio: float, reached: bool) -> None:
    assert bar.reached(ratio) is reached


def test_no_bar_is_hidden() -> None:
    found = Results({}, {"kept": rows(ours=[110.0], nginx=[80.0], cached=[80.0])}, Footprint(), Freshness())
    said = {(verdict.against, verdict.bar): verdict.said for verdict in report.verdicts(found)}
    assert said[NGINX, "at least 1.6"] == "**no**"
    assert said[CACHED, "at least 1.3"] == "yes"
    assert said[CACHED, "at most 0.75"] == "yes"
    assert said[STANDARD, "at least 50"] == "not measured"
    assert len(said) == len(report.verdicts(found)) == len(WORKS["kept"].bars) + 6
    assert not any(verdict.reached for verdict in report.verdicts(found) if verdict.figure is None)


def test_the_bars_of_start_memory_and_freshness() -> None:
    good = Footprint([0.13], [0.1], 15 << 20, 30 << 20, 5 << 20, 9 << 20, 1024.0, HELD, 18432.0)
    bad = Footprint([0.14], [0.1], 16 << 20, 30 << 20, 5 << 20, 9 << 20, 2049.0, HELD - 1, 18433.0)
    assert [verdict.said for verdict in report.judge_footprint(good)] == ["yes"] * 5
    assert [verdict.said for verdict in report.judge_footprint(bad)] == ["**no**"] * 5
    assert report.judge_freshness(Freshness({"w": 10}, {"w": 0}, {"w": 0})).said == "yes"
    assert report.judge_freshness(Freshness({"w": 10}, {"w": 1}, {"w": 0})).said == "**no**"
    assert report.judge_freshness(Freshness({"w": 10}, {"w": 0}, {"w": 0}, "it broke")).said == "not measured"
    assert report.judge_freshness(Freshness({"w": 10}, {"w": 1}, {"w": 0}, "it broke")).said == "**no**"


@pytest.mark.parametrize("trouble", [{"failed": 1}, {"note": "it broke"}])
def test_who_fails_reaches_no_bar(trouble: dict[str, Any]) -> None:
    bar = Bar(NGINX, 1.0)
    found = {OURS: Row([2.0]), NGINX: Row([1.0], **trouble)}
    assert report.judge(WORKS["100k"], found, bar).said == "yes"
    found[OURS] = Row([2.0], **trouble)
    assert report.judge(WORKS["100k"], found, bar) == (WORKS["100k"].title, NGINX, "2.00, with failures", "at least 1", False)


def test_the_document_says_it_all() -> None:
    found = Results({"machine": "a loom"}, {"kept": rows(ours=[100.0, 150.0, 200.0], nginx=[50.0])}, Footprint(), Freshness())
    found.works["kept"][STANDARD] = Row(note="it did not start")
    found.works["100m"] = rows(ours=[2.5e9])
    text = report.document(found)
    assert "- machine: a loom" in text
    assert [cell.strip() for cell in lines_of(text, f"| {OURS} ")[0].split("|")][2:6] == ["150", "100", "200", ""]
    assert "3.00 of it" in lines_of(text, f"| {NGINX} ")[0]
    assert lines_of(text, f"| {STANDARD}: it did not start ")
    assert lines_of(text, f"| {OURS} ")[1].split("|")[2].strip() == "2.50"
    assert "not measured" in text


def lines_of(text: str, begin: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(begin)]


def test_tables_are_aligned() -> None:
    said = report.table(("", "n"), [("a long name", "1"), ("b", "10,000")])
    assert said.splitlines()[1:] == ["| ----------- | -----: |", "| a long name |      1 |", "| b           | 10,000 |"]


def test_results_are_kept_whole() -> None:
    found = Results({"date": "today"}, {"kept": rows(ours=[1.5], nginx=[2.0])}, Footprint([0.1]), Freshness({"w": 1}))
    assert Results.from_data(json.loads(json.dumps(found.to_data()))) == found
    assert Results.from_data(Results().to_data()) == Results()


# What is asked for


def test_files_are_chosen_by_a_zipf_law() -> None:
    chosen = works.choose()
    counts = collections.Counter(chosen)
    assert chosen == works.choose()
    assert len(chosen) == works.CHOICES
    assert 8 < counts["/set/0000"] / counts["/set/0009"] < 12
    assert len(counts) > works.FILES / 2


def test_a_tree_is_weighed_whole() -> None:
    empty = process.memory(os.getpid())
    assert empty.rss >= empty.pss > 1 << 20
    with subprocess.Popen(["sh", "-c", "sleep 20 & wait"]) as shell:
        try:
            until(lambda: len(tuple(process.tree(shell.pid))) == 2, "the shell has a child")
            assert process.memory(shell.pid).rss > process.memory(tuple(process.tree(shell.pid))[1]).rss
            assert process.cpu_seconds(shell.pid) >= 0
        finally:
            for pid in reversed(tuple(process.tree(shell.pid))):
                os.kill(pid, 9)


# One checkout against another


def test_the_interval_of_known_figures() -> None:
    assert against.interval([n / 10 for n in range(20, 0, -1)]) == (1.05, 0.6, 1.5)  # the sixth from either end
    assert against.interval([3, 1, 2, 6, 5, 4]) == (3.5, 1, 6)
    assert against.interval([1] * 19 + [1000]) == (1, 1, 1)
    with pytest.raises(ValueError, match="too few"):
        against.interval([1.0] * (against.MIN_ROUNDS - 1))


def test_the_interval_is_not_too_narrow() -> None:
    """As often as it is said to, it has the true median in it; and it is no wider than it must be for that."""
    chance = random.Random(1)
    for count in (6, 20, 33):
        found = [against.interval([chance.expovariate(math.log(2)) for _ in range(count)]) for _ in range(2000)]
        assert 0.94 < sum(each.low <= 1 <= each.high for each in found) / len(found) < 0.985


def paired(ours: list[float], other: list[float]) -> dict[str, Row]:
    return {name: Row(rates=rates, cpu=[1 / rate for rate in rates]) for name, rates in ((OURS, ours), (against.OTHER, other))}


@pytest.mark.parametrize(
    ("factor", "verdict", "passed"),
    [(0.97, "slower", False), (1.03, "faster", True), (0.995, "no difference", True), (1.005, "no difference", True)],
)
def test_a_drift_of_the_machine_hides_no_difference(factor: float, verdict: str, passed: bool) -> None:
    drift = [100.0 * 1.2**number for number in range(20)]
    noise = [1.01, 0.99] * 10
    rows = paired([rate * factor * by for rate, by in zip(drift, noise, strict=True)], drift)
    line, done = against.judge("kept", rows)
    assert len(line) == len(against.HEADER)
    assert (line[0], line[-1], done) == ("kept", verdict, passed)
    assert line[1:5:2] == (f"{factor:.3f}", f"{statistics.mean([1 / factor / 0.99, 1 / factor / 1.01]):.3f}")


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ({"note": "it broke"}, "it broke"),
        ({"failed": 3}, "3 requests failed"),
        ({"rates": [0.0] * 20}, "a round without an answer"),
    ],
)
def test_a_server_that_fails_is_not_compared(trouble: dict[str, Any], said: str) -> None:
    for name in (OURS, against.OTHER):
        rows = paired([100.0] * 20, [100.0] * 20)
        rows[name] = replace(rows[name], **trouble)
        line, passed = against.judge("kept", rows)
        assert (len(line), line[-1], passed) == (len(against.HEADER), f"{name}: {said}", False)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--against", "nowhere"], "nowhere is no checkout of this project"),
        (["--against", str(ROOT), "memory"], "no such work: memory"),
        (["--against", str(ROOT), "--rounds", "5"], "6 rounds at least"),
    ],
)
def test_a_comparison_that_cannot_be_is_refused(arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)
    assert error in capsys.readouterr().err


def test_a_comparison_has_defaults_of_its_own() -> None:
    said = parse(["--against", str(ROOT), "kept", "echo"])
    assert (said.against, said.works, said.rounds, said.seconds) == (ROOT, ["kept", "echo"], against.ROUNDS, against.SECONDS)
    assert (parse([]).rounds, parse([]).seconds) == (5, 2)
    assert set(against.DEFAULT) <= set(WORKS)


def test_two_servers_take_turns_there_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []

    @contextlib.contextmanager
    def contestant(name: str, *_: object) -> Iterator[Callable[[int], None]]:
        yield lambda seconds: turns.append(name)

    monkeypatch.setattr("bench.compare.contestant", contestant)
    for work in against.DEFAULT:
        compare(against.between(WORKS[work], ROOT), tmp_path, 4, 1)
    assert turns == [OURS, against.OTHER, against.OTHER, OURS] * 2 * len(against.DEFAULT)


def test_a_work_that_none_can_do_has_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def contestant(*_: object) -> Iterator[Callable[[int], None]]:
        raise load.Failed("it broke")
        yield

    monkeypatch.setattr("bench.compare.contestant", contestant)
    assert compare(WORKS["idle"], tmp_path, 2, 1) == dict.fromkeys(WORKS["idle"].peers, Row(note="it broke"))


def test_each_checkout_is_run_by_its_own_code(tmp_path: Path) -> None:
    """The other one ends at once, with a word of its own."""
    need("gcc")
    (tmp_path / "www").mkdir()
    prepare(tmp_path)
    other = tmp_path / "tree" / "rawservers"
    other.mkdir(parents=True)
    (other / "__init__.py").touch()
    (other / "__main__.py").write_text("raise SystemExit('another checkout')")
    rows = compare(against.between(WORKS["echo"], tmp_path / "tree"), tmp_path, 1, 1)
    assert rows[against.OTHER] == Row(note="it did not start: another checkout")
    assert len(rows[OURS].rates) == 1
    assert rows[OURS].note == ""


# Honest clients beside hostile ones

METRICS = """# HELP rawservers_wake_cpu_seconds Of a wake.
# TYPE rawservers_wake_cpu_seconds histogram
rawservers_wake_cpu_seconds_bucket{le="0.01"} 90
rawservers_wake_cpu_seconds_bucket{le="0.02"} 97
rawservers_wake_cpu_seconds_bucket{le="+Inf"} 100
rawservers_wake_cpu_seconds_sum 0.5
rawservers_wake_cpu_seconds_count 100.0
rawservers_wake_cpu_max_seconds 0.031
rawservers_wake_duration_seconds_bucket{service="a",le="0.020"} 40
rawservers_wake_duration_seconds_bucket{service="b",le="0.020"} 55
rawservers_wake_duration_seconds_count{service="a"} 40
rawservers_wake_duration_seconds_count{service="b"} 60
"""
MET = honest.Record([0.001] * 100)
STOOD = faults.Outcome({name: faults.Honest.of(MET) for name in honest.CLIENTS}, wakes=faults.Wakes(9, 0, 0.01, 0, 0.01))


def with_client(**figures: Any) -> faults.Outcome:
    return replace(STOOD, clients=STOOD.clients | {"kept GET": STOOD.clients["kept GET"]._replace(**figures)})


def test_percentiles() -> None:
    assert honest.percentile([], 99) is None
    assert [honest.percentile([3.0, 1.0, 2.0], percent) for percent in (0, 33, 50, 99, 100)] == [1, 1, 2, 3, 3]
    assert [honest.percentile(range(1, 201), percent) for percent in (50, 99, 100)] == [100, 198, 200]


def test_failures_are_no_short_waits() -> None:
    found = faults.Honest.of(honest.Record([0.001] * 98, collections.Counter({"reset": 2}), 1))
    assert found == (98, 2, 1, 0.001, math.inf, math.inf)
    assert faults.Honest.of(honest.Record()) == (0, 0, 0, None, None, None)


def test_the_status_is_read() -> None:
    assert faults.wakes(METRICS) == faults.Wakes(100, 3, 0.031, 5, None)
    assert faults.wakes("") == faults.wakes(METRICS.replace("wake_", "walk_")) == faults.Wakes()


def test_a_server_that_stands_an_attack_reaches_every_bar() -> None:
    assert all(verdict.reached for verdict in faults.judge("ranges", STOOD))
    assert len(list(faults.judge("ranges", STOOD))) == 2 * len(honest.CLIENTS) + 4


@pytest.mark.parametrize(
    ("outcome", "missed"),
    [
        (with_client(failed=1), ["failures"]),
        (with_client(p99=0.25), ["p99"]),
        (with_client(p99=math.inf), ["p99"]),
        (with_client(p99=None), ["p99"]),
        (replace(STOOD, wakes=faults.Wakes(9, 1)), ["wakes over 20 ms of CPU"]),
        (replace(STOOD, wakes=faults.Wakes()), ["wakes over 20 ms of CPU"]),
        (replace(STOOD, holdings=faults.Holdings(sockets=(3, 9, 4))), ["sockets left"]),
        (replace(STOOD, ended=1), ["workers ended"]),
        (replace(STOOD, strange=["Traceback"]), ["strange lines on stderr"]),
    ],
)
def test_each_bar_can_be_missed(outcome: faults.Outcome, missed: list[str]) -> None:
    verdicts = [verdict for verdict in faults.judge("ranges", outcome) if not verdict.reached]
    assert [verdict.what for verdict in verdicts] == [f"ranges: {what}" for what in missed]
    assert f"| ranges: {missed[0]} " in faults.document({"ranges": outcome}, verdicts, 1)
    both = list(faults.judge("ranges", STOOD.worst(outcome)))
    assert both == list(faults.judge("ranges", outcome.worst(STOOD)))
    assert [verdict.what for verdict in both if not verdict.reached] == [f"ranges: {what}" for what in missed]


def test_what_could_not_be_measured_reaches_no_bar() -> None:
    broken = faults.Outcome(note="it did not start")
    for outcome in (broken, STOOD.worst(broken), broken.worst(STOOD)):
        assert [verdict.said for verdict in faults.judge("ranges", outcome)] == ["not measured"] * 12
        assert "- ranges: it did not start" in faults.document({"ranges": outcome}, [], 1)


def test_lines_that_a_server_should_not_have_said() -> None:
    usual = "workers run as root; set ...\nhttp listening on http://h/\nlimits.connections reduced from 9 to 5: ...\n\n"
    assert strange(usual) == []
    assert strange(usual + "unexpected error in x\n  Traceback\n") == ["unexpected error in x", "  Traceback"]


def test_hostile_words() -> None:
    for name, kind in hostile.kinds().items():
        said = b"".join(piece for piece, _ in zip(kind.words(1), range(2), strict=False))
        assert bool(said) == (name != "telnet-silent" and not kind.renegotiates), name
    for request in next(hostile.kinds()["accept"].words(0)).split(b"\r\n\r\n")[:-1]:
        assert 30000 < len(request) + 4 < 32768
    misses = b"".join(piece for piece, _ in zip(hostile.misses(0), range(3), strict=False)).split(b"\r\n\r\n")[:-1]
    assert len(set(misses)) == len(misses) == 3000
    assert len(hostile.together(list(hostile.kinds()), 100)) == 100


def test_honest_clients_tell_what_failed() -> None:
    for client in honest.CLIENTS.values():
        record = client(free_port()).run(2 * honest.EVERY)
        assert (record.seconds, record.failed) == ([], {"refused": 2})


def test_hostile_clients_attack_until_they_are_told() -> None:
    table = hostile.kinds()
    with socket.create_server(("127.0.0.1", 0), backlog=512) as server:
        port = server.getsockname()[1]
        ours, theirs = multiprocessing.Pipe()
        ours.send("end")
        crowd = [table["pipelined-get"], table["slow-readers"], table["telnet-silent"], table["connect-storm"]]
        hostile.Crowd(crowd, {"http": port, "telnet": port}).run(theirs, 3600)
        assert theirs.recv() == "end"
        done = hostile.Crowd(crowd, {"http": port, "telnet": port}).run(theirs, 0.2)
        assert done.connected >= 4
        assert done.sent > hostile.PIECE
        assert done.received == 0
        ours.close()
        theirs.close()


# Latency by a schedule

PACED = "due 1000 answered 999 p50 0.000100 p99 0.002500 p999 inf max inf late 0.000020\n"


def test_the_open_loop_client_is_read() -> None:
    assert load.read_paced(PACED) == (1000, 999, 0.0001, 0.0025, math.inf, math.inf, 0.00002, 0.0)
    for said in ("", PACED + PACED, PACED.partition(" late")[0]):
        with pytest.raises(load.Failed, match="paced_load said"):
            load.read_paced(said)


@pytest.fixture(scope="module")
def paced_load(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("gcc")
    return compile_c(ROOT / "bench/peers/paced_load.c", tmp_path_factory.mktemp("paced") / "client")


def paced_lines(client: Path, answer: Callable[[bytes], bytes]) -> subprocess.CompletedProcess[str]:
    """The open-loop client at a server of lines whose first connection echoes, and whose second one is answered by `answer`."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for reply in (bytes, answer):
                sock = server.accept()[0]
                with sock, contextlib.suppress(OSError):
                    while said := sock.recv(64, socket.MSG_WAITALL):
                        sock.sendall(reply(said))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port = str(server.getsockname()[1])
        done = subprocess.run([client, port, "line", "1", "1000", "0.2"], capture_output=True, text=True, timeout=60)
        thread.join(60)
    return done


def test_a_stall_is_seen_by_all_that_fall_due_during_it(paced_load: Path) -> None:
    """A client that waits for its answers would see one long wait, and no other."""
    stalls = iter([0.4])

    def answer(said: bytes) -> bytes:
        time.sleep(next(stalls, 0))
        return said

    found = load.read_paced(paced_lines(paced_load, answer).stdout)
    assert found.due == 200
    assert found.p50 >= 0.3
    assert found.longest >= 0.4


def test_the_open_loop_client_checks_what_comes_back(paced_load: Path) -> None:
    done = paced_lines(paced_load, bytes.upper)
    assert (done.returncode, done.stdout) == (1, "")
    assert "not what was expected" in done.stderr


def kept_pace(**figures: float) -> load.Latency:
    return load.read_paced(PACED)._replace(**figures)


@pytest.mark.parametrize(
    ("row", "cells"),
    [
        (latency.Row(5e4, [kept_pace()] * 3), ["x", "50,000", "0.10", "2.50", "none", "none", "0.80 of it", "0.02", "0%", "3"]),
        (
            latency.Row(1, [kept_pace(p999=0.1, late=0.5)] * 2),
            ["x (the client is late)", "1", "0.10", "2.50", "100.00", "none", ""],
        ),
        (
            latency.Row(1, [kept_pace(late=late) for late in (0.5, 0, 0)]),
            ["x", "1", "0.10", "2.50", "none", "none", "0.80 of it"],
        ),
        (latency.Row(1, [kept_pace()], "it broke"), ["x: it broke", "1"]),
        (latency.Row(1, [kept_pace(p99=math.inf)]), ["x", "1", "0.10", "none", "none", "none", ""]),
        (latency.Row(note="it broke"), ["x: it broke", *[""] * 9]),
    ],
)
def test_lines_of_the_latency(row: latency.Row, cells: list[str]) -> None:
    said = latency.line("x", row, latency.Row(1, [kept_pace(p99=0.002)]))
    assert list(said[: len(cells)]) == cells
    assert len(said) == len(latency.line("x", row, row)) == 10


def test_two_workers_have_the_load_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, float]] = []
    peaks = {OURS: 1000.0, NGINX: 500.0}

    @contextlib.contextmanager
    def running(name: str, *_: object) -> Iterator[Running]:
        yield Running(name, 0, Place(tmp_path, tmp_path, len(name)))

    def paced(program: object, kind: str, port: int, connections: int, rate: float, *_: object) -> load.Latency:
        asked.append((next(name for name in latency.FILES if len(name) == port), rate))
        return kept_pace()

    monkeypatch.setattr(latency, "running", running)
    monkeypatch.setattr(latency, "client", lambda *_: tmp_path)
    monkeypatch.setattr(latency, "peak", lambda server, *_: peaks[server.name])
    monkeypatch.setattr(load, "paced", paced)
    rows = latency.measure(latency.PACES[0], tmp_path, 2, 1)
    turn = [(OURS, 500.0), (OURS + latency.TWO, 500.0), (NGINX, 250.0), (NGINX + latency.TWO, 250.0)]
    assert asked == turn + turn[1:] + turn[:1]
    assert {name: (row.rate, len(row.found)) for name, row in rows.items()} == {name: (rate, 2) for name, rate in turn}


# How the cost grows


@pytest.mark.parametrize(
    ("costs", "least", "most"),
    [
        ([5, 5, 5, 5, 5], 0, 0),
        ([5, 6, 6, 5.5, 6.2], 0, 0),  # noise
        ([9, 5, 3, 3, 3.5], 0, 0),  # falls
        ([100 + n for n in (1, 10, 100, 1000, 10_000)], 0.99, 1.01),
        ([100 + n * math.log(n + 1) for n in (1, 10, 100, 1000, 10_000)], 1.0, growth.BOUND),
        ([20 + n / 800 for n in (1, 10, 100, 1000, 10_000)], 0.3, 1.0),  # one is above the noise
        ([20 + n * n / 1e6 for n in (1, 10, 100, 1000, 10_000)], growth.BOUND, 2.0),  # the same
        ([9, 9, 8, 5, 100], growth.BOUND, 1.4),
        ([100 + n**1.5 / 100 for n in (1, 10, 100, 1000, 10_000)], 1.45, 1.55),
        ([1e6 + n * n for n in (1, 10, 100, 1000, 10_000)], 1.9, 2.1),  # hidden by what is fixed until the end
    ],
)
def test_exponents(costs: list[float], least: float, most: float) -> None:
    assert least <= growth.exponent((1, 10, 100, 1000, 10_000), costs) <= most


def points(sweep: growth.Sweep, **trouble: Any) -> growth.Points:
    """CPU that does not grow, and memory that grows by its square; trouble: of the last one."""
    found = {
        n: {OURS: Row([1000.0], [0.01], [0.5], pss=(20 << 20) + n * n), NGINX: Row([500.0], [0.02])} for n in sweep.amounts
    }
    last = found[sweep.amounts[-1]]
    last[OURS] = replace(last[OURS], **trouble)
    return found


def test_what_grows_too_fast_is_judged() -> None:
    sweep = growth.SWEEPS["idle"]
    cpu, memory = growth.verdicts(sweep, points(sweep))
    assert (cpu.figure, cpu.reached, memory.figure, memory.reached) == ("0.00", True, "1.28", False)
    assert growth.verdicts(growth.SWEEPS["workers"], points(growth.SWEEPS["workers"])) == []
    text = growth.document("- here", {"idle": points(sweep)}, [cpu, memory])
    cells = [cell.strip() for cell in lines_of(text, "| 10,000 ")[0].split("|")[1:-1]]
    assert cells == ["10,000", "1,000", "500", "2.00", "10.0", "20.0", "115.4", "", "0"]
    assert lines_of(text, f"| memory: {sweep.title} ")[0].split("|")[-2].strip() == "**no**"


@pytest.mark.parametrize(
    ("trouble", "figure"),
    [
        ({"failed": 1}, "0.00, with failures"),
        ({"note": "it broke"}, "0.00, with failures"),
        ({"rates": [], "cpu": []}, "0.00, with failures"),
        ({"rates": [0.0], "cpu": [math.inf]}, "0.00, with failures"),
        ({"cpu": [0.0]}, None),
    ],
)
def test_what_fails_has_no_growth(trouble: dict[str, Any], figure: str | None) -> None:
    sweep = growth.SWEEPS["busy"]
    assert growth.judge(sweep, points(sweep, **trouble), "CPU")[2::2] == (figure, False)
    assert not growth.judge(sweep, {n: {OURS: Row(note="gone")} for n in sweep.amounts}, "CPU").reached


@pytest.mark.parametrize("amount", [1, 10, 1000, growth.MOST_FILES])
def test_each_file_is_asked_for_as_often(tmp_path: Path, amount: int) -> None:
    growth.files(amount, tmp_path)
    counts = collections.Counter((tmp_path / "sequence").read_text().split())
    assert len(counts) == amount
    assert max(counts.values()) - min(counts.values()) <= 1


def test_growth_is_measured_one_by_one_where_descriptors_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[list[str]] = []
    monkeypatch.setattr(growth, "compare", lambda work, *_: groups.append([*work.peers]) or dict.fromkeys(work.peers, Row()))
    for name, expected in (("idle", [[OURS], [NGINX]]), ("busy", [[OURS, NGINX]])):
        groups.clear()
        found = growth.run(growth.SWEEPS[name]._replace(amounts=(1,)), tmp_path, 1, 1)
        assert (groups, list(found[1])) == (expected, [OURS, NGINX])


# From one node to many


def test_a_fleet_loses_no_client() -> None:
    clients = 5000
    fleet = capacity.Fleet(clients, 3)
    for second in range(capacity.END):
        if second in (60, 90):
            fleet.break_all(second, [0])
        fleet.turn_over(second)
        assert sum(fleet.connections) + sum(fleet.returns[second + 1 :]) == clients
        assert min(fleet.connections) >= 0
    assert max(fleet.connections) - min(fleet.connections) < clients / 50


def test_the_plan_has_room_for_half_the_peak_and_a_loss() -> None:
    node = capacity.Node(requests=1000, connects=500)
    assert [capacity.plan(clients, node) for clients in (1, 500, 501, 1000)] == [2, 2, 3, 3]
    assert capacity.plan(1_000_000, capacity.Node(requests=1e9)) == 21  # by connections


def test_the_load_of_a_phase_is_that_of_its_busiest_node() -> None:
    found = capacity.simulate(500, capacity.Node(requests=1000, connects=1e9))
    assert found == capacity.simulate(500, capacity.Node(requests=1000, connects=1e9))
    assert found.nodes == 2
    assert found.loads == pytest.approx({"at rest": 0.25, "drained": 0.5, "lost": 0.5, "HAProxy": 0.5}, abs=1e-6)
    assert 250 < found.silent < 500  # most are still where they went during the drain


SIZES = [pytest.param(size, marks=pytest.mark.slow if size > 10_000 else ()) for size in capacity.CLIENTS]


@pytest.mark.parametrize("clients", SIZES)
def test_the_page_has_the_table_of_the_simulation(clients: int) -> None:
    page = (ROOT / "docs/benchmarks.md").read_text()
    cells = [[cell.strip() for cell in line.split("|")] for line in page.splitlines()]
    for line in capacity.report(capacity.Node(), [clients]).splitlines()[::2]:
        assert [cell.strip() for cell in line.split("|")] in cells


# Several Pythons


def test_pythons_are_named_by_their_version(tmp_path: Path) -> None:
    (name,) = pythons.named([sys.executable])
    assert name == platform.python_version()  # pytest runs under the usual build
    with pytest.raises(ValueError, match="are both Python"):
        pythons.named([sys.executable, sys.executable])
    with pytest.raises(ValueError, match="no Python that runs"):
        pythons.named([str(tmp_path / "python")])


def test_each_python_runs_our_server() -> None:
    work = pythons.among(WORKS["kept"], {"3.11": "/a", "3.14t": "/b"})
    assert list(work.peers) == ["3.11", "3.14t"]
    assert work.barred() >= set(work.peers)  # so that they take part in each round
    for name, path in (("3.11", "/a"), ("3.14t", "/b")):
        peer = work.peers[name]
        assert peer.python == path
        assert peer.command(Place(Path("w"), Path("o"), 1, peer.python))[0] == path


def test_pythons_are_compared_with_the_first() -> None:
    found = {"kept": {"a": Row([100.0], [0.02], pss=20 << 20), "b": Row([150.0], [0.01], pss=30 << 20), "c": Row(note="no")}}
    text = pythons.document("- here", found, {"a": 0.1, "b": 0.05, "c": 0.1})
    lines = [[cell.strip() for cell in line.split("|")[2:-1]] for line in lines_of(text, "| ")[2:]]
    assert lines == [["100", "1.50", ""], ["20.0", "0.50", ""], ["20.0", "1.50", ""], ["100.0", "0.50", "1.00"]]
    assert "- c: no" in text


# Runs


def test_the_last_run_on_each_kind_of_processor_is_kept() -> None:
    def run(machine: str, date: str, rate: float) -> Results:
        return Results({"machine": machine, "date": date}, {"100k": rows(ours=[rate], nginx=[100.0])})

    intel, amd = run("Intel(R) Xeon(R) Processor, 2 cores", "May", 90.0), run("AMD EPYC, 2 cores", "June", 110.0)
    assert [each.processor for each in (intel, amd, Results())] == ["Intel Xeon", "AMD EPYC", ""]
    newer = run("AMD EPYC, 4 cores", "July", 120.0)
    assert replaced([amd, intel], newer) == [newer, intel]
    line = lines_of(report.machines_section([newer, intel]), f"| {WORKS['100k'].title} ")[0]
    assert [cell.strip() for cell in line.split("|")[2:-1]] == [NGINX, "at least 1.1", "1.20", "**0.90**"]
    assert "Kinds of processor" in report.document(newer, [intel])
    assert "Kinds of processor" not in report.document(newer)


def test_the_results_that_are_kept_can_be_read() -> None:
    runs = kept_runs()
    assert len({run.processor for run in runs}) == len(runs)
    assert len(report.machines_section(runs).splitlines()) > len(report.verdicts(runs[0]))


@pytest.mark.parametrize(
    ("arguments", "rounds", "seconds"),
    [(["latency"], 5, 2), (["growth"], 3, 1), (["chart"], 5, 2), (["growth", "--rounds", "1"], 1, 1), (["kept"], 5, 2)],
)
def test_what_is_done_alone_has_defaults(arguments: list[str], rounds: int, seconds: int) -> None:
    said = parse(arguments)
    assert (said.rounds, said.seconds) == (rounds, seconds)


@pytest.mark.parametrize("arguments", [["latency", "kept"], ["--python", "p", "growth"], ["--against", str(ROOT), "latency"]])
def test_what_is_done_alone_goes_with_nothing_else(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)
    assert "no such work" in capsys.readouterr().err
