"""Markdown tables."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[object], rows: Iterable[Sequence[object]], align: str = "", padded: bool = False) -> str:
    """Return a Markdown table; `|` in a cell is escaped.

    Args:
        head: titles of the columns.
        rows: cells, as many in each row as there are titles.
        align: `l` or `r` for each column; default: all left.
        padded: pad cells to the width of their column, for a terminal.

    Raises:
        ValueError: if a row or `align` has another number of columns.
    """
    align = align or "l" * len(head)
    cells = [[str(cell).replace("|", r"\|") for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) if padded else 0 for column in zip(*cells, strict=True)]
    pads = {"l": str.ljust, "r": str.rjust}
    lines = [[pads[a](text, width) for text, width, a in zip(row, widths, align, strict=True)] for row in cells]
    rule = ["-" * max(3, width - (a == "r")) + ":" * (a == "r") for width, a in zip(widths, align, strict=True)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (lines[0], rule, *lines[1:]))
