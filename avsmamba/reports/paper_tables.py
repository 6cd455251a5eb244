"""Figures that the AVS-Mamba paper prints in its Tables I to VII, read from configs/: `(M_J, M_F)` in percent."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from avsmamba.config import yaml_io
from avsmamba.config.arguments import build
from avsmamba.config.variants import Variants
from avsmamba.utils import UserError

Score = tuple[float, float]

FULL = "full"  # the variant that is the whole model
ABLATIONS, METAFILES, OTHERS = "ablations.yaml", "metafiles", "other_methods.yaml"


class Row(NamedTuple):
    """One row of an ablation table: the paper's label, variant, what it changes, and (M_J, M_F) on MS3 and S4."""

    label: str
    variant: str
    about: str
    ms3: Score
    s4: Score

    def label_in(self, number: str) -> str:
        """Return the label with what it counts, for a place without the title of table `number`."""
        return f"{self.label} orders" if number == "VII" else self.label


@dataclass(frozen=True)
class _Scores:
    ms3: Score
    s4: Score


class Ablations:
    """Tables III to VII: the table of configs, title and rows by number, and the row of the whole model."""

    def __init__(self, configs: Path) -> None:
        self.file = configs / ABLATIONS
        self.variants = Variants(self.file, yaml_io.read(self.file))
        titled = self.variants.tables.items()
        self.tables = {n: (table.title, [self._row(*row) for row in table.rows.items()]) for n, table in titled}
        self.full = self._row("Ours", FULL)

    def _row(self, label: str, variant: str) -> Row:
        part = self.variants.variants.get(variant)
        if part is None:
            raise UserError(f"{self.file}: tables: no such variant: {variant}")
        scores = build(_Scores, part.published, self.file, f"variants.{variant}.published")
        return Row(label, variant, part.about, scores.ms3, scores.s4)

    def variant(self, config: str) -> str:
        """Return the name of a config without its base's: what is changed in the model."""
        base, _, variant = config.partition("_")
        return variant if base in self.variants.bases else config


@dataclass(frozen=True)
class ConfigFacts:
    """What a metafile says about one config: names for tables, sizes in pixels, and what the paper prints.

    The config's own size is the first; the figure, if there is one, is of that size.
    """

    backbone: str
    data: str
    sizes: tuple[int, ...]
    table: str | None = None
    row: str = ""
    M_J: float = 0.0
    M_F: float = 0.0


@dataclass(frozen=True)
class Metafile:
    """A method: its name, paper, the convention of its scores, and its configs by path under `configs/`."""

    name: str
    paper: str
    convention: str
    configs: dict[str, Any]


@dataclass(frozen=True)
class _Row:
    method: str
    row: str
    S4: Score
    MS3: Score
    AVSS: Score | None = None


@dataclass(frozen=True)
class _Others:
    order: list[str]
    rows: list[dict[str, Any]]
    reasons: dict[str, str]


class Methods:
    """Tables I and II, and the configs here of their methods.

    Attributes:
        configs: method and facts by the config's path under `configs/`, without its ending.
        scores: by method and row of the paper, then by data set.
        reasons: why a method has no config, by its name.
    """

    def __init__(self, configs: Path) -> None:
        self.configs: dict[str, tuple[Metafile, ConfigFacts]] = {}
        self.scores: dict[tuple[str, str], dict[str, Score]] = {}
        self._with_config: set[tuple[str, str, str]] = set()
        file = configs / METAFILES / OTHERS
        others = build(_Others, yaml_io.read(file), file)
        for path in sorted(p for p in file.parent.glob("*.yaml") if p != file):
            self._add(path, configs)
        for i, values in enumerate(others.rows):
            row = build(_Row, values, file, f"rows.{i}")
            self.scores[row.method, row.row] = {"S4": row.S4, "MS3": row.MS3} | ({"AVSS": row.AVSS} if row.AVSS else {})
        if set(others.order) != {method for method, _ in self.scores}:
            raise UserError(f"{file}: order: expected every method once, got {', '.join(others.order)}")
        self.reasons = others.reasons
        if unknown := {m for m, _, _ in self._with_config} & set(self.reasons) or set(self.reasons) - set(others.order):
            raise UserError(f"{file}: reasons: expected methods of 'order' without a config, got {min(unknown)}")
        self.scores = dict(sorted(self.scores.items(), key=lambda item: others.order.index(item[0][0])))

    def _add(self, file: Path, configs: Path) -> None:
        method = build(Metafile, yaml_io.read(file), file)
        for config, values in method.configs.items():
            facts = build(ConfigFacts, values, file, f"configs.{config}")
            if not (configs / f"{config}.yaml").is_file():
                raise UserError(f"{file}: configs.{config}: no such file: {configs / config}.yaml")
            if len({"table", "row", "M_J", "M_F"} & set(values)) not in (0, 4):
                raise UserError(f"{file}: configs.{config}: needs 'table', 'row', 'M_J' and 'M_F' together")
            self.configs[config] = method, facts
            if facts.table:
                self.scores.setdefault((method.name, facts.row), {})[facts.data] = facts.M_J, facts.M_F
                self._with_config.add((method.name, facts.row, facts.data))

    def published(self, config: str, size: int) -> Score | None:
        """Return what the paper prints for a config at a size; None where it prints nothing."""
        _, facts = self.configs[config]
        return (facts.M_J, facts.M_F) if facts.table and size == facts.sizes[0] else None

    def here(self, method: str, row: str, *data: str) -> str:
        """List those of the data sets for which a config of this method and row is here."""
        return ", ".join(d for d in data if (method, row, d) in self._with_config) or "–"
