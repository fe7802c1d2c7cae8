"""The benchmark's own arithmetic: what it reads out of its clients, what it makes of it, and that it hides nothing."""

from __future__ import annotations

import collections
import contextlib
import json
import math
import multiprocessing
import os
import random
import socket
import statistics
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import against, faults, honest, hostile, load, process, report, works
from bench.__main__ import parse
from bench.compare import Row, compare, prepare
from bench.footprint import HELD, Footprint
from bench.fresh import Freshness
from bench.install import ROOT, compile_c
from bench.report import Results
from bench.servers import CACHED, NGINX, OURS, STANDARD, Peer, free_port, running, strange
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
    found = Results({}, {"kept": rows(ours=[100.0], nginx=[50.0], cached=[90.0])}, Footprint(), Freshness())
    said = {(verdict.against, verdict.bar): verdict.said for verdict in report.verdicts(found)}
    assert said[NGINX, "at least 1.6"] == "yes"
    assert said[CACHED, "at least 1.25"] == "**no**"
    assert said[CACHED, "at most 0.9"] == "yes"
    assert said[STANDARD, "at least 50"] == "not measured"
    assert len(said) == len(report.verdicts(found)) == len(WORKS["kept"].bars) + 5
    assert not any(verdict.reached for verdict in report.verdicts(found) if verdict.figure is None)


def test_the_bars_of_start_memory_and_freshness() -> None:
    good = Footprint([0.13], [0.1], 15 << 20, 30 << 20, 5 << 20, 9 << 20, 1024.0, HELD)
    bad = Footprint([0.14], [0.1], 16 << 20, 30 << 20, 5 << 20, 9 << 20, 2049.0, HELD - 1)
    assert [verdict.said for verdict in report.judge_footprint(good)] == ["yes"] * 4
    assert [verdict.said for verdict in report.judge_footprint(bad)] == ["**no**"] * 4
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
        assert bool(said) == (name != "telnet-silent"), name
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
