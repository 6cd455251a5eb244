"""Tables of clips: what is read from them, and errors that name the row."""

import pytest

from avsmamba.datasets.clip_table import read_clips
from avsmamba.utils import UserError


def test_kinds_are_read_where_the_table_has_them(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("name,category,split,visible\na,dog+cat,test,dog + cat+ man\nb,dog,test\nc,,test,\n")
    a, b, c = read_clips(table)
    assert (a.sounding, a.visible, a.lists_visible) == ({"dog", "cat"}, {"dog", "cat", "man"}, True)
    assert (b.sounding, b.visible, b.lists_visible) == ({"dog"}, {"dog"}, False)
    assert (c.sounding, c.visible, a.category) == (set(), set(), "")
    table.write_text("name,split\na,test\n")
    assert read_clips(table)[0].sounding == frozenset()
    table.write_text("name,start,category,split\na,0,dog,test\n")
    (clip,) = read_clips(table, category_column=2)
    assert (clip.category, clip.sounding, clip.visible, clip.lists_visible) == ("dog", {"dog"}, {"dog"}, False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["expected a column 'split'", "empty"]),
        ("name,start,category\na,0,b\n", ["expected a column 'split'", "name, start, category"]),
        ("name,split\na,test\n", ["expected the category in column 3"]),
        ("name,start,category,split\na,0,b,test\nc,0\n", ["row 3", "expected 4 columns, got 2"]),
        (
            "name,start,category,split\na,0,b,tset\nc,0,d,eval\n",
            ["row 2", "'tset'", "row 3", "'eval'", "train, val"],
        ),
        ("name,start,category,split\n../a,0,b,test\n", ["row 2", "'../a'"]),
        ("name,start,category,split\na,0,..,test\n", ["row 2", "'..'"]),
        (b"\xff\xfe\x00", ["comma-separated text"]),
        (None, ["no such file"]),
    ],
)
def test_faulty_tables(tmp_path, text, words):
    table = tmp_path / "table.csv"
    if text is not None:
        table.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UserError) as caught:
        read_clips(table, category_column=2)
    assert all(word in str(caught.value) for word in [str(table), *words]), str(caught.value)


def test_tables_with_byte_order_mark_blanks_and_other_columns(tmp_path):
    table = tmp_path / "table.csv"
    table.write_bytes('\ufeffvid,label, split\r\ntest_0,"a, b",test\r\n\r\ntest_1,c,test \r\n'.encode())
    assert [(clip.name, clip.split) for clip in read_clips(table)] == [("test_0", "test"), ("test_1", "test")]
