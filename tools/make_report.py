"""Draw the demo's page: python tools/make_report.py --demo-dir work_dirs/demo [--readme-picture FILE.png]."""

import argparse


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Write index.html with curves, scores and pictures of the demo's runs."
    )
    parser.add_argument("--demo-dir", required=True, help="the training's work dir, with test_{real,silence,shuffle}/")
    parser.add_argument("--clips", type=int, default=6, help="number of clips to show (default: %(default)s)")
    parser.add_argument(
        "--readme-picture", metavar="FILE", help="copy one picture with the real sound to this PNG file"
    )
    parser.add_argument(
        "--readme-clip", metavar="NAME", help="that picture's name without .png; default: the first shown"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from avsmamba.apis import run_tool
    from avsmamba.visualization.report import write_report

    run_tool(lambda: print(write_report(args.demo_dir, args.clips, args.readme_picture, args.readme_clip)))


if __name__ == "__main__":
    main()
