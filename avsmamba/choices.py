"""Values that commands offer and the code checks. Nothing is imported here, so that `--help` answers at once."""

DEFAULT_MODEL = "shapes"
SOUNDS = ("real", "silence", "noise", "shuffle", "swap")
LAUNCHERS = ("none", "pytorch", "slurm")
PREDICTION_FORMATS = ("overlay", "masks", "json", "timeline")
# Each with the ending of its files.
EXPORT_FORMATS = {"onnx": ".onnx", "torch-export": ".pt2"}
WEIGHT_DTYPES = ("float32", "float16")
# Of SoundingShapes.
SUBSETS = ("s4", "ms3", "avss")
COLOURS = ("kind", "any")
DIFFICULTIES = ("plain", "hard")
