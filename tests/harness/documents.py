"""What documents say in tables and code blocks."""

from __future__ import annotations

import re
from typing import NamedTuple

from markdown_it import MarkdownIt

from tests.harness.needs import ROOT

DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
]


def read_table(document: str, corner: str) -> dict[str, dict[str, str]]:
    """The rows of the table whose first cell is `corner`: by their first cells, and each by the heads of the columns."""
    lines = (ROOT / document).read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {corner} |"))
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[start:]]
    end = next(number for number, line in enumerate(lines[start:]) if not line.startswith("|"))
    return {row[0]: dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows[2:end]}


def name_errors(kinds: type[BaseException] | tuple[type[BaseException], ...]) -> str:
    """These kinds of errors, as a cell of such a table names them."""
    return " or ".join(f"`{kind.__name__}`" for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))


class Block(NamedTuple):
    """A code block of a document.

    document: its path from the root; line: of the block, counted from 1; section: the heading above it, of the second level
    language: the first word behind the fence; "": none, as of all indented blocks; argument: the rest of that line
    note: the HTML comment above the block
    """

    document: str
    line: int
    section: str
    language: str
    argument: str
    note: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def read_blocks(document: str, text: str) -> list[Block]:
    """The code blocks of a document, whose content is `text`."""
    blocks, section, note = [], "", ""
    tokens = MarkdownIt().disable("inline").parse(text)
    for number, token in enumerate(tokens):
        if token.type == "heading_open" and token.tag == "h2":
            section = tokens[number + 1].content
        elif token.type in {"fence", "code_block"}:
            assert token.map
            language, _, argument = token.info.partition(" ")
            blocks.append(Block(document, token.map[0] + 1, section, language, argument, note, token.content))
        comment = re.fullmatch(r"<!-- (.*?) -->\s*", token.content, re.DOTALL) if token.type == "html_block" else None
        note = comment[1] if comment else ""
    return blocks
