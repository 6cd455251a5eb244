"""The values that a training logged, read from `{work_dir}/{timestamp}/vis_data/scalars.json`."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from avsmamba.utils import UserError

SCALARS = "vis_data/scalars.json"
Record = dict[str, Any]


def scalar_files(work_dir: Path) -> list[Path]:
    """List the files of a work dir, of a resumed run several, the oldest first.

    Raises:
        UserError: if there is none.
    """
    files = sorted(work_dir.glob(f"*/{SCALARS}"))
    if not files:
        raise UserError(f"{work_dir / '*' / SCALARS}: no such file; train with the LocalVisBackend first")
    return files


def read_records(work_dir: Path) -> list[Record]:
    """Read the values of a training, each with its iteration as `iter`; a later run takes precedence.

    Raises:
        UserError: if there is no file, or a line is damaged, except for the last one of a run that was killed.
    """
    records: list[Record] = []
    for file in scalar_files(work_dir):
        new = parse(file, file.read_text(encoding="utf-8").splitlines())
        first = min((r["iter"] for r in new), default=None)
        records = [r for r in records if first is None or r["iter"] < first] + new
    return records


def parse(file: Path, lines: list[str], before: Iterable[Record] = ()) -> list[Record]:
    """Return the records in lines of a file.

    Args:
        file: for the error's text.
        lines: JSON objects.
        before: records of the lines above them.
    """
    records = list(before)
    count = len(records)
    for number, line in enumerate(lines, count + 1):
        try:
            record = json.loads(line)
            record["step"] += 0
        except (ValueError, KeyError, TypeError):
            if number == count + len(lines):
                break
            raise UserError(f"{file}: line {number}: expected a JSON object with a number 'step'") from None
        if "iter" not in record:
            # An old log of a training that counts epochs has its scores by epoch.
            epochs = [r for r in records if r.get("epoch") == record["step"]] if "loss" not in record else []
            record["iter"] = epochs[-1]["iter"] if epochs else record["step"]
        records.append(record)
    return records[count:]
