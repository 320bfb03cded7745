"""Generated tables in pages of the documentation, each between two marks."""

from __future__ import annotations

from pathlib import Path

from fastinpaint.files import replace_text


def replace_table(page: Path, begin: str, end: str, table: str) -> None:
    """Replace the text between two marks of the page by the table, with an empty line above and below."""
    before, rest = page.read_text().split(begin)
    replace_text(page, f"{before}{begin}\n\n{table}\n\n{end}{rest.split(end)[1]}")


def table_of(page: Path, begin: str, end: str) -> str:
    """The text between two marks of the page."""
    return page.read_text().split(begin)[1].split(end)[0].strip()
