"""`avsmamba check-data`: list every faulty file of the data sets of a config."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from avsmamba.config.load import LOADERS, data_sets, load_config, parse_options
from avsmamba.datasets.readers import attempt
from avsmamba.registry import DATASETS
from avsmamba.utils import UserError


def check_data(config: str | Path, data_root: str | None = None, options: Sequence[str] = ()) -> int:
    """Print every fault of the data sets of a config, one line each, and their number; show progress on stderr.

    Args:
        config: YAML file.
        data_root: folder with `Single-source/`, `Multi-sources/` and `AVSS/`.
        options: `key=value` overrides of the config.

    Returns:
        The number of faults.

    Raises:
        UserError: if the config is invalid or has no data set.
    """
    cfg = load_config(config, parse_options(options), data_root)
    configs: list[dict[str, Any]] = []
    for loader in LOADERS:
        for found in data_sets((cfg.get(loader) or {}).get("dataset")):
            # Transforms and replaced sounds are irrelevant to faults of files.
            values = {k: {"pipeline": [], "audio": "real"}.get(k, v) for k, v in found.items()}
            if values not in configs:
                configs.append(values)
    if not configs:
        raise UserError(f"{config}: has no data set to check")
    return check_data_sets(configs, str(config))


def check_data_sets(configs: Sequence[dict[str, Any]], source: str) -> int:
    """Do the work of `check_data` for configs of data sets; `source` names where they are from, for errors."""
    faults: set[str] = set()
    datasets = []
    for values in configs:
        problems: list[str] = []
        dataset = attempt(problems, DATASETS.build, values)
        if dataset is not None:
            datasets.append(dataset)
            if not hasattr(dataset, "faults"):
                raise UserError(f"{source}: {values['type']} has no method 'faults', so it cannot be checked")
        _print_new(problems, faults)
    clips = sum(map(len, datasets))
    with tqdm(total=clips, unit="clip", dynamic_ncols=True, disable=not clips) as bar:
        for dataset in datasets:
            bar.set_description(f"{dataset.metainfo['subset']} {dataset.metainfo['split']}")
            for index in range(len(dataset)):
                _print_new(dataset.faults(index), faults)
                bar.update()
    print(f"{clips} clips of {len(datasets)} data sets, {len(faults)} {'fault' if len(faults) == 1 else 'faults'}")
    return len(faults)


def _print_new(problems: Sequence[str], seen: set[str]) -> None:
    """Print the problems that are not in `seen`; several data sets read the same table of clips."""
    for problem in problems:
        if problem not in seen:
            seen.add(problem)
            tqdm.write(problem, file=sys.stdout)
