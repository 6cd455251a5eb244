"""The figures that the paper prints in its Tables I to VII, in percent: `(M_J, M_F)` on each data set."""

from typing import NamedTuple

Score = tuple[float, float]


class Row(NamedTuple):
    """One row of an ablation table.

    Attributes:
        label: as the paper prints it.
        variant: the ablation's config without its prefix (`configs/ablations/{tiny,ms3,s4}_{variant}.yaml`).
        ms3: (M_J, M_F) on MS3.
        s4: (M_J, M_F) on S4.
    """

    label: str
    variant: str
    ms3: Score
    s4: Score


FULL = "full"
_OURS = ((68.6, 78.8), (85.0, 92.6))

ABLATIONS: dict[str, tuple[str, tuple[Row, ...]]] = {
    "III": (
        "Overall components",
        (
            Row("w/o MTE", "without_mte", (66.8, 77.3), (84.3, 92.1)),
            Row("w/o MAD", "without_mad", (65.4, 75.7), (84.0, 92.1)),
            Row("w/o CIP", "without_cip", (67.1, 77.0), (83.9, 91.7)),
            Row("Ours", FULL, *_OURS),
        ),
    ),
    "IV": (
        "Multi-scale Temporal Encoder",
        (
            Row("w/o Encoder", "without_mte", (66.8, 77.3), (84.3, 92.1)),
            Row("w/o VSS Block", "without_vss", (68.1, 77.4), (84.4, 92.1)),
            Row("w/o Temporal Mamba", "without_temporal_mamba", (67.6, 77.2), (84.6, 92.2)),
            Row("Ours", FULL, *_OURS),
        ),
    ),
    "V": (
        "Modality Aggregation Decoder",
        (
            Row("w/o Decoder", "without_mad", (65.4, 75.7), (84.0, 92.1)),
            Row("w/o Frame-level", "without_frame_level", (67.0, 77.1), (84.5, 92.3)),
            Row("w/o Temporal-level", "without_temporal_level", (66.6, 76.8), (84.6, 92.2)),
            Row("Ours", FULL, *_OURS),
        ),
    ),
    "VI": (
        "Contextual Integration Pyramid",
        (
            Row("w/o CIP", "without_cip", (67.1, 77.0), (83.9, 91.7)),
            Row("w/o Temporal Mamba", "cip_without_temporal_mamba", (67.9, 76.8), (84.6, 92.1)),
            Row("w/o A2V Selective Scan", "cip_without_a2v", (68.5, 78.1), (85.0, 92.4)),
            Row("Ours", FULL, *_OURS),
        ),
    ),
    "VII": (
        "Number of scan orders in Temporal Mamba",
        (
            Row("2", "orders_2", (67.6, 77.3), (84.1, 91.8)),
            Row("4", "orders_4", (67.8, 77.0), (84.2, 92.2)),
            Row("6", "orders_6", (68.7, 77.3), (84.6, 92.3)),
            Row("8 (Ours)", FULL, *_OURS),
            Row("10", "orders_10", (69.0, 78.3), (84.6, 92.2)),
            Row("12", "orders_12", (68.6, 78.1), (84.3, 92.0)),
        ),
    ),
}

# Table I: method, backbone, S4, MS3.
OBJECT: tuple[tuple[str, str, Score, Score], ...] = (
    ("TPAVI", "ResNet50", (72.8, 84.8), (47.9, 57.8)),
    ("TPAVI", "PVT-v2", (78.7, 87.9), (54.0, 64.5)),
    ("CATR", "ResNet50", (74.8, 86.6), (52.8, 65.3)),
    ("CATR", "PVT-v2", (81.4, 89.6), (59.0, 70.0)),
    ("AQFormer", "ResNet50", (77.0, 86.4), (55.7, 66.9)),
    ("AQFormer", "PVT-v2", (81.6, 89.4), (61.1, 72.1)),
    ("PIF", "ResNet50", (75.4, 86.1), (53.9, 65.4)),
    ("PIF", "PVT-v2", (81.4, 90.0), (58.9, 70.9)),
    ("AVSBiGen", "ResNet50", (74.1, 85.4), (45.0, 56.8)),
    ("AVSBiGen", "PVT-v2", (81.7, 90.4), (55.1, 66.8)),
    ("DIFFAVS", "ResNet50", (75.8, 86.9), (49.8, 58.2)),
    ("DIFFAVS", "PVT-v2", (81.4, 90.2), (58.2, 70.9)),
    ("BAVS", "ResNet50", (78.0, 85.3), (50.2, 62.4)),
    ("BAVS", "PVT-v2", (82.0, 88.6), (58.6, 65.5)),
    ("ECMVAE", "ResNet50", (76.3, 86.5), (48.7, 60.7)),
    ("ECMVAE", "PVT-v2", (81.7, 90.1), (57.8, 70.8)),
    ("AVSegFormer", "ResNet50", (76.4, 86.7), (53.8, 65.6)),
    ("AVSegFormer", "PVT-v2", (83.1, 90.5), (61.3, 73.0)),
    ("AVSAC", "ResNet50", (76.9, 87.0), (54.0, 65.8)),
    ("AVSAC", "PVT-v2", (84.5, 91.6), (64.2, 76.6)),
    ("SelM", "ResNet50", (76.6, 86.2), (54.5, 65.6)),
    ("SelM", "PVT-v2", (83.5, 91.2), (60.3, 71.3)),
    ("AVS-Mamba", "ResNet50", (78.6, 88.9), (63.9, 74.9)),
    ("AVS-Mamba", "PVT-v2", (85.0, 92.6), (68.6, 78.8)),
)

# Table II: method, backbone, AVSBench-semantic.
SEMANTIC: tuple[tuple[str, str, Score], ...] = (
    ("TPAVI", "ResNet50", (20.2, 25.2)),
    ("TPAVI", "PVT-v2", (29.8, 35.2)),
    ("BAVS", "ResNet50", (24.7, 29.6)),
    ("BAVS", "PVT-v2", (32.6, 36.4)),
    ("AVSegFormer", "ResNet50", (26.6, 31.5)),
    ("AVSegFormer", "PVT-v2", (37.3, 42.8)),
    ("AVSAC", "ResNet50", (25.4, 29.7)),
    ("AVSAC", "PVT-v2", (37.0, 42.4)),
    ("SelM", "ResNet50", (31.9, 37.2)),
    ("SelM", "PVT-v2", (41.3, 46.9)),
    ("AVS-Mamba", "ResNet50", (32.2, 38.2)),
    ("AVS-Mamba", "PVT-v2", (39.7, 45.1)),
)
