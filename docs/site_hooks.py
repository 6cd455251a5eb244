"""Hooks of mkdocs.yml: pages from outside docs/, links to source files, equations as MathML.

On a code host, the links of the same Markdown lead to files of the repository. For the site a page is generated for
each linked source file when the site is built; nothing is copied into docs/.
"""

import html
import os
import posixpath
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
# Pages of the site that are files of the repository outside docs/.
OUTSIDE = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md", "models.md": "models/README.md"}
# Pages of repository files that have another name on the site.
AS_PAGE = {"README.md": "index.md"} | {name: page for page, name in OUTSIDE.items()}
README_MARK = "<!-- README -->"  # replaced by the README up to its second section
README_END = "\n## What is reproduced"
LANGUAGES = {".py": "python", ".yaml": "yaml", ".cpp": "cpp", ".h": "cpp", ".inl": "cpp", ".cu": "cpp", ".cuh": "cpp"}
FENCE = re.compile(r"(^(?:```|~~~).*?^(?:```|~~~)\s*$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(\]\()([^)\s#]+)([^)]*\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, source in OUTSIDE.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text(encoding="utf-8")))
    sources: set[str] = set()
    for file in files.documentation_pages():
        text = with_readme(file.content_string) if file.src_uri == "index.md" else file.content_string
        for part in FENCE.split(text)[::2]:
            for link in LINK.findall(part):
                target = repository_path(link[1], file.src_uri)
                if target and target not in AS_PAGE and (ROOT / target).is_file():
                    sources.add(target)
    for target in sorted(sources):
        files.append(File.generated(config, f"source/{target}.md", content=source_page(target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    where = page.file.src_uri
    if where.startswith("source/"):
        return markdown
    if where == "index.md":
        markdown = with_readme(markdown)

    def on_site(match: re.Match[str]) -> str:
        before, link, after = match.groups()
        target = repository_path(link, where)
        if target is None:
            return match[0]
        inside = target.removeprefix("docs/") if target.startswith("docs/") else AS_PAGE.get(target)
        return before + posixpath.relpath(inside or f"source/{target}.md", posixpath.dirname(where) or ".") + after

    parts = FENCE.split(markdown)
    parts[::2] = [LINK.sub(on_site, part) for part in parts[::2]]
    return "".join(parts)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    for tag, opening, closing, display in (("div", r"\\\[", r"\\\]", "block"), ("span", r"\\\(", r"\\\)", "inline")):
        pattern = rf'<{tag} class="arithmatex">\s*{opening}(.*?){closing}\s*</{tag}>'
        content = re.sub(pattern, lambda m, d=display: mathml(m[1], d, page), content, flags=re.DOTALL)
    # Table cells need \| for a bar in code; Python-Markdown does not remove the backslash.
    return re.sub(r"<td.*?</td>", lambda m: m[0].replace(r"\|", "|"), content, flags=re.DOTALL)


def mathml(tex: str, display: str, page: Page) -> str:
    """Convert an equation to MathML, which browsers render without a script."""
    converted = convert(" ".join(html.unescape(tex).split()), display=display)
    if "\\" in converted:
        raise PluginError(f"{page.file.src_uri}: cannot be written as MathML: {tex}")
    # As an operator, a name would have spaces around it, also before parentheses.
    return re.sub(r"<mo>([A-Za-z]{2,})</mo>", r"<mi>\1</mi>", converted)


def repository_path(link: str, page: str) -> str | None:
    """Return the repository path of a page's relative link; None for other links and those between the site's pages."""
    if re.match(r"[a-z]+:|/", link):
        return None
    origin = posixpath.dirname(OUTSIDE.get(page, f"docs/{page}"))
    target = posixpath.normpath(posixpath.join(origin, link))
    if page not in OUTSIDE and target.startswith("docs/"):
        return None
    return None if target.startswith("..") else target


def with_readme(markdown: str) -> str:
    """Insert the README's first part into the index, with links relative to docs/."""
    if README_MARK not in markdown:
        raise PluginError(f"docs/index.md: {README_MARK} is missing")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first, end, _ = readme.partition(README_END)
    if not end:
        raise PluginError(f"README.md: expected a section{README_END!r}")
    first = first.partition("\n")[2].strip()
    first = LINK.sub(lambda m: m[1] + os.path.relpath(m[2], "docs") + m[3] if "://" not in m[2] else m[0], first)
    return markdown.replace(README_MARK, first)


def source_page(path: str) -> str:
    text = (ROOT / path).read_text(encoding="utf-8")
    language = LANGUAGES.get(Path(path).suffix, "text")
    head = f"---\ntitle: {Path(path).name}\nsearch:\n  exclude: true\nhide: [toc]\n---\n\n# `{path}`\n\n"
    return f'{head}````{language} linenums="1"\n{text.rstrip()}\n````\n'
