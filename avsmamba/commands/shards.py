"""`avsmamba shards`."""

import argparse

from avsmamba.choices import FRAME_FORMATS, SUBSETS, WEIGHT_DTYPES
from avsmamba.commands.shared import add_config_options, add_data_root

HELP = "pack a data set, or features of it, into tar files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `avsmamba shards`."""
    parser.description = (
        "Pack a data set of AVSBench's layout into tar files of many clips each (WebDataset's format), with an index; "
        "or, with --features, the maps of a frozen backbone on a config's training clips. Training reads them from a "
        "folder, a URL or a command, see docs/scale.md. An interrupted run continues."
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder, or one of an interrupted run")
    parser.add_argument("--subset", choices=SUBSETS, help="layout; required without --features")
    parser.add_argument(
        "--format",
        choices=FRAME_FORMATS,
        default="keep",
        help="of frames; keep: the files' bytes (default: %(default)s)",
    )
    parser.add_argument(
        "--size", type=int, metavar="PX", help="resize frames, and masks of training, to this height and width"
    )
    parser.add_argument("--shorter-side", action="store_true", help="--size is of the shorter side")
    parser.add_argument("--quality", type=int, default=95, metavar="N", help="of jpg, 1 to 100 (default: %(default)s)")
    parser.add_argument("--no-wav", action="store_true", help="store log-mel patches only, no waveforms")
    parser.add_argument("--per-shard", type=int, default=500, metavar="N", help="clips in a tar (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that pack (default: this one)")
    parser.add_argument(
        "--features",
        nargs="+",
        metavar="FILE",
        help="CONFIG [CHECKPOINT]: store the maps of its backbone, with the checkpoint's weights or those that the "
        "config names",
    )
    parser.add_argument("--dtype", choices=WEIGHT_DTYPES, default="float16", help="of features (default: %(default)s)")
    add_config_options(parser)
    add_data_root(parser)


def run(args: argparse.Namespace) -> None:
    """Write the shards and print the path of their index."""
    from avsmamba.utils import UserError

    if args.features:
        from avsmamba.engine.pack_features import pack_features

        if len(args.features) > 2:
            raise UserError(f"--features: expected CONFIG [CHECKPOINT], got {len(args.features)} files")
        index = pack_features(
            *args.features,
            out=args.out,
            dtype=args.dtype,
            per_shard=args.per_shard,
            with_wav=not args.no_wav,
            options=args.cfg_options,
            data_root=args.data_root,
            progress=True,
        )
    else:
        import os

        from avsmamba.datasets.shards.pack import Settings, pack

        root = args.data_root or os.environ.get("AVSBENCH_ROOT")
        if not args.subset or not root:
            raise UserError("--subset and --data-root (or AVSBENCH_ROOT): required without --features")
        settings = Settings(args.format, args.size, args.shorter_side, args.quality, not args.no_wav)
        index = pack(root, args.subset, args.out, settings, args.per_shard, args.workers, progress=True)
    print(index)
