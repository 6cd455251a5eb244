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
    """A base, or what a variant changes in each base.

    Attributes:
        about: one line.
        config: keys of a config; `_base_` is relative to the table's folder.
        published: (M_J, M_F) in percent by base, where a paper prints them.
    """

    about: str
    config: dict[str, Any] = field(default_factory=dict)
    published: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PaperTable:
    """A table of a paper: its title, and the variant of each row by the row's label."""

    title: str
    rows: dict[str, str]


class Variants:
    """The content of a table of configs.

    Args:
        file: its path, for errors.
        values: its content, with `bases`, `variants` and, where a paper has the variants, `tables`.

    Raises:
        UserError: naming the file and the key that is at fault.
    """

    def __init__(self, file: Path, values: dict[str, Any]) -> None:
        self.file = file
        groups = build(_Groups, values, file)
        self.bases = {k: build(Part, v, file, f"bases.{k}") for k, v in groups.bases.items()}
        self.variants = {k: build(Part, v, file, f"variants.{k}") for k, v in groups.variants.items()}
        self.tables = {k: build(PaperTable, v, file, f"tables.{k}") for k, v in groups.tables.items()}
        for number, table in self.tables.items():
            for label, variant in table.rows.items():
                if variant not in self.variants:
                    raise UserError(f"{file}: tables.{number}.rows.{label}: no variant {variant!r}")

    def names(self, base: str) -> list[str]:
        """Return the names of all variants of a base."""
        return [f"{base}_{variant}" for variant in self.variants]

    def parts(self, name: str) -> tuple[Part, Part]:
        """Return base and variant of a name.

        Raises:
            UserError: listing the names if it is not one of them.
        """
        for base in self.bases:
            if name in self.names(base):
                return self.bases[base], self.variants[name.removeprefix(f"{base}_")]
        known = f"{{{','.join(self.bases)}}}_{{{','.join(self.variants)}}}"
        if not name:
            raise UserError(f"{self.file}: holds variants; expected {self.file}#NAME with a name of {known}")
        every = [n for base in self.bases for n in self.names(base)]
        raise UserError(f"{self.file}#{name}: no such variant{near(name, every)}; known: {known}")


@dataclass(frozen=True)
class _Groups:
    bases: dict[str, Any]
    variants: dict[str, Any]
    tables: dict[str, Any] = field(default_factory=dict)
