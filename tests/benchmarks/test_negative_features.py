"""The linear probe on statistics of patches: released features identify a wrong sound, ours do not."""

import torch
from negative_features import patches, probe

from avsmamba.sounding_shapes.generate import make_sounding_shapes


def test_statistics_identify_released_swaps_and_not_ours(tmp_path):
    make_sounding_shapes(tmp_path, "ms3", {"test": 24}, size=32, seed=1)
    real = patches(tmp_path)
    assert probe(real, patches(tmp_path, audio="swap")) < 0.65
    assert probe(real, patches(tmp_path, audio="swap", features="librosa")) > 0.95


def test_probe_of_known_patches():
    torch.manual_seed(0)
    patches = torch.randn(8, 2, 96, 64)
    assert probe(patches, patches + 1) == 1.0
    assert probe(patches, 3 * patches) == 1.0
    assert probe(patches, patches) == 0.5
