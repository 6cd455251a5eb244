"""Time the loading of clips on one core: from files, and from shards with frames in PNG or JPEG, or with features.

    python benchmarks/data_loading.py [--size 512] [--clips 4] [--repeats 5] [--step-size 96] [--gflops 2480.2]
        [--json loading.json]

A clip has five frames, a mask and log-mel patches, as a training clip of S4. Frames are crops of a photograph (of
matplotlib's examples), scaled to 1.0 to 1.6 times, so that their bytes are those of photographs. All files are in the
system's cache: the numbers do not hold what a disk or a network adds, which depends on the bytes of a clip. Times are
of the processor, one thread, so that other programs count little. Cases take turns.

*read* is a clip with `Resize` to its own size, which changes nothing; *trained* is a clip with the transforms of the
config of S4 (`configs/_base_/datasets/avsbench_s4.yaml`). Features are random maps of the sizes of PVT-v2's, float16.

The last line compares a training step of that config's model (one clip, random weights, a frozen backbone, on the CPU)
on frames with the same step on stored maps.

The cores that feed a GPU follow from an estimate, not from a measurement: a training step costs three forward passes of
`--gflops` a clip, at `--utilisation` of the GPU's `--peak` TFLOP/s (an H100's 989 in bfloat16, dense).
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from common import Stages, machine, spread, take_turns, title, write_json
from matplotlib.cbook import get_sample_data

from avsmamba.checkpoint.build import build_model
from avsmamba.config.load import load_config
from avsmamba.datasets.clip_table import Clip
from avsmamba.datasets.shards.pack import Settings, pack
from avsmamba.datasets.shards.write import Files, array_bytes, jobs_of, write_shards
from avsmamba.engine.seeding import seed_everything
from avsmamba.registry import DATASETS
from avsmamba.structures import AVSDataSample, CachedFrames, weights_digest

CONFIG = "configs/avs_mamba/avs_mamba_pvtv2b5_s4_512.yaml"
CHANNELS, STRIDES = (64, 128, 320, 512), (4, 8, 16, 32)
FRAMES = 5
QUALITY = 95


def timed(run: Callable[[], object]) -> float:
    """Return the processor's seconds that one run takes in this process."""
    start = time.process_time()
    run()
    return time.process_time() - start


def write_files(root: Path, size: int, clips: int) -> None:
    """Write clips in the layout of S4, with log-mel files."""
    rng = np.random.default_rng(0)
    with get_sample_data("grace_hopper.jpg") as file:
        photograph = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_COLOR)
    data, rows = root / "Single-source" / "s4_data", ["name,start,category,split"]
    for i in range(clips):
        name = f"clip_{i}"
        rows.append(f"{name},0,any,train")
        places = {k: data / k / "train" / "any" for k in ("visual_frames", "gt_masks", "audio_log_mel", "audio_wav")}
        for kind in ("visual_frames", "gt_masks"):
            (places[kind] / name).mkdir(parents=True)
        for kind in ("audio_log_mel", "audio_wav"):
            places[kind].mkdir(parents=True, exist_ok=True)
        scale = rng.uniform(1.0, 1.6) * size / min(photograph.shape[:2])
        large = cv2.resize(photograph, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        for t in range(FRAMES):
            top, left = (int(rng.integers(0, max(1, n - size))) for n in large.shape[:2])
            frame = large[top : top + size, left : left + size]
            cv2.imwrite(str(places["visual_frames"] / name / f"{name}_{t + 1}.png"), cv2.resize(frame, (size, size)))
        mask = np.zeros((size, size), np.uint8)
        cv2.circle(mask, (size // 2, size // 2), size // 4, 255, -1)
        cv2.imwrite(str(places["gt_masks"] / name / f"{name}_1.png"), mask)
        torch.save(torch.randn(FRAMES, 1, 96, 64), places["audio_log_mel"] / f"{name}.pkl")
    (root / "Single-source" / "s4_meta_data.csv").write_text("\n".join(rows) + "\n")


def write_features(root: Path, out: Path, size: int, clips: int) -> None:
    """Write shards of random maps for the same clips."""
    files = DATASETS.build({"type": "AVSBenchS4", "data_root": str(root), "split": "train"})
    rng = np.random.default_rng(0)

    def make(split: str, index: int) -> Files:
        clip: Clip = files.clips[index]
        maps = {
            f"map_{i}.npy": array_bytes(rng.standard_normal((FRAMES, c, size // s, size // s)).astype(np.float16))
            for i, (c, s) in enumerate(zip(CHANNELS, STRIDES, strict=True))
        }
        mask = next((root / "Single-source").rglob(f"gt_masks/train/any/{clip.name}/*.png")).read_bytes()
        sound = {"log_mel.npy": array_bytes(np.zeros((FRAMES, 1, 96, 64), np.float32))}
        return clip, sound, {**maps, "frame_size.npy": array_bytes(np.array([size, size])), "mask_00.png": mask}

    settings = {"maps": len(CHANNELS), "backbone": "random"}
    about = {"subset": "s4", "kind": "features", "classes": ["sounding"], "settings": settings}
    write_shards(out, jobs_of({"train": clips}, 2), about, make)


def bytes_a_clip(folder: Path, clips: int, patterns: tuple[str, ...]) -> float:
    """Return the mean bytes of a clip in the files of a folder."""
    return sum(f.stat().st_size for pattern in patterns for f in folder.rglob(pattern)) / clips


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="height and width, pixels")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--step-size", type=int, default=96, help="height and width in the training step, pixels")
    parser.add_argument("--gflops", type=float, default=2480.2, help="forward pass of a clip, docs/zoo.md")
    parser.add_argument("--peak", type=float, default=989.0, help="of the GPU, TFLOP/s")
    parser.add_argument("--utilisation", type=float, default=0.3)
    parser.add_argument("--json", help="file to write the numbers to")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    about = machine()
    needed = 1e3 * args.peak * args.utilisation / (3 * args.gflops)
    with tempfile.TemporaryDirectory() as name:
        rows = measure(Path(name), args.size, args.clips, args.repeats)
    base = rows["files, PNG"]
    print(
        title(about) + f"\n\nA GPU at {args.utilisation:.0%} of {args.peak:.0f} TFLOP/s: {needed:.1f} clips a second.\n"
    )
    print("| source | MB a clip | read, ms | times files | trained, ms | times files | cores a GPU: read | trained |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for case, row in rows.items():
        cells = [case, f"{row['bytes'] / 1e6:.2f}"]
        for stage in ("read", "trained"):
            ms = row["ms"].get(stage)
            row.setdefault("times", {})[stage] = ms and base["ms"][stage]["median"] / ms["median"]
            row.setdefault("cores", {})[stage] = ms and needed * ms["median"] / 1e3
            cells += [f"{ms['median']:.1f}", f"{row['times'][stage]:.2f}"] if ms else ["–", "–"]
        cells += [f"{c:.1f}" if (c := row["cores"][stage]) else "–" for stage in ("read", "trained")]
        print(f"| {' | '.join(cells)} |")
    steps = measure_steps(args.step_size, args.repeats)
    ratio = steps["frames"]["median"] / steps["features"]["median"]
    print(f"\nTraining step at {args.step_size} pixels on stored features: {ratio:.2f} times as fast as on frames.")
    if args.json:
        found = {"rows": rows, "steps": {"size": args.step_size, "ms": steps, "times": ratio}}
        write_json(args.json, {"machine": about, "size": args.size, "clips_per_second": needed, **found})


def measure(folder: Path, size: int, clips: int, repeats: int) -> dict[str, dict[str, Any]]:
    """Write all sources and load their clips in turns; the bytes and the milliseconds of a clip of each."""
    files = folder / "files"
    write_files(files, size, clips)
    for frames in ("png", "jpg"):
        pack(files, "s4", folder / frames, Settings(frames, quality=QUALITY), per_shard=2)
    write_features(files, folder / "features", size, clips)
    cfg = load_config(CONFIG, {"size": size})
    trained = cfg.to_dict()["train_dataloader"]["dataset"]["pipeline"]
    pipelines = {"read": [{"type": "Resize", "size": size}], "trained": trained}
    sources = {
        "files, PNG": ("AVSBenchS4", files, ("*.png", "*.pkl")),
        "shards, PNG": ("ShardedS4", folder / "png", ("*.tar",)),
        f"shards, JPEG of quality {QUALITY}": ("ShardedS4", folder / "jpg", ("*.tar",)),
        "shards, features in float16": ("ShardedS4", folder / "features", ("*.tar",)),
    }

    def load(datasets: dict[str, Any]) -> Stages:
        def all_clips(dataset: Any) -> None:
            for i in range(clips):
                seed_everything(i)
                dataset[i]

        return {stage: timed(partial(all_clips, dataset)) / clips for stage, dataset in datasets.items()}

    runs: dict[str, Callable[[], Stages]] = {}
    rows: dict[str, dict[str, Any]] = {}
    for case, (kind, root, patterns) in sources.items():
        stages = {"read": []} if "features" in case else pipelines
        config = {"type": kind, "data_root": str(root), "split": "train"}
        runs[case] = partial(load, {s: DATASETS.build({**config, "pipeline": p}) for s, p in stages.items()})
        rows[case] = {"bytes": bytes_a_clip(root, clips, patterns)}
    for case, times in take_turns(runs, dict.fromkeys(runs, repeats)).items():
        rows[case]["ms"] = {stage: spread(values) for stage, values in times.items()}
    return rows


def measure_steps(size: int, repeats: int) -> dict[str, Any]:
    """Time the losses and gradients of one clip from frames and from the maps of the frozen backbone, ms."""
    cfg = load_config(CONFIG, {"size": size, "model.backbone.frozen": True})
    torch.manual_seed(0)
    model: Any = build_model(cfg.model).train()
    frames, log_mel = torch.randn(1, FRAMES, 3, size, size), torch.randn(1, FRAMES, 1, 96, 64)
    sample = AVSDataSample(
        gt_masks=torch.randint(0, 2, (FRAMES, size, size), dtype=torch.uint8),
        gt_temporal_mask_flag=torch.ones(FRAMES, dtype=torch.bool),
    )
    with torch.no_grad():
        maps = [m.unflatten(0, (1, FRAMES)) for m in model.backbone(frames.flatten(0, 1))]
    inputs = {"frames": frames, "features": CachedFrames(maps, (size, size), weights_digest(model.backbone))}

    def step(x: Any) -> None:
        sum(model(x, log_mel, [sample], mode="loss").values()).backward()

    runs = {name: partial(lambda x: {"step": timed(partial(step, x))}, x) for name, x in inputs.items()}
    times = take_turns(runs, dict.fromkeys(runs, repeats))
    return {name: spread(value["step"]) for name, value in times.items()}


if __name__ == "__main__":
    main()
