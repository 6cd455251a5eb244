"""Templates: values are escaped in HTML only, and an unknown name is an error."""

import jinja2
import pytest

from avsmamba.reports import pages


@pytest.fixture
def templates(monkeypatch):
    loader = jinja2.DictLoader({"a.html.j2": "{{ text }}\n", "a.md.j2": "{{ text }}\n"})
    monkeypatch.setattr(pages, "_ENVIRONMENT", pages._ENVIRONMENT.overlay(loader=loader))


def test_html_is_escaped_and_markdown_is_not(templates):
    assert pages.render("a.html.j2", text="<a & b>") == "&lt;a &amp; b&gt;\n"
    assert pages.render("a.md.j2", text="<a & b>") == "<a & b>\n"


def test_an_unknown_name_is_an_error(templates):
    with pytest.raises(jinja2.UndefinedError, match="'text' is undefined"):
        pages.render("a.html.j2", other=1)
