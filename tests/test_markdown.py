"""Markdown tables: cells, alignment and padding."""

import pytest

from avsmamba.markdown import table


def test_a_table():
    text = table(["", "a|b"], [["x", 1], ["longer", 2.5]], "lr")
    assert text == "|  | a\\|b |\n| --- | ---: |\n| x | 1 |\n| longer | 2.5 |"


def test_a_padded_table():
    text = table(["name", "score"], [["x", 1], ["longer", 2.5]], "lr", padded=True)
    assert text == "| name   | score |\n| ------ | ----: |\n| x      |     1 |\n| longer |   2.5 |"


@pytest.mark.parametrize(("rows", "align"), [([["a"]], ""), ([["a", "b"]], "l")])
def test_columns_that_do_not_match(rows, align):
    with pytest.raises(ValueError, match="zip"):
        table(["a", "b"], rows, align)
