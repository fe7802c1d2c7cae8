"""The pages of listings, as HTML and as JSON: every name leads back to its bytes, and none of them passes for markup."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from html.parser import HTMLParser
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rawservers.http.listing import html as html_form
from rawservers.http.listing import json as json_form
from rawservers.http.listing.entries import ListingEntry, href, iso_time, name_text, natural_key
from rawservers.http.listing.html import content_security_policy, human_size, read, table_row
from tests.harness.listing import shuffled

SCRIPT = read("script.js")

NASTY = [
    b"javascript:alert(1)", b"data:text/html,x", b"a:b", b"..x", b"...", b"%41", b"%2e%2e", b"a?b", b"a#b", b"\n",
    b"\r\n", b"\t", b" ", b" x ", b"<script>alert(1)</script>", b'"><img src=x>', b"'", b"&amp;", b"</a>", b"</table>",
    b"<!--", b"-->", b"]]>", b"{title}", b"\\", b"\\\\evil", b"\xff\xfe", b"caf\xe9", "é日本😀".encode(), b"\x1b[31m",
    b"\x7f", b";", b"~", b"\xc2\x85", "evil\u202egpj.exe".encode(), "\ufffe\ufeff\u2028".encode(),
    "\U0001ffff".encode(), b"\xed\xa0\x80", b"9" * 255, b"x" * 200,
]  # fmt: skip
NAMES = st.one_of(
    st.binary(min_size=1, max_size=40).map(lambda name: name.replace(b"\0", b"").replace(b"/", b"")),
    st.sampled_from(NASTY),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), max_size=20).map(str.encode),
).filter(lambda name: name not in {b"", b".", b".."})
ENTRIES = st.lists(
    st.builds(ListingEntry, NAMES, st.booleans(), st.integers(0, 1 << 63), st.floats(-(2.0**63), 2.0**63)),
    max_size=8,
    unique_by=lambda entry: entry.name,
)
PATHS = st.lists(NAMES, max_size=4).map(lambda parts: b"/" + b"".join(part + b"/" for part in parts))

# Every tag and attribute that a page may have: a name that got through would show as another.
TAGS = {
    "a", "bdi", "data", "h1", "html", "main", "meta", "p", "script", "small", "style", "table", "tbody", "td", "th",
    "thead", "time", "title", "tr",
}  # fmt: skip
ATTRIBUTES = {
    "aria-sort", "charset", "class", "content", "data-top", "datetime", "href", "lang", "name", "title", "value",
}  # fmt: skip
VOID = {"meta"}
CLOSED_BY_OTHERS = {"tbody", "td", "th", "thead", "tr"}
UNSEEN = re.compile("[\0-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufdd0-\ufdef\ufffe\uffff\U0001ffff]")


class Page(HTMLParser):
    """What a reader of a page finds: its links with their text, words, times and sizes; every tag in its place."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[tuple[str, str]] = []
        self.title = self.text = ""
        self.values: list[int] = []
        self.times: list[str] = []
        self.feed(page.decode())
        self.close()
        assert not self.rawdata
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS
        assert {name for name, _ in attrs} <= ATTRIBUTES
        found = {name: value or "" for name, value in attrs}
        if tag == "a":
            assert "a" not in self.open
            self.links.append((found["href"], ""))
        if tag == "data":
            self.values.append(int(found["value"]))
        if tag == "time":
            self.times.append(found["datetime"])
        if tag not in VOID | CLOSED_BY_OTHERS:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.open.pop()

    def handle_data(self, data: str) -> None:
        if "script" in self.open or "style" in self.open:
            return
        self.text += data
        if "title" in self.open:
            self.title += data
        if "a" in self.open:
            href, text = self.links[-1]
            self.links[-1] = href, text + data

    @property
    def names(self) -> list[str]:
        return [text for href, text in self.links if href != "../"]

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def handle_pi(self, data: str) -> None:
        raise AssertionError(f"an instruction: {data}")


def file(name: bytes, size: int = 0, modified: float = 0) -> ListingEntry:
    return ListingEntry(name, False, size, modified)


def folder(name: bytes) -> ListingEntry:
    return ListingEntry(name, True, 4096, 0)


def names(*entries: ListingEntry) -> list[str]:
    """The names on the page, in its order, which is also that of the JSON."""
    told = json.loads(as_json(b"/", entries))["entries"]
    page = Page(as_html(b"/", entries))
    assert [href for href, _ in page.links] == [entry["href"] for entry in told]
    return page.names


def quoted(path: bytes) -> str:
    """A path as an address on its own, written without the function under test: every byte but "/" in percent."""
    return "".join("/" if byte == 0x2F else f"%{byte:02X}" for byte in path)


def followed(path: bytes, href: str) -> bytes:
    """The bytes that a link on the page of the folder at `path` leads to."""
    address = urlsplit(urljoin(f"http://example.test{quoted(path)}", href))
    assert (address.scheme, address.netloc, address.query, address.fragment) == ("http", "example.test", "", "")
    return unquote_to_bytes(address.path)


def as_html(path: bytes, entries: Iterable[ListingEntry]) -> bytes:
    return b"".join(html_form.render(path, entries))


def as_json(path: bytes, entries: Iterable[ListingEntry]) -> bytes:
    return b"".join(json_form.render(path, entries))


# Any bytes


@given(PATHS, ENTRIES)
@example(b"/", [file(name) for name in NASTY])
@example(b"/", [folder(name) for name in NASTY])
def test_every_link_leads_to_its_name_and_no_name_is_markup(path: bytes, entries: list[ListingEntry]) -> None:
    html = as_html(path, entries)
    page = Page(html)
    assert UNSEEN.search(html.decode()) is None
    found = {followed(path, href) for href, _ in page.links if href != "../"}
    assert found == {path + entry.name + (b"/" if entry.is_directory else b"") for entry in entries}
    assert sorted(page.values) == sorted(entry.size for entry in entries if not entry.is_directory)
    assert len(page.times) == len(entries)


@given(PATHS, ENTRIES)
@example(b"/", [file(name) for name in NASTY])
def test_the_json_says_the_same(path: bytes, entries: list[ListingEntry]) -> None:
    data = as_json(path, entries)
    assert data.isascii()
    assert data.endswith(b"}\n")
    assert data.count(b"\n") == 1
    told = json.loads(data)
    assert list(told) == ["path", "entries"]
    by_path = {path + entry.name + (b"/" if entry.is_directory else b""): entry for entry in entries}
    assert {followed(path, entry["href"]) for entry in told["entries"]} == set(by_path)
    for told_row in told["entries"]:
        entry = by_path[followed(path, told_row["href"])]
        assert list(told_row) == ["name", "href", "type", "size", "modified"]
        assert told_row["type"] == ("directory" if entry.is_directory else "file")
        assert told_row["size"] == (None if entry.is_directory else entry.size)
        assert told_row["name"] == entry.name.decode("utf-8", "backslashreplace")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", told_row["modified"])


@given(PATHS, ENTRIES)
@example(b"/", [])
def test_the_only_link_up_leads_to_the_parent(path: bytes, entries: list[ListingEntry]) -> None:
    """So that a crawler (wget -r -np, fsspec, httpdirfs, rclone) does not walk in circles."""
    page = Page(as_html(path, entries))
    parent = path[: path.rindex(b"/", 0, -1) + 1] if path != b"/" else path
    assert [followed(path, href) for href, _ in page.links if href == "../"] == [parent] * (path != b"/")
    below = [href for href, _ in page.links if href != "../"]
    assert all(re.fullmatch(r"(?:\./)?[^/]+/?", href) for href in below)
    assert all(followed(path, href).startswith(path) for href in below)


@pytest.mark.parametrize(
    ("name", "is_directory", "expected"),
    [
        (b"f", False, "f"), (b"sub", True, "sub/"), (b"a b&c.txt", False, "a%20b%26c.txt"), (b"a:b", False, "./a%3Ab"),
        (b"javascript:alert(1)", True, "./javascript%3Aalert%281%29/"), (b"C:", True, "./C%3A/"),
        (b"a?b#c%", False, "a%3Fb%23c%25"),
        (b"\\\\evil", True, "%5C%5Cevil/"), (b"~x", False, "~x"), (b"\xff", False, "%FF"), ("é".encode(), False, "%C3%A9"),
    ],
)  # fmt: skip
def test_a_link_is_the_name_alone(name: bytes, is_directory: bool, expected: str) -> None:
    """For httpdirfs, to which ./name is no entry; with ./ before a name that a careless client would take for a scheme."""
    assert href(name, is_directory) == expected
    (entry,) = json.loads(as_json(b"/", [ListingEntry(name, is_directory, 0, 0)]))["entries"]
    assert entry["href"] == expected
    assert f'<td><a href="{expected}">' in table_row(name, is_directory, 0, 0)


# What people see


def test_what_cannot_be_seen_is_spelled_out() -> None:
    raw = (b"a\nb", b"caf\xe9", "x\u202egpj".encode(), b"c\xc2\x85", "\u200d".encode(), b"tab\t")
    assert set(names(*map(file, raw))) == {r"a\x0ab", r"caf\xe9", r"x\u{202e}gpj", r"c\u{85}", "\u200d", r"tab\x09"}


def test_the_page_tells_where_it_is() -> None:
    page = Page(as_html(b"/pub/<b>/", [folder(b"x"), file(b"y"), file(b"z")]))
    assert page.title == "Index of /pub/<b>/"
    assert page.text.count("Index of /pub/<b>/\n") == 2  # title and heading
    assert page.links[:2] == [("../", "Parent folder"), ("x/", "x/")]
    assert "1 folder, 2 files" in page.text


def test_home_is_for_the_script_alone() -> None:
    """Which makes a link of it, below a folder that is home itself."""
    assert b'<a href="../" data-top="../../../">Parent folder</a>' in as_html(b"/a/b/c/", [])
    assert b"data-top" not in as_html(b"/a/", [])
    assert b"data-top" not in as_html(b"/", [])


def test_the_root_has_no_parent() -> None:
    page = Page(as_html(b"/", [file(b"x")]))
    assert page.title == "Index of /"
    assert page.links == [("x", "x")]
    assert "1 file\n" in page.text
    assert ".." not in page.text


def test_an_empty_folder_says_so() -> None:
    html = as_html(b"/a/", [])
    page = Page(html)
    assert "This folder is empty." in page.text
    assert b"<table" not in html
    assert b"<script" not in html
    assert page.links[-1] == ("../", "Parent folder")
    assert json.loads(as_json(b"/a/", [])) == {"path": "/a/", "entries": []}


def test_a_row_has_the_readable_size_the_exact_one_and_the_time() -> None:
    html = as_html(b"/", [file(b"x", 1234567, 784111777.9)]).decode()
    assert '<data value="1234567" title="1,234,567 bytes">1.2 MiB</data>' in html
    assert '<time datetime="1994-11-06T08:49:37Z">1994-11-06 08:49</time>' in html


def test_the_page_loads_nothing_and_is_small() -> None:
    html = as_html(b"/", [file(b"x")])
    assert len(html) < 5000
    assert not re.search(rb"<link|@import|\bsrc=|url\((?!\"data:)", html)
    assert html.count(SCRIPT.encode()) == 1
    assert SCRIPT.count("\n") <= 25
    assert content_security_policy().startswith("default-src 'none'; ")


# Order


@pytest.mark.parametrize(
    ("given_names", "in_order"),
    [
        ([b"b", b"A", b"C", b"a"], ["A", "a", "b", "C"]),
        ([b"a10", b"a9", b"A1", b"a"], ["a", "A1", "a9", "a10"]),
        ([b"v1.10.0", b"v1.9.12", b"v1.9.2"], ["v1.9.2", "v1.9.12", "v1.10.0"]),
        ([b"007", b"7", b"08", b"6", b"0", b"00"], ["0", "00", "6", "007", "7", "08"]),
        (["zoo", "été", "eta", "f"], ["eta", "été", "f", "zoo"]),
        ([b"b", b"10", b"9", b"_"], ["9", "10", "_", "b"]),
        ([b"a2", b"a!", b"ab", b"a10"], ["a!", "a2", "a10", "ab"]),
        ([b"9" * 5000, b"1" + b"0" * 5000], ["9" * 5000, "1" + "0" * 5000]),
    ],
)
def test_names_stand_as_people_count_and_spell(given_names: list[bytes | str], in_order: list[str]) -> None:
    raw = [name.encode() if isinstance(name, str) else name for name in given_names]
    assert names(*map(file, raw)) == in_order
    assert names(*map(file, reversed(raw))) == in_order


def test_folders_stand_first() -> None:
    assert names(file(b"a"), folder(b"z"), file(b"B"), folder(b"Y")) == ["Y/", "z/", "a", "B"]


# Sizes and times


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (10188, "9.9 KiB"),
        (10189, "10 KiB"),
        (1048063, "1023 KiB"),
        (1048064, "1.0 MiB"),
        (5 << 30, "5.0 GiB"),
        (700 << 40, "700 TiB"),
        (1 << 63, "8.0 EiB"),
        (1 << 80, "1048576 EiB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert human_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (784111777.999999, "1994-11-06T08:49:37Z"),
        (-0.5, "1969-12-31T23:59:59Z"),
        (4102444800.25, "2100-01-01T00:00:00Z"),
        (-30610224000, "1000-01-01T00:00:00Z"),
        (-62135596800, "0001-01-01T00:00:00Z"),
        (-1e15, "0001-01-01T00:00:00Z"),
        (253402300799.9, "9999-12-31T23:59:59Z"),
        (2.0**63, "9999-12-31T23:59:59Z"),
    ],
)
def test_times(seconds: float, text: str) -> None:
    assert iso_time(seconds) == text


# Any number of entries


@pytest.mark.parametrize("form", [html_form.render, json_form.render])
def test_a_fragment_has_at_most_one_entry(form: Callable[[bytes, Iterable[ListingEntry]], Iterable[bytes]]) -> None:
    entries = shuffled(1000)
    fragments = list(form(b"/a/", iter(entries)))
    assert max(len(re.findall(b'"href": "|<td><a href="', fragment)) for fragment in fragments) == 1
    assert sum(len(re.findall(b'"href": "|<td><a href="', fragment)) for fragment in fragments) == len(entries)
    assert b"".join(fragments) == (as_html if form is html_form.render else as_json)(b"/a/", entries)


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_the_fragments_make_what_would_be_made_at_once(count: int) -> None:
    entries = shuffled(count)
    shown = sorted(entries, key=lambda entry: (not entry.is_directory, natural_key(name_text(entry.name)), entry.name))
    told = [
        {
            "name": name_text(entry.name),
            "href": href(entry.name, entry.is_directory),
            "type": "directory" if entry.is_directory else "file",
            "size": None if entry.is_directory else entry.size,
            "modified": iso_time(entry.modified),
        }
        for entry in shown
    ]
    assert as_json(b'/"/', entries) == json.dumps({"path": '/"/', "entries": told}).encode() + b"\n"
    rows = [table_row(entry.name, entry.is_directory, entry.size, entry.modified) for entry in shown]
    folders = sum(entry.is_directory for entry in entries)
    table = (
        '<table>\n<thead><tr><th aria-sort="ascending">Name<th>Size<th>Modified (UTC)\n<tbody class="folders">\n'
        f'{"".join(rows[:folders])}<tbody class="files">\n{"".join(rows[folders:])}</table>\n<script>\n{SCRIPT}</script>\n'
    )
    _, _, behind = as_html(b"/", entries).decode().partition("</p>\n")
    assert behind == f"{table if entries else ''}</main>\n</html>\n"
