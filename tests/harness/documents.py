"""What documents say in tables."""

from __future__ import annotations

from tests.harness.needs import ROOT


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
