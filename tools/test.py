"""Score a checkpoint: python tools/test.py CONFIG CHECKPOINT [--audio SOUND | --robustness] [--out DIR] [...]."""

import argparse
import os
from functools import partial

# Before torch is loaded: its threads shall spin for microseconds at most while they wait. Where they share their cores
# with data workers or another program, long spinning makes a step many times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Score a checkpoint on the test set of a YAML config.")
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("--work-dir", help="for metrics.json and the log; default: work_dirs/ and the config's name")
    parser.add_argument("--out", metavar="DIR", help="write the predicted masks in AVSBench's layout")
    parser.add_argument("--show-dir", metavar="DIR", help="write pictures: frames, sound, ground truth, prediction")
    parser.add_argument(
        "--audio",
        choices=["real", "silence", "noise", "shuffle", "swap"],
        default="real",
        help="what the model hears; a model that listens scores lower with anything but the real sound; shuffle: "
        "another clip's, swap: another clip's that is of nothing in the picture, as far as that is known",
    )
    parser.add_argument(
        "--robustness",
        action="store_true",
        help="test with the real sound, silence, noise and swap in one go, and write robustness.json and .md; --out "
        "and --show-dir get a folder for each sound",
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
    from avsmamba.apis import robustness, run_tool, test
    from avsmamba.utils import UserError

    def run() -> object:
        if args.robustness and args.audio != "real":
            raise UserError("--robustness: takes the sounds in turn; leave --audio out")
        function = robustness if args.robustness else partial(test, audio=args.audio)
        return function(
            args.config,
            args.checkpoint,
            work_dir=args.work_dir,
            out=args.out,
            show_dir=args.show_dir,
            launcher=args.launcher,
            options=args.cfg_options,
            data_root=args.data_root,
            amp=args.amp,
        )

    run_tool(run)


if __name__ == "__main__":
    main()
