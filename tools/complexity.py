"""What a model costs by backbone and resolution (Fig. 10): python tools/complexity.py --sizes 224 512 --out DIR."""

import argparse
import os

# Before torch is loaded, as in tools/test.py: its threads shall not spin long while they wait.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measure the inference of one clip: parameters, GFLOP, peak memory and seconds of each config at "
        "each size, every case in a process of its own. Writes complexity.json, complexity.md and complexity.png."
    )
    parser.add_argument(
        "--configs", nargs="+", default=[], help="YAML configs; default: Fig. 10's (Vim-B, VMamba-B, PVT-v2 b5)"
    )
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=[224, 512], metavar="PX", help="heights and widths (default: 224 512)"
    )
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument("--frames", type=int, default=5, help="of a clip (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="clips at a time (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs (default: %(default)s)")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: the GPU where there is one")
    parser.add_argument("--cfg-options", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from avsmamba.apis import run_tool
    from avsmamba.apis.complexity import complexity

    run_tool(
        lambda: complexity(
            args.configs,
            args.sizes,
            args.out,
            frames=args.frames,
            batch=args.batch,
            repeats=args.repeats,
            device=args.device,
            options=args.cfg_options,
        )
    )


if __name__ == "__main__":
    main()
