"""Figures that the AVS-Mamba paper prints in its Tables I to VII, read from configs/: `(M_J, M_F)` in percent."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from avsmamba.config import yaml_io
from avsmamba.config.arguments import build
from avsmamba.config.variants import Part, Variants
from avsmamba.utils import UserError

Score = tuple[float, float]

FULL = "full"  # the variant that is the whole model
ABLATIONS, METAFILES, OTHERS = "ablations.yaml", "metafiles", "other_methods.yaml"


class Row(NamedTuple):
    """One row of an ablation table.

    Attributes:
        label: as the paper prints it.
        variant: its name in `configs/ablations.yaml`, without the base's.
        about: what it changes.
        ms3: (M_J, M_F) on MS3.
        s4: (M_J, M_F) on S4.
    """

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
    """Tables III to VII.

    Attributes:
        variants: the table of configs.
        tables: title and rows by number.
        full: the row of the whole model.
    """

    def __init__(self, configs: Path) -> None:
        self.file = configs / ABLATIONS
        self.variants = Variants(self.file, yaml_io.read(self.file))
        self.tables = {
            number: (table.title, [self._row(*labelled) for labelled in table.rows.items()])
            for number, table in self.variants.tables.items()
        }
        self.full = self._row("Ours", FULL)

    def _row(self, label: str, variant: str) -> Row:
        part = self.variants.variants.get(variant, Part(""))
        scores = build(_Scores, part.published, self.file, f"variants.{variant}.published")
        return Row(label, variant, part.about, scores.ms3, scores.s4)

    def variant(self, config: str) -> str:
        """Return the name of a config without its base's: what is changed in the model."""
        base, _, variant = config.partition("_")
        return variant if base in self.variants.bases else config


@dataclass(frozen=True)
class ConfigFacts:
    """What a metafile says about one config.

    Attributes:
        backbone: its name in tables.
        data: name of the data in tables.
        sizes: height and width in pixels: the config's own, then others to list.
        table: number of the paper's table with a figure for the config at its own size, or None.
        row: label of the row there.
        M_J, M_F: the figure, in percent.
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
class OtherRow:
    """A row of Table I or II whose method has no config here."""

    method: str
    row: str
    S4: Score
    MS3: Score
    AVSS: Score | None = None


@dataclass(frozen=True)
class _Others:
    order: list[str]
    rows: list[dict[str, Any]]


class Methods:
    """Tables I and II, and the configs here of their methods.

    Attributes:
        configs: method and facts by the config's path under `configs/`, without its ending.
        scores: by method and row of the paper, then by data set.
    """

    def __init__(self, configs: Path) -> None:
        self.configs: dict[str, tuple[Metafile, ConfigFacts]] = {}
        self.scores: dict[tuple[str, str], dict[str, Score]] = {}
        self._with_config: set[tuple[str, str, str]] = set()
        file = configs / METAFILES / OTHERS
        others = build(_Others, yaml_io.read(file), file)
        rows = [build(OtherRow, row, file, f"rows.{i}") for i, row in enumerate(others.rows)]
        files = sorted(f for f in file.parent.glob("*.yaml") if f != file)
        found = {m.name: (f, m) for f, m in ((f, build(Metafile, yaml_io.read(f), f)) for f in files)}
        if sorted(others.order) != sorted({*found, *(row.method for row in rows)}):
            raise UserError(f"{file}: order: expected every method once, got {', '.join(others.order)}")
        for name in others.order:
            if name in found:
                self._add(*found[name], configs)
            for row in rows:
                if row.method == name:
                    scores = {"S4": row.S4, "MS3": row.MS3, "AVSS": row.AVSS}
                    self.scores[name, row.row] = {data: score for data, score in scores.items() if score}

    def _add(self, file: Path, method: Metafile, configs: Path) -> None:
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
