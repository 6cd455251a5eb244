"""Time a clip's inference and a training step of a config's model on this machine, with the share of each part.

    python benchmarks/model.py [CONFIG ...] [--batch 1] [--frames 5] [--size 224] [--repeats 3] [--json model.json]
        [--grad-checkpointing [PART ...]] [--amp]

Weights are random and pictures are noise: neither changes the time. Each case runs in a process of its own, so that
its peak memory (resident set, the interpreter and torch included) is its own. A training step is forward, backward
and AdamW. `--grad-checkpointing` recomputes the activations of the parts named, or of all that can, in its backward
pass: compare the peak with that of a run without. `--amp` times inference a second time under autocast (bfloat16) and
prints the gain. The backbone is also timed alone, step by step in turn with the whole. Shares are of the whole
step; `rest` is the time in no part (losses, resizing); part_timer.py explains how a part's backward is measured.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from part_timer import PartTimer

from avsmamba.checkpoint.build import build_model
from avsmamba.config import load_config
from avsmamba.structures import AVSDataSample
from avsmamba.utils import atomic_write

DEFAULT = "configs/avs_mamba/avs_mamba_pvtv2b5_ms3_512.yaml"
PARTS = ("backbone", "audio_encoder", "projection", "encoder", "decoder", "pyramid", "head")
CHECKPOINTING = ("backbone", "encoder", "decoder", "pyramid")


def build(config: str, grad_checkpointing: Sequence[str] = ()) -> torch.nn.Module:
    """Build the model of a config, without its pretrained files; some parts checkpoint gradients."""
    cfg = load_config(config, {f"model.{part}.grad_checkpointing": True for part in grad_checkpointing})
    return build_model(cfg.model)


def timed(run: Callable[[], object]) -> float:
    """Return the seconds that one run takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(
    config: str,
    training: bool,
    batch: int,
    frames: int,
    size: int,
    repeats: int,
    grad_checkpointing: Sequence[str],
    amp: bool = False,
) -> dict[str, Any]:
    """Measure one case in a fresh process. Without repeats: the peak memory of one step, no times."""
    torch.manual_seed(0)
    model = build(config, grad_checkpointing).train(training)
    parameters = sum(p.numel() for p in model.parameters())
    trained = [p for p in model.parameters() if p.requires_grad]
    clip = torch.randn(batch, frames, 3, size, size)
    log_mel = torch.randn(batch, frames, 1, 96, 64)
    flags = torch.ones(frames, dtype=torch.bool)
    samples = [
        AVSDataSample(
            gt_masks=torch.randint(0, 2, (frames, size, size), dtype=torch.uint8),
            gt_temporal_mask_flag=flags,
            vid_temporal_mask_flag=flags,
        )
        for _ in range(batch)
    ]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)

    clock = PartTimer(model, PARTS)

    def step() -> None:
        clock.reset()
        if not training:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=amp):
                clock.time_forward(lambda: model(clip, log_mel, mode="tensor"))
            return
        losses = clock.time_forward(lambda: model(clip, log_mel, samples, mode="loss"))
        optimizer.zero_grad()
        clock.time_backward(sum(losses.values()).backward)
        optimizer.step()

    def backbone() -> None:
        with torch.set_grad_enabled(training), torch.autocast("cpu", torch.bfloat16, enabled=amp):
            maps = model.backbone(clip.flatten(0, 1))
        if training:
            sum(m.sum() for m in maps).backward()

    step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    if not repeats:
        return {"config": config, "size": size, "grad_checkpointing": list(grad_checkpointing), "peak_GB": peak}
    backbone()
    whole, alone, outside, forward, backward = [], [], [], [], []
    for _ in range(repeats):
        whole.append(timed(step))
        forward.append(dict(clock.forward))
        backward.append(dict(clock.backward))
        outside.append(outside_over_backbone(clock))
        alone.append(timed(backbone))
    return {
        "config": config,
        "case": "training step" if training else "inference" + (", bfloat16" if amp else ""),
        "batch": batch,
        "frames": frames,
        "size": size,
        "grad_checkpointing": list(grad_checkpointing),
        "parameters_M": parameters / 1e6,
        "trained_M": sum(p.numel() for p in trained) / 1e6,
        "seconds": statistics.median(whole),
        "spread": max(whole) - min(whole),
        "backbone_alone": statistics.median(alone),
        "forward_of_parts": medians(forward),
        "backward_of_parts": medians(backward),
        "optimizer": statistics.median(
            w - sum(f.values()) - sum(b.values()) for w, f, b in zip(whole, forward, backward, strict=True)
        ),
        "outside_over_backbone": statistics.median(outside),
        "peak_GB": peak,
    }


def medians(steps: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each part over the steps."""
    return {name: statistics.median(step[name] for step in steps) for name in steps[0]}


def outside_over_backbone(clock: PartTimer) -> float:
    """Time of all but the backbone, the audio encoder and the optimizer over the backbone's, in the last step."""
    backbone = clock.forward["backbone"] + clock.backward["backbone"]
    outside = [t for side in (clock.forward, clock.backward) for name, t in side.items() if name not in PARTS[:2]]
    return sum(outside) / backbone


def show(row: dict[str, Any]) -> str:
    """Return a case as text."""
    lines = [
        f"{row['config']}, {row['case']}: {row['seconds']:.2f} s (spread {row['spread']:.2f}), "
        f"peak {row['peak_GB']:.2f} GB, {row['parameters_M']:.1f} M parameters, {row['trained_M']:.1f} M trained",
        f"  outside the backbone and the audio encoder: {row['outside_over_backbone']:.2f} times the backbone; "
        f"the backbone alone takes {row['backbone_alone']:.2f} s",
    ]
    for side in ("forward", "backward"):
        if parts := row[f"{side}_of_parts"]:
            total = sum(parts.values())
            shares = ", ".join(f"{k} {v:.2f} s ({100 * v / row['seconds']:.0f} %)" for k, v in parts.items())
            lines.append(f"  {side} {total:.2f} s: {shares}")
    if row["backward_of_parts"]:
        lines.append(f"  optimizer {row['optimizer']:.2f} s")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", default=[DEFAULT])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--size", type=int, default=224, help="height and width, pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", help="file to write the rows to")
    parser.add_argument(
        "--grad-checkpointing",
        nargs="*",
        choices=CHECKPOINTING,
        metavar="PART",
        help=f"make activations again in the backward pass; parts: {', '.join(CHECKPOINTING)}; none named: all",
    )
    parser.add_argument("--amp", action="store_true", help="inference in bfloat16 as well")
    args = parser.parse_args()
    checkpointing = () if args.grad_checkpointing is None else tuple(args.grad_checkpointing) or CHECKPOINTING
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    rows = []
    for config in args.configs:
        for training, amp in ((False, False), (False, True), (True, False)):
            if amp and not args.amp:
                continue
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                case = (config, training, args.batch, args.frames, args.size, args.repeats, checkpointing, amp)
                rows.append(pool.apply(measure, case))
            print(show(rows[-1]))
            if amp:
                print(f"  bfloat16 takes {rows[-1]['seconds'] / rows[-2]['seconds']:.2f} times the time of float32")
    if args.json:
        with atomic_write(args.json) as path:
            path.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
