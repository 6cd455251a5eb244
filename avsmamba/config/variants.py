"""A table of configs: `FILE.yaml#BASE_VARIANT` is a base of the table with the changes of one of its variants."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avsmamba.config.arguments import build, near
from avsmamba.utils import UserError

ENDINGS = (".yaml", ".yml")


def split_name(config: str | Path) -> tuple[Path, str]:
    """Split `FILE.yaml#NAME` into path and name; the name is empty where the config is a file of its own."""
    file, mark, name = str(config).rpartition("#")
    return (Path(file), name) if mark and file.endswith(ENDINGS) else (Path(config), "")


def config_name(config: str | Path) -> str:
    """Return the name of a config: the variant's, else the file's without its ending."""
    path, name = split_name(config)
    return name or path.stem


@dataclass(frozen=True)
class Part:
    """A base, or what a variant changes in each base; `published` are a paper's (M_J, M_F) in percent by base."""

    about: str
    config: dict[str, Any] = field(default_factory=dict)
    published: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PaperTable:
    """A table of a paper: its title, and the variant of each row by the row's label."""

    title: str
    rows: dict[str, str]


@dataclass(frozen=True)
class _Content:
    bases: dict[str, Any]
    variants: dict[str, Any]
    tables: dict[str, Any] = field(default_factory=dict)


class Variants:
    """The content of a table of configs: bases, variants and, where a paper has the variants, its tables.

    Raises:
        UserError: naming the file and the key that is at fault.
    """

    def __init__(self, file: Path, values: dict[str, Any]) -> None:
        self.file, content = file, build(_Content, values, file)
        self.bases = {k: build(Part, v, file, f"bases.{k}") for k, v in content.bases.items()}
        self.variants = {k: build(Part, v, file, f"variants.{k}") for k, v in content.variants.items()}
        self.tables = {k: build(PaperTable, v, file, f"tables.{k}") for k, v in content.tables.items()}

    def names(self, *bases: str) -> list[str]:
        """Return the names of all variants of some bases, by default of all."""
        return [f"{base}_{variant}" for base in bases or self.bases for variant in self.variants]

    def parts(self, name: str) -> tuple[Part, Part]:
        """Return base and variant of a name; raise a UserError that lists the names if it is not one of them."""
        for base in self.bases:
            if name in self.names(base):
                return self.bases[base], self.variants[name.removeprefix(f"{base}_")]
        known = f"{{{','.join(self.bases)}}}_{{{','.join(self.variants)}}}"
        if not name:
            raise UserError(f"{self.file}: holds variants; expected {self.file}#NAME with a name of {known}")
        raise UserError(f"{self.file}#{name}: no such variant{near(name, self.names())}; known: {known}")
