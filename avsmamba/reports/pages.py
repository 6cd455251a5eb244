"""Render pages from the Jinja templates in `templates/`."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

_ENVIRONMENT = Environment(
    loader=PackageLoader(__package__),
    autoescape=select_autoescape(["html.j2"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(template: str, **values: Any) -> str:
    """Render a template; in `*.html.j2` values are escaped, and an unknown name is an error in any."""
    return _ENVIRONMENT.get_template(template).render(values)
