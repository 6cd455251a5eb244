"""`avsmamba report`."""

import argparse

HELP = "write the page of the demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `avsmamba report`."""
    parser.description = "Write index.html with curves, scores and pictures of the demo's runs."
    parser.add_argument(
        "--demo-dir", required=True, metavar="DIR", help="work dir of the training, with test_{real,silence,shuffle}/"
    )
    parser.add_argument("--clips", type=int, default=6, metavar="N", help="clips to show (default: %(default)s)")
    parser.add_argument("--readme-picture", metavar="FILE", help="copy a picture with the real sound to this PNG file")
    parser.add_argument(
        "--readme-clip", metavar="NAME", help="name of that picture without .png (default: the first shown)"
    )


def run(args: argparse.Namespace) -> None:
    """Write the page and print its path."""
    from avsmamba.reports.demo_page import write_report

    print(write_report(args.demo_dir, args.clips, args.readme_picture, args.readme_clip))
