"""Train a model: python tools/train.py CONFIG [--work-dir DIR] [--resume [CHECKPOINT]] [--amp] [...]."""

import argparse
import os

# Before torch is loaded: its threads shall spin for microseconds at most while they wait. Where they share their cores
# with data workers or another program, long spinning makes a step many times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a model from a YAML config.")
    parser.add_argument("config", help="YAML config, for example configs/avs_mamba/avs_mamba_pvtv2b5_ms3_224.yaml")
    parser.add_argument("--work-dir", help="checkpoints and logs; default: work_dirs/ and the config's name")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="go on from the last checkpoint of the work dir if there is one, or from the one given",
    )
    parser.add_argument("--amp", action="store_true", help="mixed precision (bfloat16; works on the CPU too)")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm"], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--cfg-options", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    parser.add_argument("--data-root", help="folder with Single-source/, Multi-sources/, AVSS/ (also: AVSBENCH_ROOT)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.local_rank is not None:
        os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    from avsmamba.apis import run_tool, train

    run_tool(
        lambda: train(
            args.config,
            work_dir=args.work_dir,
            resume=args.resume,
            amp=args.amp,
            launcher=args.launcher,
            options=args.cfg_options,
            data_root=args.data_root,
        )
    )


if __name__ == "__main__":
    main()
