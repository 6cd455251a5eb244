"""Score a checkpoint with the real sound and with wrong ones: `avsmamba test --robustness`.

With a wrong sound the correct mask is empty, as in AVSBench-Robust (Li et al., arXiv 2502.00358). The log-mel of every
sound is computed from its waveform by the same code, unless the config's data set says otherwise.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process

from avsmamba.config.load import data_sets
from avsmamba.datasets.avsbench import AVSBench
from avsmamba.datasets.replaced_sound import mismatch_summary
from avsmamba.engine.distributed import process_group
from avsmamba.engine.evaluate import config_for_test, report, use_mixed_precision
from avsmamba.engine.runner import AVSRunner
from avsmamba.markdown import table
from avsmamba.registry import DATASETS
from avsmamba.utils import atomic_write

SOUNDS = ("real", "silence", "noise", "swap")
_KNOWN = {
    "visible": "the table of clips lists all visible objects: a swapped sound is of none of them",
    "category": "the table of clips lists sounding objects, but not silent visible ones: a swapped sound is of another "
    "category than the clip's own, but may be of a visible object",
    "nothing": "the sounding objects of the clips are not known: a swapped sound is any other clip's, and may be of a "
    "visible object",
}
_REAL_FEATURES = {
    "wav": "computed from their wavs",
    "file": "from their log-mel files, or computed from their wavs without one",
    None: "as the data set reads them",
}
_WRONG_FEATURES = {
    "vggish": "likewise, noise and silence always computed",
    "librosa": "computed with librosa's parameters as\n"
    "AVSBench-Robust's released ones: their statistics alone identify them",
    None: "likewise",
}


def robustness(
    config: str | Path,
    checkpoint: str | Path,
    work_dir: str | None = None,
    out: str | None = None,
    show_dir: str | None = None,
    launcher: str = "none",
    options: Sequence[str] = (),
    data_root: str | None = None,
    amp: bool = False,
) -> dict[str, Any]:
    """Score a checkpoint with each of `SOUNDS`, print a table and write `robustness.json` and `robustness.md`.

    Args:
        config: YAML file.
        checkpoint: file with all of the model's weights.
        work_dir: for the files and the log; default: the config's, else `work_dirs/` and the config's name.
        out: folder for the predicted masks, in a folder for each sound.
        show_dir: folder for pictures, in a folder for each sound.
        launcher: 'none', 'pytorch' or 'slurm'.
        options: `key=value` strings that override the config.
        data_root: folder with `Single-source/` and `Multi-sources/`.
        amp: run the model in mixed precision (bfloat16 on the CPU).

    Returns:
        The content of `robustness.json`, see `summary`.

    Raises:
        UserError: if the config, its data or the checkpoint is missing or faulty.
    """
    scores: dict[str, Mapping[str, Any]] = {}
    swapped: Mapping[str, Any] = {}
    features: Mapping[str, Any] = {}

    def prepared(sound: str) -> Config:
        masks, pictures = (None if folder is None else str(Path(folder) / sound) for folder in (out, show_dir))
        cfg = config_for_test(config, checkpoint, sound, work_dir, masks, pictures, options, data_root)
        add_metric(cfg, {"type": "FalsePositives"})
        use_waveforms(cfg)
        return cfg

    first = prepared(SOUNDS[0])
    with process_group(first, launcher):
        for sound in SOUNDS:
            cfg = prepared(sound)
            cfg.launcher, cfg.model_wrapper_cfg = first.launcher, first.get("model_wrapper_cfg")
            runner = AVSRunner.from_cfg(cfg)
            if amp:
                use_mixed_precision(runner)
            scores[sound] = runner.test()
            if sound == "swap":
                dataset = runner.test_dataloader.dataset
                clips = getattr(dataset, "clips", None)
                swapped = {"known": "nothing", "clips_without": None} if clips is None else mismatch_summary(clips)
                features = {key: getattr(dataset, key, None) for key in ("log_mel_from", "negative_features")}
                if isinstance(dataset, AVSBench):
                    features = {**features, "clips_without_wav": dataset.clips_without_wav()}
        result = summary(scores, swapped, features)
        if is_main_process():
            text = table_and_notes(result)
            for name, content in (("robustness.json", json.dumps(result, indent=2)), ("robustness.md", text)):
                with atomic_write(Path(cfg.work_dir) / name) as path:
                    path.write_text(content + "\n", encoding="utf-8")
            print(text)
            print(f"written to {Path(cfg.work_dir) / 'robustness.json'} and robustness.md")
    return result


def add_metric(cfg: Config, metric: dict[str, Any]) -> None:
    """Add a metric to a config's test."""
    evaluator = cfg.test_evaluator
    if isinstance(evaluator, dict) and "metrics" in evaluator:
        metrics = evaluator["metrics"]
        evaluator["metrics"] = [*(metrics if isinstance(metrics, (list, tuple)) else [metrics]), metric]
    else:
        cfg.test_evaluator = [*(evaluator if isinstance(evaluator, (list, tuple)) else [evaluator]), metric]


def use_waveforms(cfg: Config) -> None:
    """Let the data sets of a config's test compute real sounds' log-mel too, unless they set `log_mel_from`."""
    for dataset in data_sets(cfg.test_dataloader.dataset):
        kind = DATASETS.get(str(dataset.get("type")))
        if isinstance(kind, type) and issubclass(kind, AVSBench):
            dataset.setdefault("log_mel_from", "wav")


def summary(
    scores: Mapping[str, Mapping[str, Any]],
    swapped: Mapping[str, Any],
    features: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the content of `robustness.json`.

    For each sound, `own` has the scores against the clip's own masks, as without `--robustness`; `right` has those
    against the correct masks, which are empty with a wrong sound. There M_J is the IoU of the backgrounds, 1 minus the
    share of marked pixels, and M_F is null, since it is not defined for empty masks. `marked` has the shares of marked
    pixels and of frames with a marked pixel: with a wrong sound the false-positive rates. `silent` has the same for the
    frames whose own mask is empty.

    For each wrong sound, `gap` has `own_M_J` and `own_M_F`, the scores against the own masks with the real sound minus
    those with this one (how much the model depends on the sound); `right_M_J`, the real M_J minus the one against the
    empty masks; `marked_ratio`, the pixels marked with this sound over those marked with the real one (null if there
    are none).

    `global` has the values of `global_scores`: for each wrong sound, and at the top for the mean of their rates.
    `features` says how the sounds' log-mel was computed.
    """
    sounds: dict[str, Any] = {}
    for sound, values in scores.items():
        own = report(values, sound)
        own = {key: own[key] for key in ("frame", "avsbench")}
        marked, silent = _part(values, "marked"), _part(values, "silent")
        right: dict[str, Any] = {name: own["frame"][name] for name in ("M_J", "M_F")}
        if sound != "real":
            right = {"M_J": 1 - marked["pixels"], "M_F": None}
        sounds[sound] = {"own": own, "right": right, "marked": marked, "silent": silent}
    real = sounds["real"]
    for sound in sounds.keys() - {"real"}:
        row, base = sounds[sound], real["marked"]["pixels"]
        row["gap"] = {
            **{f"own_{k}": real["own"]["frame"][k] - row["own"]["frame"][k] for k in ("M_J", "M_F")},
            "right_M_J": real["right"]["M_J"] - row["right"]["M_J"],
            "marked_ratio": row["marked"]["pixels"] / base if base else None,
        }
        row["global"] = global_scores(real["own"]["frame"], row["marked"]["pixels"])
    counts = report(scores["real"], "real")
    rates = [row["marked"]["pixels"] for sound, row in sounds.items() if sound != "real"]
    return {
        "clips": counts["clips"],
        "frames": counts["frames"],
        "swap": dict(swapped),
        "features": dict(features or {}),
        "global": global_scores(real["own"]["frame"], sum(rates) / len(rates)),
        "sounds": sounds,
    }


def global_scores(real: Mapping[str, float], rate: float) -> dict[str, float]:
    """Return our reading of AVSBench-Robust's G-mIoU and G-F: harmonic means of M_J or M_F with 1 - FPR.

    G = 2 s (1 - r) / (s + 1 - r), 0 if both are 0. The released scripts do not compute them, so the published values
    may follow another definition.

    Args:
        real: `M_J` and `M_F` with the real sound, s.
        rate: false-positive rate with wrong sounds, r: the mean share of marked pixels.
    """
    rest = 1 - rate
    means = {name: 2 * real[name] * rest / total if (total := real[name] + rest) else 0.0 for name in ("M_J", "M_F")}
    return {"false_positive_rate": rate, **means}


def _part(values: Mapping[str, Any], name: str) -> dict[str, float]:
    return {key.removeprefix(f"{name}/"): float(v) for key, v in values.items() if key.startswith(f"{name}/")}


def table_and_notes(result: Mapping[str, Any]) -> str:
    """Format a result as a Markdown table, padded for the terminal, with notes on the columns."""
    sounds = result["sounds"]
    head = ("sound", "M_J own", "M_F own", "gap own", "M_J right", "gap right", "pixels", "frames")
    rows = []
    for sound, row in sounds.items():
        own, gap, marked = row["own"]["frame"], row.get("gap"), row["marked"]
        gaps = ("–", "–") if gap is None else [f"{gap[k]:.4f}" for k in ("own_M_J", "right_M_J")]
        scores = (f"{own['M_J']:.4f}", f"{own['M_F']:.4f}", gaps[0], f"{row['right']['M_J']:.4f}", gaps[1])
        rows.append((sound, *scores, f"{100 * marked['pixels']:.3f} %", f"{100 * marked['frames']:.1f} %"))
    silent, without = sounds["real"]["silent"], result["swap"].get("clips_without")
    first = f"{result['clips']} clips, {result['frames']} frames."
    if silent["count"]:
        first += (
            f" {int(silent['count'])} of them have an empty mask of their own: empty predictions score\n"
            f"M_J own {silent['count'] / result['frames']:.4f}; with the real sound "
            f"{100 * silent['frames']:.1f} % of them are marked."
        )
    end = f"; {without} clips have no foreign sound." if without else "."
    features = result["features"]
    own, wrong = _REAL_FEATURES[features.get("log_mel_from")], _WRONG_FEATURES[features.get("negative_features")]
    if count := features.get("clips_without_wav"):
        own += f" ({count} clips have only a log-mel file)"
    return f"""{first}

{table(head, rows, "lrrrrrrr", padded=True)}

own: against the clip's own masks, each frame once; right: against the correct masks, which are empty with a wrong
sound (M_J is then the share of pixels that are not marked; M_F has no value). gap: M_J with the real sound minus this
M_J. pixels, frames: share that is marked, with a wrong sound the false-positive rates; a frame is marked if one of its
pixels is.
swap: {_KNOWN[result["swap"]["known"]]}{end}
log-mel: real sounds {own}; wrong sounds {wrong}.
{_global_line(result["global"])}"""


def _global_line(values: Mapping[str, float]) -> str:
    return (
        f"G-mIoU {values['M_J']:.4f}, G-F {values['M_F']:.4f} (our reading: harmonic mean of M_J or M_F with the real "
        "sound and\n1 - the mean share of pixels marked with wrong sounds)."
    )
