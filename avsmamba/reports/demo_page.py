"""The demo's page: what was trained, its scores with each kind of sound, and pictures, from the files of the runs."""

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import yaml
from PIL import Image

from avsmamba.reports.curves import Curves, draw_curve, read_curves
from avsmamba.utils import UserError, atomic_write
from avsmamba.visualization.hook import write_png
from avsmamba.visualization.pictures import comparison

SOUNDS = {"real": "real sound", "silence": "silence", "shuffle": "another clip's sound"}
# What counts as listening: this much lower M_J with another clip's sound, at most this share of pixels in silence.
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

    It reads the training's `env.json`, resolved config and `*/vis_data/scalars.json`, and for each of real, silence
    and shuffle `test_{sound}/metrics.json` and `test_{sound}/pictures/`. The pictures of a clip are put together into
    `compared/`, to which the page refers by relative paths; all else is inside the page.

    Args:
        demo_dir: work dir of the training.
        clips: number of clips to show, spread evenly over those that have a picture for each sound.
        readme_picture: where to copy one picture with the real sound, or None.
        readme_clip: that picture's name without `.png`; default: the first clip that is shown.

    Returns:
        The page's path.

    Raises:
        UserError: naming the file that is missing or does not hold what was expected.
    """
    folder = Path(demo_dir)
    if clips < 1:
        raise UserError(f"--clips: expected at least 1, got {clips}")
    metrics = {sound: read_metrics(folder / f"test_{sound}" / "metrics.json", sound) for sound in SOUNDS}
    names = common_pictures(folder)
    shown = [names[i * len(names) // min(clips, len(names))] for i in range(min(clips, len(names)))]
    page = render(folder, metrics, read_curves(folder), shown, len(names))
    for name in shown:
        compare(folder, name)
    if readme_picture is not None:
        copy_picture(folder, f"{readme_clip}.png" if readme_clip else shown[0], Path(readme_picture))
    with atomic_write(folder / "index.html") as path:
        path.write_text(page, encoding="utf-8")
    return folder / "index.html"


def read_metrics(file: Path, sound: str) -> Metrics:
    """Read what `tools/test.py --audio {sound}` wrote.

    Raises:
        UserError: if it is missing, of another sound, or lacks a score.
    """
    metrics = _read_json(file)
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
    """Sorted relative names of the pictures that each sound's folder holds.

    Raises:
        UserError: if a folder has none, or no name is in all.
    """
    names: set[str] | None = None
    for sound in SOUNDS:
        pictures = folder / f"test_{sound}" / "pictures"
        # Names that begin with a dot are files that are being written.
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
        UserError: if its pictures were not made by VisualizationHook, or of frames of different sizes.
    """
    pictures = {}
    for sound, words in SOUNDS.items():
        file = folder / f"test_{sound}" / "pictures" / name
        with Image.open(file) as image:
            pictures[words] = np.asarray(image.convert("RGB"))
            size = json.loads(image.info.get("frame_size", "null"))
        if size is None:
            raise UserError(f"{file}: expected a picture that tools/test.py --show-dir wrote")
    try:
        write_png(folder / "compared" / name, comparison(pictures, tuple(size), name.removesuffix(".png")))
    except ValueError as error:
        raise UserError(f"{folder}: test_*/pictures/{name}: {error}") from None


def copy_picture(folder: Path, name: str, target: Path) -> None:
    """Write the picture `name` of the real sound to `target`, compressed as far as PNG goes."""
    source = folder / "test_real" / "pictures" / name
    if not source.is_file():
        raise UserError(f"{source}: no such picture")
    if target.suffix.lower() != ".png":
        raise UserError(f"--readme-picture: expected a name that ends with .png, got {target}")
    with Image.open(source) as image, atomic_write(target) as path:
        image.save(path, optimize=True)


def verdict(metrics: Mapping[str, Metrics]) -> str:
    """What the three tests say of the question whether the model listens."""
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


def render(
    folder: Path, metrics: Mapping[str, Metrics], curves: Curves, shown: Sequence[str], number_of_pictures: int
) -> str:
    """The page as HTML."""
    env, config = _read_json(folder / "env.json"), _config(folder)
    batch = _batch_size(config)
    images = [
        _curve(curves.loss, "Training loss", "#3b6fd4", False),
        _curve(curves.score, "M_J on the validation clips", "#d9731a", True),
    ]
    minutes = f"{curves.seconds / 60:.1f} minutes"
    return _PAGE.format(
        style=_STYLE,
        verdict=escape(verdict(metrics)),
        clips=metrics["real"]["clips"],
        training=f"{curves.iterations:,} iterations of {batch} clips, {minutes} on {escape(_machine(env))}",
        curves="".join(images),
        waiting=f"{100 * curves.waiting:.1f} %",
        rows="".join(_row(sound, m) for sound, m in metrics.items()),
        frames=f"{metrics['real']['frames']:,}",
        batch_size=metrics["real"]["avsbench"]["batch_size"],
        drop=_DROP,
        share=f"{100 * _SILENT_SHARE:.0f} %",
        shown=f"{len(shown)} of {number_of_pictures}",
        pictures="".join(_clip(name) for name in shown),
        config=f'<a href="{quote(config.name)}">{escape(config.name)}</a>',
        command=escape(str(env.get("command", "?"))),
        seed=escape(str(env.get("seed", "?"))),
        versions=" · ".join(f"{escape(name)} {escape(str(env[name]))}" for name in _VERSIONS if env.get(name)),
        time=datetime.now().strftime("%Y-%m-%d %H:%M"),
    )


def _curve(points: Sequence[tuple[int, float]], label: str, colour: str, marks: bool) -> str:
    data = base64.b64encode(draw_curve(points, label, colour, marks).encode()).decode()
    return f'<img alt="{escape(label)}, by iteration" src="data:image/svg+xml;base64,{data}">'


def _row(sound: str, metrics: Metrics) -> str:
    share = metrics.get("foreground")
    cells = [f"{metrics[key][name]:.4f}" for key in ("frame", "avsbench") for name in ("M_J", "M_F")]
    cells.append("–" if share is None else f"{100 * share:.2f} %")
    return f"<tr><th>{escape(SOUNDS[sound])}</th>" + "".join(f"<td>{c}</td>" for c in cells) + "</tr>"


def _clip(name: str) -> str:
    path = quote(f"compared/{name}")
    links = " · ".join(
        f'<a href="{quote(f"test_{sound}/pictures/{name}")}">{escape(words)}</a>' for sound, words in SOUNDS.items()
    )
    title = escape(name.removesuffix(".png"))
    return (
        f'<figure><a href="{path}"><img loading="lazy" alt="{title}: frames, truth, and sound and prediction with each '
        f'kind of sound" src="{path}"></a><figcaption>Single pictures: {links}</figcaption></figure>'
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


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except ValueError as error:
        raise UserError(f"{file}: is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{file}: expected a JSON object")
    return value


_STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #fff; color: #22262e; font: 16px/1.55 system-ui, "Segoe UI", Roboto, sans-serif; }
header, section, footer { max-width: 62rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.5rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .75rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
.verdict { font-size: 1.15rem; border-left: 4px solid #d9731a; padding: .25rem 0 .25rem 1rem; margin: 1.25rem 0; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1rem; }
img { display: block; width: 100%; height: auto; }
.table { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .7rem; text-align: right; border-bottom: 1px solid #e3e6eb; white-space: nowrap; }
th { font-weight: 500; } tbody th, thead th:first-child { text-align: left; }
thead th { color: #5b6270; font-size: .9rem; } tbody tr:first-child { font-weight: 600; }
tbody tr:first-child th { font-weight: 600; }
.wide { max-width: 80rem; }
.wide > h2, .wide > p { max-width: 62rem; margin-left: auto; margin-right: auto; }
.clips { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 34rem), 1fr)); gap: 1rem; }
figure { margin: 0; border: 1px solid #e3e6eb; border-radius: 6px; overflow: hidden; }
figcaption { padding: .5rem 1rem .75rem; color: #5b6270; font-size: .9rem; }
.note, footer { color: #5b6270; font-size: .9rem; }
footer { padding-top: 2rem; padding-bottom: 3rem; overflow-wrap: anywhere; }
a { color: #2a5bb8; }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>avsmamba: the demo</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>avsmamba: does the model listen?</h1>
<p>A small AVS-Mamba was trained from scratch to outline, in every frame of a clip, the objects that make the sound
({training}). Then it met {clips} clips that it had never seen, three times: with their own sound, with silence, and
with the sound of another clip. The frames stay the same, so only a model that listens can tell these apart.</p>
<p class="verdict">{verdict}</p>
</header>
<section>
<h2>Training</h2>
<div class="curves">{curves}</div>
<p class="note">Waiting for data took {waiting} of an iteration. The checkpoint with the best M_J on the validation
clips was tested.</p>
</section>
<section>
<h2>Scores</h2>
<div class="table"><table>
<thead>
<tr><th>what it heard</th><th>M_J</th><th>M_F</th><th>M_J, AVSBench</th><th>M_F, AVSBench</th><th>foreground</th></tr>
</thead>
<tbody>{rows}</tbody>
</table></div>
<p class="note">M_J is the mean overlap of prediction and truth (intersection over union), M_F the F-measure; both go
from 0 to 1. Each of the {frames} frames counts once; the AVSBench columns average over batches of {batch_size}, as the
public scripts do. Foreground is the share of pixels that the model marks. Listening is taken to be shown by an M_J at
least {drop} lower with another clip's sound, and at most {share} foreground in silence.</p>
</section>
<section class="wide">
<h2>Pictures</h2>
<p class="note">{shown} test clips, evenly spaced by name, not chosen by eye. What sounds keeps its colours and has an
outline, green for the truth and orange for the prediction; the rest is dimmed. The truth belongs to the real sound.</p>
<div class="clips">{pictures}</div>
</section>
<footer>
<p>Config {config}, seed {seed}, command <code>{command}</code></p>
<p>{versions}</p>
<p>Page made {time}.</p>
</footer>
</body>
</html>
"""
