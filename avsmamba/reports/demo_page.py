"""The demo's page: the training, the scores with each kind of sound, and pictures."""

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from avsmamba.reports.clips import evenly_spaced
from avsmamba.reports.curves import Curves, draw_curve, read_curves
from avsmamba.reports.pages import render
from avsmamba.utils import UserError, atomic_write, read_json
from avsmamba.visualization.canvas import write_png
from avsmamba.visualization.clip_picture import comparison

SOUNDS = {"real": "real sound", "silence": "silence", "shuffle": "another clip's sound"}
# The model listens if M_J is this much lower with another clip's sound, and this share of pixels marked in silence.
_DROP, _SILENT_SHARE = 0.25, 0.02
_VERSIONS = ("avsmamba", "commit", "python", "torch", "torchvision", "mmengine", "timm", "numpy", "platform")

Metrics = Mapping[str, Any]


def write_report(
    demo_dir: str | Path,
    clips: int = 6,
    readme_picture: str | Path | None = None,
    readme_clip: str | None = None,
) -> Path:
    """Write `index.html` into the folder of a demo.

    Reads the training's `env.json`, resolved config and `*/vis_data/scalars.json`, and `test_{sound}/metrics.json` and
    `test_{sound}/pictures/` for the sounds real, silence and shuffle. Joins the pictures of each clip in `compared/`,
    to which the page has relative links; the rest is inside the page.

    Args:
        demo_dir: work dir of the training.
        clips: number of clips to show, evenly spaced among those that have a picture for each sound.
        readme_picture: where to copy one picture with the real sound, or None.
        readme_clip: that picture's name without `.png`; default: the first clip that is shown.

    Returns:
        The page's path.

    Raises:
        UserError: naming the file that is missing or has other content than expected.
    """
    folder = Path(demo_dir)
    if clips < 1:
        raise UserError(f"--clips: expected at least 1, got {clips}")
    metrics = {sound: read_metrics(folder / f"test_{sound}" / "metrics.json", sound) for sound in SOUNDS}
    names = common_pictures(folder)
    shown = [names[i] for i in evenly_spaced(clips, len(names))]
    text = page(folder, metrics, read_curves(folder), shown, len(names))
    for name in shown:
        compare(folder, name)
    if readme_picture is not None:
        copy_picture(folder, f"{readme_clip}.png" if readme_clip else shown[0], Path(readme_picture))
    with atomic_write(folder / "index.html") as path:
        path.write_text(text, encoding="utf-8")
    return folder / "index.html"


def read_metrics(file: Path, sound: str) -> Metrics:
    """Read the output of `tools/test.py --audio {sound}`.

    Raises:
        UserError: if it is missing, of another sound, or lacks a score.
    """
    metrics = read_json(file)
    scores = [(key, name) for key in ("frame", "avsbench") for name in ("M_J", "M_F")]
    for keys in [("clips",), ("frames",), ("avsbench", "batch_size"), *scores]:
        value: Any = metrics
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, (int, float)):
            raise UserError(f"{file}: {'.'.join(keys)}: expected a number, as tools/test.py writes it, got {value!r}")
    if metrics.get("audio") != sound:
        raise UserError(f"{file}: expected the scores with --audio {sound}, got those with {metrics.get('audio')!r}")
    return metrics


def common_pictures(folder: Path) -> list[str]:
    """Return the sorted relative names of the pictures that the folders of all sounds hold.

    Raises:
        UserError: if a folder has no picture, or no name is in all.
    """
    names: set[str] | None = None
    for sound in SOUNDS:
        pictures = folder / f"test_{sound}" / "pictures"
        # Files that are being written have names that begin with a dot.
        found = {p.relative_to(pictures).as_posix() for p in pictures.rglob("*.png") if p.name[0] != "."}
        if not found:
            raise UserError(f"{pictures}: holds no picture; run tools/test.py --audio {sound} --show-dir {pictures}")
        names = found if names is None else names & found
    if not names:
        raise UserError(f"{folder}: test_*/pictures: no clip has a picture for each of {', '.join(SOUNDS)}")
    return sorted(names)


def compare(folder: Path, name: str) -> None:
    """Write `compared/{name}`: one clip with each sound.

    Raises:
        UserError: if its pictures are not from VisualizationHook, or their frames differ in size.
    """
    pictures = {}
    for sound, text in SOUNDS.items():
        file = folder / f"test_{sound}" / "pictures" / name
        with Image.open(file) as image:
            pictures[text] = np.asarray(image.convert("RGB"))
            size = json.loads(image.info.get("frame_size", "null"))
        if size is None:
            raise UserError(f"{file}: expected a picture that tools/test.py --show-dir wrote")
    try:
        write_png(folder / "compared" / name, comparison(pictures, tuple(size), name.removesuffix(".png")))
    except ValueError as error:
        raise UserError(f"{folder}: test_*/pictures/{name}: {error}") from None


def copy_picture(folder: Path, name: str, target: Path) -> None:
    """Write the picture `name` of the real sound to `target`, with the strongest compression of PNG."""
    source = folder / "test_real" / "pictures" / name
    if not source.is_file():
        raise UserError(f"{source}: no such picture")
    if target.suffix.lower() != ".png":
        raise UserError(f"--readme-picture: expected a name that ends with .png, got {target}")
    with Image.open(source) as image, atomic_write(target) as path:
        image.save(path, optimize=True)


def verdict(metrics: Mapping[str, Metrics]) -> str:
    """Return a sentence on whether the model listens, by the three tests."""
    real, shuffle = metrics["real"]["frame"]["M_J"], metrics["shuffle"]["frame"]["M_J"]
    share = metrics["silence"].get("foreground")
    drop = real - shuffle
    quiet = share is None or share <= _SILENT_SHARE
    if drop >= _DROP and quiet:
        answer = "The model listens"
    elif drop >= _DROP:
        answer = "The model listens, but marks too much in silence"
    elif drop > 0.05:
        answer = "The model listens only in part"
    else:
        answer = "The model does not listen"
    change = f"{abs(drop):.3f} {'lower' if drop >= 0 else 'higher'}"
    text = f"{answer}: with the real sound M_J is {real:.3f}, with another clip's sound {shuffle:.3f} ({change})"
    return text + ("." if share is None else f", and in silence it marks {100 * share:.2f} % of the pixels.")


def page(
    folder: Path, metrics: Mapping[str, Metrics], curves: Curves, shown: Sequence[str], number_of_pictures: int
) -> str:
    """Return the page as HTML."""
    env, config = read_json(folder / "env.json"), _config(folder)
    images = {
        label: base64.b64encode(draw_curve(points, label, colour, marks).encode()).decode()
        for points, label, colour, marks in (
            (curves.loss, "Training loss", "#3b6fd4", False),
            (curves.score, "M_J on the validation clips", "#d9731a", True),
        )
    }
    return render(
        "demo.html.j2",
        verdict=verdict(metrics),
        metrics=metrics,
        curves=curves,
        batch=_batch_size(config),
        machine=_machine(env),
        images=images,
        sounds=SOUNDS,
        drop=_DROP,
        share=_SILENT_SHARE,
        shown=shown,
        number_of_pictures=number_of_pictures,
        config=config.name,
        env=env,
        versions=[f"{name} {env[name]}" for name in _VERSIONS if env.get(name)],
        time=datetime.now().strftime("%Y-%m-%d %H:%M"),
    )


def _machine(env: Mapping[str, Any]) -> str:
    device, threads = str(env.get("device", "?")), env.get("threads", "?")
    return f"{threads} CPU threads" if device == "cpu" else device


def _config(folder: Path) -> Path:
    files = sorted(folder.glob("*.yaml"), key=lambda p: p.stat().st_mtime)
    if not files:
        raise UserError(f"{folder / '*.yaml'}: no such file; tools/train.py writes the resolved config there")
    return files[-1]


def _batch_size(config: Path) -> int:
    try:
        return int(yaml.safe_load(config.read_text(encoding="utf-8"))["train_dataloader"]["batch_size"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        raise UserError(f"{config}: expected a config with train_dataloader.batch_size") from None
