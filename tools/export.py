"""Write a trained model as ONNX or torch.export file: python tools/export.py CONFIG CHECKPOINT --out FILE [...].

H and W (multiples of 32, from 64 on) and the batch stay free; docs/export.md says what goes in and comes out.
"""

import argparse


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Write a trained model as one file for other programs.")
    parser.add_argument("config", help="a YAML config, or the name of a shipped model (without CHECKPOINT)")
    parser.add_argument("checkpoint", nargs="?")
    parser.add_argument("--format", choices=["onnx", "torch-export"], default="onnx")
    parser.add_argument("--out", required=True, metavar="FILE", help="ends in .onnx or .pt2")
    parser.add_argument("--num-frames", type=int, metavar="T", help="frames of a clip; default: as trained")
    parser.add_argument(
        "--check",
        action="store_true",
        help="run the file on three sizes and compare it with the model; a file that deviates is not written",
    )
    parser.add_argument("--cfg-options", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from avsmamba.apis import run_tool
    from avsmamba.apis.export import export

    run_tool(
        lambda: export(
            args.config, args.checkpoint, args.out, args.format, args.num_frames, args.check, args.cfg_options
        )
    )


if __name__ == "__main__":
    main()
