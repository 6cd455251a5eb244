"""Scores and text of a model's card: `card.json` and `README.md` in the hub's form."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from avsmamba.markdown import table
from avsmamba.model_zoo.folder import CARD
from avsmamba.utils import UserError, read_json

TAGS = ("audio-visual-segmentation", "video-segmentation", "pytorch")
PER_FRAME = "frame/own"  # the convention's key, see docs/scores.md
FROM_ENV = ("command", "commit", "seed", "device", "torch")


def read_scores(word: str) -> list[dict[str, Any]]:
    """Read a file of `avsmamba test` to a row for each sound: `of`, `sound`, `clips`, `frames`, `M_J`, `M_F`.

    M_J and M_F are against the clip's own masks (protocol frame), also with a wrong sound. A row of `robustness.json`
    also has `marked_frames`, the share of frames with a marked pixel. A row of `metrics.json` has `convention`: name,
    key, M_J and M_F of the method's own paper.

    Args:
        word: `PATH` or `WHAT=PATH`, where WHAT names the data (default: the name of the file's folder).

    Raises:
        UserError: if the file is missing or of another kind.
    """
    what, equals, text = word.partition("=")
    path = Path(text if equals else word)
    found = read_json(path)
    counts: dict[str, Any] = {"of": what if equals else path.resolve().parent.name}
    counts |= {key: found[key] for key in ("clips", "frames", "amp") if key in found}
    try:
        if "sounds" in found:
            rows = [
                {
                    **counts,
                    "sound": sound,
                    **_m(row["own"]["frame"]),
                    "marked_frames": round(row["marked"]["frames"], 4),
                }
                for sound, row in found["sounds"].items()
            ]
        else:
            rows = [{**counts, "sound": found["audio"], **_m(found["frame"])}]
            if "convention" in found:
                own = found["convention"]
                rows[0]["convention"] = {"name": own["name"], "key": own["key"], **_m(own)}
    except (KeyError, TypeError):
        raise UserError(f"{path}: expected metrics.json or robustness.json of avsmamba test") from None
    for env in [path.parent / "env.json", *sorted(path.parent.glob("*/env.json"))][-1:]:
        if env.is_file():
            rows[0]["command"] = read_json(env)["command"]
    return rows


def front_matter(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return a card's metadata for the hub: license, tags, and `model-index` with the scores with the real sound."""
    results = []
    for row in card["scores"]:
        if row["sound"] != "real":  # there a low score is the good one
            continue
        metrics = [
            {
                "type": name,
                "name": f"{name} ({convention})",
                "value": scores[name],
                "args": {"convention": key, "sound": row["sound"]},
            }
            for convention, key, scores in _conventions(row)
            for name in ("M_J", "M_F")
        ]
        kind = re.sub(r"[^a-z0-9]+", "-", row["of"].lower()).strip("-")
        results.append(
            {
                "task": {"type": TAGS[0], "name": "Audio-Visual Segmentation"},
                "dataset": {"type": kind, "name": row["of"], "split": card.get("split", "test")},
                "metrics": metrics,
            }
        )
    values = {"license": card["license"], "library_name": "avsmamba", "tags": [*TAGS]}
    return values | ({"model-index": [{"name": card["name"], "results": results}]} if results else {})


def readme(card: Mapping[str, Any]) -> str:
    """Format a card as Markdown, with the metadata for the hub at its head."""
    training, model = card["training"], card.get("hub") or f"./{card['name']}"
    head = yaml.safe_dump(front_matter(card), sort_keys=False, allow_unicode=True, width=1000)
    lines = [
        f"---\n{head}---",
        "",
        f"# {card['name']}",
        "",
        card["about"],
        "",
        "```python",
        "import avsmamba",
        "",
        f'model = avsmamba.load_model("{model}")',
        'model.predict("clip.mp4").save("predictions")',
        "```",
        "",
        f"{card['parameters']} parameters, {card['dtype']}. Written by `avsmamba publish`, as is `{CARD}`, which has "
        "the same content for programs.",
        "",
        table(
            ("file", "bytes", "SHA-256"),
            [(f"`{name}`", file["bytes"], f"`{file['sha256']}`") for name, file in card["files"].items()],
            "lrl",
        ),
    ]
    if card["scores"]:
        titles = ("scored on", "sound", "convention", "clips", "frames", "M_J", "M_F", "frames marked")
        rows = []
        for row in card["scores"]:
            marked = f"{100 * row['marked_frames']:.1f} %" if "marked_frames" in row else "–"
            for convention, _, scores in _conventions(row):
                values = (f"{scores['M_J']:.4f}", f"{scores['M_F']:.4f}", marked)
                rows.append((row["of"], row["sound"], convention, row["clips"], row["frames"], *values))
        lines += [
            "",
            table(titles, rows, "lllrrrrr"),
            "",
            f"M_J and M_F are against the clips' own masks, also with a wrong sound: there the model should score low "
            f"and mark no frame. `{PER_FRAME}` averages over frames at the size of their masks; other conventions are "
            "those of papers' scripts (docs/scores.md of avsmamba).",
        ]
    commands = [*training["before"], *([training["command"]] if "command" in training else [])]
    commands += [row["command"] for row in card["scores"] if "command" in row]
    if commands:
        lines += ["", "Commands of the training and the tests:", "", "```bash", *commands, "```"]
    facts = [f"{key} {training[key]}" for key in ("iterations", "date", *FROM_ENV[1:]) if key in training]
    return "\n".join(lines + (["", f"{', '.join(facts)}."] if facts else [])) + "\n"


def _conventions(row: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield title, key, and M_J and M_F of each convention of a row."""
    yield PER_FRAME, PER_FRAME, row
    own = row.get("convention")
    if own and own["key"] != PER_FRAME:
        yield f"{own['key']}, {own['name']}", own["key"], own


def _m(scores: Mapping[str, float]) -> dict[str, float]:
    return {key: round(float(scores[key]), 4) for key in ("M_J", "M_F")}
