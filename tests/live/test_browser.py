"""A real browser, Chromium, before the real server: the welcome page, a listing, a page of many files, a video."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from rawservers import status
from rawservers.sockets import ConnectedSocket, Sockets
from tests.harness.browser import chromium
from tests.harness.clients import entries, serving, traffic
from tests.harness.proxies import connect
from tests.harness.server import Server
from tests.harness.sockets import receive_until
from tests.harness.waiting import DEADLINE, until

expect.set_options(timeout=1000 * DEADLINE)

WELCOME = """
workers = WORKERS
[[listen]]
service = "http"
address = "127.0.0.1:0"
[[listen]]
service = "telnet"
address = "127.0.0.1:0"
[[listen]]
service = "telnet"
address = "unix:PLACE/telnet"
[[listen]]
service = "status"
address = "127.0.0.1:0"
"""
SECONDS, RATE = 60, 10  # of the video


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


def configured(place: Path, workers: int) -> Path:
    """A configuration file of the welcome page."""
    conf = place / "conf.toml"
    conf.write_text(WELCOME.replace("WORKERS", str(workers)).replace("PLACE", str(place)))
    return conf


@pytest.fixture(scope="module")
def welcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The welcome page, of two workers."""
    with Server("-c", configured(tmp_path_factory.mktemp("welcome"), workers=2)) as server:
        server.address("status")
        yield server


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to list, with a page of 200 pictures, and one for a video."""
    root = tmp_path_factory.mktemp("files") / "www"
    (root / "many").mkdir(parents=True)
    (root / "sub" / "inner").mkdir(parents=True)
    for name, size in (("b.txt", 30), ("a.txt", 2000), ("c.txt", 100)):
        (root / name).write_bytes(b"x" * size)
    picture = '<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="4"><title>{0}</title></svg>'
    for number in range(200):
        (root / "many" / f"{number}.svg").write_text(picture.format(number + 1))
    pictures = "".join(f'<img src="{number}.svg" alt="{number}">' for number in range(200))
    icon = '<link rel="icon" href="data:,">'
    head = f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>Page</title>{icon}'
    (root / "many" / "index.html").write_text(f'{head}<p><a href="../other.html">other</a>{pictures}')
    (root / "other.html").write_text(f'{head}<p><a href="many/">back</a>')
    (root / "video.html").write_text(f'{head}<video src="noise.mp4" preload="metadata"></video>')
    (root / "sub" / "inner" / "f").touch()
    return root


@pytest.fixture(scope="module")
def files(root: Path) -> Iterator[Server]:
    with serving(root, "max_age = 0") as server:
        yield server


def make_video(path: Path) -> None:
    """A video of noise, so that it is large, with its index at its end."""
    noise = random.Random(1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "crf": "20"})
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 192, 144, "yuv420p", Fraction(1, RATE)
        for _ in range(SECONDS * RATE):
            frame = av.VideoFrame(192, 144, "yuv420p")
            for plane in frame.planes:
                plane.update(noise.randbytes(plane.buffer_size))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@contextlib.contextmanager
def visiting(browser: Browser, **options: Any) -> Iterator[Page]:
    """A page in a profile of its own. It must not complain in its console."""
    complaints: list[str] = []
    with contextlib.closing(browser.new_context(**options)) as context:
        page = context.new_page()
        page.set_default_timeout(1000 * DEADLINE)
        page.on("console", lambda message: complaints.append(message.text) if message.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        yield page
    assert complaints == []


def look(server: Server) -> Sockets:
    return status.fetch_sockets("{}:{}".format(*server.address("status")))


def rows(page: Page, group: str) -> list[list[str]]:
    """The text of the cells of a part of the table."""
    return [row.locator("td").all_text_contents() for row in page.locator(f"#{group} tr:has(td)").all()]


def finds_nothing(page: Page) -> bool:
    """Whether axe has no objection to the page."""
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    return len(found.response["passes"]) > 10


# The welcome page


def test_it_shows_its_own_connection(browser: Browser, welcome: Server) -> None:
    """As the server sees it: the ports of both ends, and what has gone each way."""
    with visiting(browser) as page:
        page.goto(welcome.url)
        expect(page.locator("#live")).to_contain_text("Live: ")
        peer = f"{page.locator('#peer-host').text_content()}:{page.locator('#peer-port').text_content()}"
        local = f"{page.locator('#local-host').text_content()}:{page.locator('#local-port').text_content()}"
        found: list[ConnectedSocket] = []

        def is_seen() -> bool:
            found[:] = [row for row in look(welcome).connected if row.service == "http" and row.peer == peer]
            return len(found) == 1

        until(is_seen, "the connection in the server's own table")
        assert local == found[0].local == "{}:{}".format(*welcome.address("http"))
        (own,) = [row for row in rows(page, "connected") if row[0] == "this page"]
        assert own[1:4] == ["http", local, peer]
        assert page.locator("pre").first.inner_text().startswith("GET / HTTP/1.1\\r\\n\nHost: 127.0.0.1:")
        assert ["listening", "http", local] in [row[:3] for row in rows(page, "listening")]
        assert f"telnet 127.0.0.1 {welcome.address('telnet')[1]}" in page.locator(".commands").inner_text()


def test_a_client_that_comes_and_goes(browser: Browser, welcome: Server) -> None:
    with visiting(browser) as page:
        page.goto(welcome.url)
        with welcome.connect("telnet") as sock:
            peer = "{}:{}".format(*sock.getsockname())
            row = page.locator("#connected tr", has_text=peer)
            expect(row).to_contain_text("telnet")
            expect(row.locator("td").nth(6)).to_have_text("0")
            sock.sendall(b"hello\r\n")
            expect(row.locator("td").nth(6)).to_have_text("7")
            expect(row.locator("td").nth(7)).to_have_text("7")
        expect(row).to_have_count(0)


@pytest.mark.slow
def test_clients_that_look_the_same(browser: Browser, welcome: Server) -> None:
    """As those of a unix socket do: each has a row, however often the table is asked for."""
    with visiting(browser) as page, contextlib.ExitStack() as stack:
        page.goto(welcome.url)
        path = next(row.address for row in look(welcome).listening if row.address.endswith("/telnet")).removeprefix("unix:")
        for _ in range(3):
            stack.enter_context(connect(Path(path)))
        row = page.locator("#connected tr", has_text=f"unix:{path}")
        expect(row).to_have_count(3)
        before = len(welcome.log())
        until(lambda: sum(" /sockets " in line for line in welcome.log()[before:]) >= 3, "it is asked for again")
        assert row.count() == 3
        stack.close()
        expect(row).to_have_count(0)


@pytest.mark.slow
def test_the_table_can_be_paused_and_waits_while_nobody_looks(browser: Browser, welcome: Server) -> None:
    with visiting(browser) as page:
        page.goto(welcome.url)
        expect(page.locator("#live")).to_contain_text("Live: ")
        page.get_by_role("button", name="Pause").press("Enter")
        expect(page.locator("#live")).to_have_text("Paused.")
        with welcome.connect("telnet") as sock:
            row = page.locator("#connected tr", has_text="{}:{}".format(*sock.getsockname()))
            assert row.count() == 0
            page.get_by_role("button", name="Go on").press("Enter")
            expect(row).to_have_count(1)


@pytest.mark.slow
def test_a_page_that_is_hidden_does_not_ask(browser: Browser, welcome: Server) -> None:
    def polls(agent: str) -> int:
        return sum(agent in line and " /sockets " in line for line in welcome.log())

    with visiting(browser, user_agent="hidden one") as hidden, visiting(browser, user_agent="shown one") as shown:
        hidden.goto(welcome.url)
        shown.goto(welcome.url)
        expect(hidden.locator("#live")).to_contain_text("Live: ")

        def turn(is_hidden: bool) -> None:
            hidden.evaluate(
                "value => { Object.defineProperty(document, 'hidden', { value, configurable: true });"
                "document.dispatchEvent(new Event('visibilitychange')) }",
                is_hidden,
            )

        turn(True)
        before = polls("shown one")
        until(lambda: polls("shown one") > before + 1, "what was on its way has come")
        asked, before = polls("hidden one"), polls("shown one")
        until(lambda: polls("shown one") > before + 3, "the other goes on")
        assert polls("hidden one") == asked
        turn(False)
        until(lambda: polls("hidden one") > asked, "it goes on")


@pytest.mark.slow
def test_a_server_that_is_gone_and_comes_back(browser: Browser, tmp_path: Path) -> None:
    with contextlib.closing(browser.new_context()) as context:
        page = context.new_page()
        with Server("-c", configured(tmp_path, workers=1)) as server:
            url, port = server.url, server.address("http")[1]
            page.goto(url)
            expect(page.locator("#live")).to_contain_text("Live: ")
        expect(page.locator("#live")).to_contain_text("The server does not answer. Next attempt in 4 seconds.")
        expect(page.locator("#live")).to_contain_text("Next attempt in 8 seconds.")
        page.locator("#line").fill("x")
        with Server("-p", str(port), "--telnet", "0"):
            expect(page.locator("#live")).to_contain_text("Live: ")


def test_the_echo_answers(browser: Browser, welcome: Server) -> None:
    with visiting(browser) as page:
        page.goto(welcome.url)
        page.get_by_label("A line").fill("größe <b>")
        page.get_by_label("A line").press("Enter")
        page.get_by_role("button", name="Are you there?").click()
        expect(page.locator("#log div")).to_have_text([
            r"→ größe <b>\r\n  67 72 c3 b6 c3 9f 65 20 3c 62 3e 0d 0a",
            r"← größe <b>\r\n  67 72 c3 b6 c3 9f 65 20 3c 62 3e 0d 0a",
            r"→ \xff\xf6  ff f6",
            r"← \r\n[Yes]\r\n  0d 0a 5b 59 65 73 5d 0d 0a",
        ])  # fmt: skip
        assert page.get_by_label("A line").input_value() == ""
        for number in range(30):  # more than a session takes: another one begins
            page.get_by_label("A line").fill(f"{number} " + "y" * 150)
            page.get_by_label("A line").press("Enter")
        expect(page.locator("#log div").last).to_contain_text("← 29 yyy")


def test_first_paint_takes_one_connection(browser: Browser, welcome: Server) -> None:
    """And one request, for a page of less than 40 KiB."""

    def counted() -> tuple[int, int]:
        http = json.loads(status.fetch("{}:{}".format(*welcome.address("status")), "json"))["counters"]["http"]
        return http["accepted"], http["answers"]

    until(lambda: all(row.service != "http" for row in look(welcome).connected), "earlier visitors have left")
    before = counted()
    with visiting(browser) as page:
        page.add_init_script(
            "new PerformanceObserver(list => { window.painted = performance.getEntriesByType('resource').length })"
            ".observe({ type: 'paint', buffered: true })"
        )
        answer = page.goto(welcome.url)
        assert answer
        assert len(answer.body()) < 40 << 10
        expect(page.locator("#live")).to_contain_text("Live: ")
        assert page.evaluate("window.painted") == 0  # other requests until then
        assert page.evaluate("performance.getEntriesByName('first-contentful-paint').length") == 1
        connections, answers = (after - earlier for after, earlier in zip(counted(), before, strict=True))
        assert connections == 1
        assert answers >= 2  # with those of the script


def test_without_javascript(browser: Browser, welcome: Server) -> None:
    with welcome.connect("telnet") as sock, visiting(browser, java_script_enabled=False) as page:
        sock.sendall(b"x\r\n")
        assert receive_until(sock, b"\n") == b"x\r\n"  # so it is accepted

        def is_shown() -> bool:
            page.goto(welcome.url)
            return page.locator("#connected tr", has_text="{}:{}".format(*sock.getsockname())).count() == 1

        until(is_shown, "its row: a worker that is late is left out")
        assert page.locator("#peer-port").text_content() in [row[3].rpartition(":")[2] for row in rows(page, "connected")]
        assert page.locator("form").is_hidden()
        assert page.locator("#pause").is_hidden()
        assert page.locator("noscript").first.is_visible()


def test_by_keyboard(browser: Browser, welcome: Server) -> None:
    """Each control is reached, in the order of the page."""
    with visiting(browser) as page:
        page.goto(welcome.url)
        expect(page.locator("#pause")).to_be_visible()
        reached = []
        for _ in range(30):
            page.keyboard.press("Tab")
            reached.append(
                page.evaluate("(e => e.id || e.getAttribute('aria-label') || e.textContent)(document.activeElement)")
            )
        controls = page.locator("button, input").count()
        assert controls >= 7
        assert len({*reached} - {""}) >= controls
        assert (
            reached.index("pause")
            < reached.index("line")
            < reached.index("ayt")
            < reached.index("Copy python3 -m rawservers DIR")
        )


@pytest.mark.parametrize(
    ("scheme", "width"),
    [
        ("light", 1180),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("dark", 1180), ("light", 390), ("dark", 390))),
    ],
)
def test_axe_finds_nothing(browser: Browser, welcome: Server, scheme: Any, width: int) -> None:
    with visiting(browser, color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
        page.goto(welcome.url)
        page.get_by_label("A line").fill("hello")
        page.get_by_label("A line").press("Enter")
        expect(page.locator("#log .got")).to_have_count(1)
        expect(page.locator("#live")).to_contain_text("Live: ")
        assert finds_nothing(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing is cut off


# Files


def test_a_listing_sorts(browser: Browser, files: Server) -> None:
    with visiting(browser) as page:
        page.goto(files.url)
        text = page.locator("tbody.files tr", has_text=".txt").locator("bdi")
        assert text.all_text_contents() == ["a.txt", "b.txt", "c.txt"]
        page.get_by_role("button", name="Size").click()
        assert text.all_text_contents() == ["b.txt", "c.txt", "a.txt"]
        page.get_by_role("button", name="Size").click()
        assert text.all_text_contents() == ["a.txt", "c.txt", "b.txt"]
        assert finds_nothing(page)


@pytest.mark.slow
def test_the_way_home(browser: Browser, files: Server) -> None:
    """From a listing below a folder, and from the page of an error."""
    with visiting(browser) as page:
        page.goto(f"{files.url}/sub/inner/")
        page.get_by_role("link", name="Home").click()
        page.wait_for_url(f"{files.url}/")
        assert page.get_by_role("link", name="Home").count() == 0
        page.goto(f"{files.url}/sub/")
        assert page.get_by_role("link", name="Home").count() == 0
    with contextlib.closing(browser.new_context()) as context:  # whose console says that it is a 404
        page = context.new_page()
        page.goto(f"{files.url}/sub/no/such/page")
        assert finds_nothing(page)
        page.get_by_role("link", name="Home").click()
        page.wait_for_url(f"{files.url}/")


@pytest.mark.slow
def test_a_page_of_200_files_takes_few_connections(browser: Browser, files: Server) -> None:
    """And once it is loaded, no file is sent again: neither for a reload, nor on the way back and forward."""
    before = traffic(files)
    with visiting(browser) as page:
        page.goto(f"{files.url}/many/")
        assert page.evaluate("[...document.images].every((image, number) => image.naturalWidth == number + 1)")
        until(lambda: len(files.log()) == len(before.entries) + 201, "all are logged")
        page.reload()
        page.get_by_text("other").click()
        page.get_by_text("back").wait_for()
        page.go_back()
        expect(page.locator("img")).to_have_count(200)
        page.go_forward()
        page.get_by_text("back").wait_for()
        page.go_back()
        page.reload()
        assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth)")
    after = traffic(files, skip=len(before.entries))
    first, later = after.entries[:201], after.entries[201:]
    assert {entry.status for entry in first} == {200}
    sent = [entry for entry in later if entry.status != 304]
    assert [entry.line.split()[1] for entry in sent] == ["/other.html"]
    assert len(later) - 1 >= 201  # the reload has asked for all of them
    assert after.connections - before.connections <= 12  # Chromium opens up to six, and may wait with one or another


@pytest.mark.slow
def test_a_video_seeks(browser: Browser, files: Server, root: Path) -> None:
    make_video(root / "noise.mp4")
    skip = len(entries(files.log()))
    with visiting(browser) as page:
        page.goto(f"{files.url}/video.html")
        duration = page.evaluate(
            "new Promise((resolve, reject) => { const video = document.querySelector('video');"
            "video.onerror = () => reject(video.error.message);"
            "video.readyState ? resolve(video.duration) : video.onloadedmetadata = () => resolve(video.duration) })"
        )
        assert duration == pytest.approx(SECONDS, abs=0.2)
        for second in random.Random(1).sample(range(5, SECONDS - 5), 5):
            page.evaluate(
                "second => new Promise((resolve, reject) => { const video = document.querySelector('video');"
                "video.onerror = () => reject(video.error.message);"
                "video.onseeked = () => resolve(); video.currentTime = second })",
                second,
            )
            assert page.evaluate("document.querySelector('video').currentTime") == pytest.approx(second, abs=0.2)
            assert page.evaluate("document.querySelector('video').readyState") >= 2  # the frame is there
    answers = traffic(files, skip=skip).entries
    ranges = [entry for entry in answers if entry.line.startswith("GET /noise.mp4 ")]
    assert {entry.status for entry in ranges} == {206}
    assert len(ranges) >= 3
