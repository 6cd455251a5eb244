"""Measure time and memory of the head against its layers run one by one.

    python benchmarks/head.py [--sizes 224 512] [--classes 1 71] [--repeats 3] [--json head.json]

One clip of five frames of random mask features (C = 256) at a quarter of the size, the authors' head with random
weights, float32. Inference and a training step (forward and backward, gradients of query, mask features and weights).
Both take turns in one process; memory is the greatest growth of the resident set in one call, each in a separate
process. The table of the curve, which is built once from the weights, is timed by itself.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from common import MB, Stages, extra_memory, fresh, machine, pm, spread, take_turns, timed, title, write_json
from torch import Tensor

from avsmamba.models import AudioQueryHead
from avsmamba.models.head import SCALE
from avsmamba.models.layers import upsampled_conv

FRAMES = 5


def layer_by_layer(head: AudioQueryHead, query: Tensor, features: Tensor) -> Tensor:
    """Compute the logits without a shortcut."""
    y = head.mlp.plain(torch.einsum("btqc,bthwc->bthwq", query, features)) + features
    conv_in, conv_out = head.hidden
    small = conv_in(y.flatten(0, 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    last = head.classifier
    return upsampled_conv.plain(small, conv_out.weight, conv_out.bias, last.weight, last.bias, SCALE)


def ours(head: AudioQueryHead, query: Tensor, features: Tensor) -> Tensor:
    return head(query, features).logits.flatten(0, 1)


RUNS = {"ours": ours, "layers": layer_by_layer}


def prepare(size: int, classes: int, train: bool) -> tuple[AudioQueryHead, Tensor, Tensor]:
    torch.manual_seed(0)
    head = AudioQueryHead(num_classes=classes).train(train)
    query = torch.randn(1, FRAMES, 1, 256) / 4  # products of about 4 either way
    features = torch.randn(1, FRAMES, size // 4, size // 4, 256)
    return head, query.requires_grad_(train), features.requires_grad_(train)


def call(who: str, train: bool, *arguments: Any) -> None:
    """Run once."""
    with torch.set_grad_enabled(train):
        y = RUNS[who](*arguments)
        if train:
            y.square().mean().backward()


def memory(who: str, size: int, classes: int, train: bool) -> int:
    """Return the bytes that one call adds; call it in a fresh process."""
    arguments = prepare(size, classes, train)
    call(who, train, *(prepare(64, classes, train) if train else arguments))  # libraries are loaded, the table is built
    return extra_memory(lambda: call(who, train, *arguments))[0]


def measure(size: int, classes: int, train: bool, repeats: int) -> dict[str, Any]:
    """Measure one row of the table.

    Raises:
        AssertionError: if the two do not agree.
    """
    arguments = prepare(size, classes, train)
    with torch.no_grad():
        torch.testing.assert_close(ours(*arguments), layer_by_layer(*arguments), rtol=1e-3, atol=1e-4)

    def timer(who: str) -> Callable[[], Stages]:
        return lambda: {"all": timed(lambda: call(who, train, *arguments))}

    times = take_turns({who: timer(who) for who in RUNS}, dict.fromkeys(RUNS, repeats), slow=["layers"])
    row: dict[str, Any] = {"size": size, "classes": classes, "what": "training" if train else "inference"}
    for who in RUNS:
        row[f"{who}_ms"] = spread(times[who]["all"])
        row[f"{who}_MB"] = fresh(memory, who, size, classes, train) / MB
    return row


def build_seconds() -> float:
    """Measure how long the table takes to build from the weights."""
    head, query, features = prepare(224, 1, False)
    with torch.no_grad():
        ours(head, query, features)
        used = timed(lambda: ours(head, query, features))
        head.train()  # forgets the table
        return timed(lambda: ours(head, query, features)) - used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 512])
    parser.add_argument("--classes", type=int, nargs="+", default=[1, 71])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", help="file to write the rows to")
    args = parser.parse_args()
    about = machine() | {"build_s": build_seconds()}
    print(f"{title(about)}; the table is built in {about['build_s']:.2f} s")
    print(f"{'':24} {'ours, ms':>19} {'layers, ms':>19} {'':>8} {'ours, MB':>10} {'layers, MB':>11}")
    rows = []
    for size in args.sizes:
        for classes in args.classes:
            for train in (False, True):
                row = measure(size, classes, train, args.repeats)
                rows.append(row)
                ratio = row["layers_ms"]["median"] / row["ours_ms"]["median"]
                print(
                    f"{size}, {classes:2} classes, {row['what']:9} {pm(row['ours_ms'])} {pm(row['layers_ms'])} "
                    f"({ratio:4.1f} x) {row['ours_MB']:10.0f} {row['layers_MB']:11.0f}",
                    flush=True,
                )
    if args.json:
        write_json(args.json, {"machine": about, "rows": rows})


if __name__ == "__main__":
    main()
