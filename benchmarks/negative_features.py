"""How far two statistics of a log-mel patch distinguish real sounds from wrong ones, for both kinds of their features.

    python benchmarks/negative_features.py data/sounding_shapes_hard

A linear probe on mean and standard deviation of each patch, fitted on half of the clips and tested on the other, both
ways. It sees no picture: another clip's sound (swap) is a real sound, so that accuracy above chance, 50 %, comes from
the features. Silence and noise are other sounds; a model may recognise them.
"""

import argparse

import torch
from torch import Tensor

from avsmamba.datasets import AVSBenchMS3
from avsmamba.datasets.avsbench import NEGATIVE_FEATURES, NEGATIVES
from avsmamba.markdown import table


def main() -> None:
    """Print a table of accuracies: a row for each wrong sound, a column for each kind of features."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", help="folder with MS3's layout and wavs")
    parser.add_argument("--split", default="test")
    args = parser.parse_args()
    real = patches(args.data_root, args.split)
    print(f"{len(real)} clips, {real.shape[1]} patches each\n")
    rows = []
    for sound in NEGATIVES:
        wrong = [patches(args.data_root, args.split, sound, features) for features in NEGATIVE_FEATURES]
        rows.append((sound, *(f"{100 * probe(real, negatives):.1f} %" for negatives in wrong)))
    print(table(("real sound against", *NEGATIVE_FEATURES), rows, "lrr", padded=True))


def patches(data_root: str, split: str = "test", audio: str = "real", features: str = "vggish") -> Tensor:
    """Return the log-mel patches of all clips with one sound, `(N, T, 96, 64)`."""
    data = AVSBenchMS3(data_root, split, audio=audio, log_mel_from="wav", negative_features=features)
    return torch.stack([data.read_log_mel(index)[:, 0] for index in range(len(data))])


def probe(positives: Tensor, negatives: Tensor) -> float:
    """Return the accuracy on held-out clips of a least-squares classifier of each patch's mean and deviation.

    Args:
        positives: `(N, T, 96, 64)`, N even.
        negatives: as `positives`, of the same clips.
    """
    both = torch.stack([positives, negatives]).flatten(3).double()
    inputs = torch.stack([torch.ones(both.shape[:3]).double(), both.mean(3), both.std(3)], -1)  # (2, N, T, 3)
    labels = torch.tensor([1.0, -1.0]).double()[:, None, None, None].expand(*inputs.shape[:3], 1)
    correct = []
    for held_out in (0, 1):
        x, y = (values[:, 1 - held_out :: 2].flatten(0, 2) for values in (inputs, labels))
        weights = torch.linalg.lstsq(x, y).solution
        correct.append(((inputs[:, held_out::2] @ weights) * labels[:, held_out::2] > 0).double().mean().item())
    return sum(correct) / 2


if __name__ == "__main__":
    main()
