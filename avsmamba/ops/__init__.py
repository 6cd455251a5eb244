"""The multi-directional selective scan: the operator, its order tables and its reference."""

from avsmamba.ops import flops
from avsmamba.ops.reference import reference_scan
from avsmamba.ops.scan_order import a2v, cross_scan_2d, cross_scan_3d, v2a_frame, v2a_temporal
from avsmamba.ops.selective_scan import (
    available_backends,
    multi_directional_scan,
    selective_scan_2d,
    selective_scan_3d,
    selective_scan_a2v,
    selective_scan_v2a,
)

__all__ = [
    "a2v",
    "available_backends",
    "cross_scan_2d",
    "cross_scan_3d",
    "flops",
    "multi_directional_scan",
    "reference_scan",
    "selective_scan_2d",
    "selective_scan_3d",
    "selective_scan_a2v",
    "selective_scan_v2a",
    "v2a_frame",
    "v2a_temporal",
]
