"""Choices of command-line options, also checked by the code. This module imports nothing, to keep `--help` fast."""

DEFAULT_MODEL = "shapes"
SOUNDS = ("real", "silence", "noise", "shuffle", "swap")
LAUNCHERS = ("none", "pytorch", "slurm")
PREDICTION_FORMATS = ("overlay", "masks", "json", "timeline")
# File suffix by format.
EXPORT_FORMATS = {"onnx": ".onnx", "torch-export": ".pt2"}
WEIGHT_DTYPES = ("float32", "float16")
# Options of SoundingShapes.
SUBSETS = ("s4", "ms3", "avss")
COLOURS = ("kind", "any")
DIFFICULTIES = ("plain", "hard")
# Options of `avsmamba import`.
IMPORT_TARGETS = (*SUBSETS, "cvat", "label-studio")
NO_AUDIO = ("error", "skip", "silence")
# Options of `avsmamba shards`.
FRAME_FORMATS = ("keep", "png", "jpg")
