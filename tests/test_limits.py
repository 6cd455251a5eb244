"""Limits of arguments: from Python a ValueError that names the argument, and Python's own words for a wrong call."""

import inspect
import pickle

import numpy as np
import pytest

from avsmamba.limits import AT_LEAST_1, MAP_NUMBER, RATE, counts, limits, limits_of, one_of
from avsmamba.models import (
    AudioQueryHead,
    AVSDataPreprocessor,
    AVSSegmentor,
    ContextualIntegrationPyramid,
    DiceLoss,
    ModalityAggregationDecoder,
    MultiScaleTemporalEncoder,
)
from avsmamba.models.audio import AudioCNN
from avsmamba.models.backbones import SmallConvBackbone


class Part:
    @limits(**counts("layers", "width"), rate=RATE, scales=MAP_NUMBER, rank=AT_LEAST_1, kernel=one_of((3, 1)))
    def __init__(self, layers: int, width: int = 4, *, rate: float = 0.0, scales=(2, 3), rank=None, kernel=1):
        self.values = layers, width, rate, scales, rank, kernel


class Child(Part):
    def __init__(self):
        super().__init__(0)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Part(0), "layers: expected at least 1, got 0"),
        (lambda: Part(1, -2), "width: expected at least 1, got -2"),
        (lambda: Part(np.int64(0)), "layers: expected at least 1, got "),
        (lambda: Part(layers=1, rate=1.0), "rate: expected at least 0 and below 1, got 1.0"),
        (lambda: Part(1, rate=float("nan")), "rate: expected at least 0 and below 1, got nan"),
        (lambda: Part(1, scales=[2, 5]), r"scales: expected of the maps 1 to 4, got \[2, 5\]"),
        (lambda: Part(1, rank=0), "rank: expected at least 1, got 0"),
        (lambda: Part(1, kernel=2), r"kernel: expected one of \[1, 3\], got 2"),
        (Child, "layers: expected at least 1, got 0"),
        (lambda: MultiScaleTemporalEncoder(num_layers=-1), "num_layers: expected at least 1, got -1"),
        (lambda: MultiScaleTemporalEncoder(orders=3), "orders: expected one of "),
        (lambda: ModalityAggregationDecoder(d_state=0), "d_state: expected at least 1, got 0"),
        (lambda: ContextualIntegrationPyramid(drop_path=1), "drop_path: expected at least 0 and below 1, got 1"),
        (lambda: AudioQueryHead(embed_dims=0), "embed_dims: expected at least 1, got 0"),
        (lambda: AVSSegmentor({}, {}, {}, {}, [], embed_dims=0), "embed_dims: expected at least 1, got 0"),
        (lambda: SmallConvBackbone(channels=(8, 0, 8, 8)), r"channels: expected at least 1, got \(8, 0, 8, 8\)"),
        (lambda: AudioCNN(out_channels=0), "out_channels: expected at least 1, got 0"),
        (lambda: AVSDataPreprocessor(std=(1, 0, 1)), r"std: expected a number above 0, got \(1, 0, 1\)"),
        (lambda: DiceLoss(loss_weight=-1), "loss_weight: expected at least 0, got -1"),
    ],
)
def test_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_good_call_is_as_before():
    assert Part(2, 3, rate=0.5, scales=[1, 4], rank="auto").values == (2, 3, 0.5, [1, 4], "auto", 1)
    assert Part(np.int64(1), rank=None).values[0] == 1
    assert [*inspect.signature(Part).parameters] == ["layers", "width", "rate", "scales", "rank", "kernel"]
    assert limits_of(Part.__init__)["rate"] is RATE
    assert limits_of(Child.__init__) == {}
    assert pickle.loads(pickle.dumps(Part(5))).values[0] == 5


def test_a_wrong_call_has_pythons_message():
    with pytest.raises(TypeError, match=r"__init__\(\) missing 1 required positional argument: 'layers'"):
        Part()
    with pytest.raises(TypeError, match=r"__init__\(\) got an unexpected keyword argument 'leyers'"):
        Part(1, leyers=2)


def test_a_limit_of_no_argument():
    with pytest.raises(TypeError, match="has no argument depth"):

        @limits(depth=AT_LEAST_1)
        def init(self, width: int = 1) -> None: ...
