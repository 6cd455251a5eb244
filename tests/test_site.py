"""The documentation site builds without a warning, needs nothing from outside, and none of its links is dead."""

import argparse
import inspect
import re
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest

from avsmamba.cli import COMMANDS
from avsmamba.config import check
from avsmamba.models.segmentor import AVSSegmentor
from avsmamba.reports.components import SECTIONS, page, registered
from tests import ROOT

DOCS = ROOT / "docs"


def test_the_page_of_components_is_up_to_date():
    assert (DOCS / "components.md").read_text() == page(), "run python tools/components.py --write"


def test_every_component_and_every_key_is_explained():
    headings = set(re.findall(r"^### (\w+)$", (DOCS / "components.md").read_text(), re.M))
    names = {name for registry, *_ in SECTIONS for name, _ in registered(registry)}
    assert names and names <= headings
    rows = re.findall(r"^\| (`.*?) \|", (DOCS / "configs.md").read_text(), re.M)
    keys = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    arguments = set(inspect.signature(AVSSegmentor).parameters)
    assert arguments <= keys, arguments - keys
    known = top_level_keys()
    assert len(known) > 20 and known <= keys, known - keys
    assert keys <= known | arguments, "docs/configs.md names a key that there is not"


def top_level_keys() -> set[str]:
    from mmengine.runner import Runner

    keys = (set(inspect.signature(Runner.__init__).parameters) - {"self", "cfg"}) | check._RUNNER_KEYS
    check.check_top_level(dict.fromkeys(keys))
    return keys


def test_every_part_of_the_paper_has_a_page_with_a_link_to_its_file():
    parts = {"mte": "mte", "mad": "mad", "cip": "cip", "projection": "projection", "head": "head"}
    parts |= {"audio": "audio/vggish", "baselines": "baselines/tpavi"}
    for name, file in parts.items():
        text = (DOCS / "model" / f"{name}.md").read_text()
        assert f"(../../avsmamba/models/{file}.py)" in text and text.count("$$") >= 2


@pytest.mark.parametrize("command, section", [("predict", "## Command line"), ("web", "## Web page")])
def test_the_page_on_prediction_names_every_option(command, section):
    parser = argparse.ArgumentParser(add_help=False)
    COMMANDS[command].add_arguments(parser)
    options = {word: action for action in parser._actions for word in action.option_strings}
    text = (DOCS / "predict.md").read_text().partition(section)[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`--.*?) \| .*? \| (.*?) ?\|$", text, re.M)
    named = {word for words, _ in rows for word in re.findall(r"--[\w-]+", words)}
    assert named == set(options), named ^ set(options)
    for words, default in rows:
        if len(found := re.findall(r"--[\w-]+", words)) == 1:
            value = options[found[0]].default
            if isinstance(value, (int, float, str)) and not isinstance(value, bool) and value != "auto":
                assert default.strip("`") == f"{value:g}" if not isinstance(value, str) else value in default, words


class Found(HTMLParser):
    """Addresses, ids and equations of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self.ids: set[str] = set()
        self.equations = 0

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.equations += tag == "math"
        self.ids |= {values[key] for key in ("id", "name") if values.get(key)}
        for key in ("href", "src"):
            if values.get(key) is not None:
                self.links.append((tag, values[key]))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for package in ("mkdocs", "material", "latex2mathml"):
        pytest.importorskip(package, reason=f"the site needs {package}: pip install -e '.[docs]'")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
        build(config)  # strict: a warning is an error
    pages = {}
    for path in folder.rglob("*.html"):
        pages[path] = Found()
        pages[path].feed(path.read_text())
    return folder, pages


def test_every_document_is_a_page_in_the_navigation(site):
    folder, pages = site
    shown = {urlsplit(link).path for tag, link in pages[folder / "index.html"].links if tag == "a"}
    for document in DOCS.rglob("*.md"):
        name = document.relative_to(DOCS).with_suffix(".html").as_posix()
        assert folder / name in pages and name in shown, name


def test_links_and_pictures_lead_somewhere(site):
    folder, pages = site
    count = 0
    for path, found in pages.items():
        if path.name == "404.html":  # its addresses are those of a server's root
            continue
        for _, link in found.links:
            address = urlsplit(link)
            if address.scheme:
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            assert target.is_file(), f"{path.relative_to(folder)}: {link}"
            if address.fragment and target in pages:
                assert unquote(address.fragment) in pages[target].ids, f"{path.relative_to(folder)}: {link}"
            count += 1
    assert count > 500


def test_nothing_is_fetched_from_outside(site):
    folder, pages = site
    for path, found in pages.items():
        for tag, link in found.links:
            assert tag == "a" or not urlsplit(link).netloc, f"{path.relative_to(folder)}: {tag} {link}"
    for path in folder.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//", path.read_text()), path.name


def test_equations_are_drawn_and_none_is_left_over(site):
    folder, pages = site
    for document in DOCS.rglob("*.md"):
        text = re.sub(r"```.*?```|`[^`\n]*`", "", document.read_text(), flags=re.DOTALL)
        written = text.count("$$") // 2 + len(re.findall(r"\$[^$]+\$", text.replace("$$", "")))
        path = folder / document.relative_to(DOCS).with_suffix(".html")
        assert pages[path].equations == written, document.name
        assert "arithmatex" not in path.read_text(), document.name
    assert pages[folder / "model" / "mte.html"].equations > 5


def test_a_bar_in_a_table_s_code_is_a_bar(site):
    folder, _ = site
    assert "GN | none" in (folder / "paper_notes.html").read_text()
