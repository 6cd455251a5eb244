"""The operators: the multi-directional selective scan, its orders and its reference; the depthwise convolution."""

from avsmamba.ops import flops
from avsmamba.ops.depthwise_conv import depthwise_conv
from avsmamba.ops.scan_order import a2v, cross_scan_2d, cross_scan_3d, one_way, v2a
from avsmamba.ops.scan_reference import reference_scan
from avsmamba.ops.selective_scan import (
    ScanParameters,
    available_backends,
    multi_directional_scan,
    selective_scan_1d,
    selective_scan_2d,
    selective_scan_3d,
    selective_scan_a2v,
    selective_scan_v2a,
)

__all__ = [
    "ScanParameters",
    "a2v",
    "available_backends",
    "cross_scan_2d",
    "cross_scan_3d",
    "depthwise_conv",
    "flops",
    "multi_directional_scan",
    "one_way",
    "reference_scan",
    "selective_scan_1d",
    "selective_scan_2d",
    "selective_scan_3d",
    "selective_scan_a2v",
    "selective_scan_v2a",
    "v2a",
]
