"""Translate checkpoints that the AVS-Mamba authors' code wrote.

Such a file is the state dict itself. It is recognised by its names and translated to those of `AVSSegmentor`; options
in which the authors' model differs from our own training are set (docs/paper_notes.md).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from avsmamba.checkpoint.pretrained import translate_part
from avsmamba.utils import UserError

SIGN = ("mamba_encoder.0.mamba_block.A_logs", "cmfpn.mask_features.weight")
# Not used in inference; `mamba_decoder_block` contains the decoder's last layer a second time.
IDLE = ("mamba_decoder_block.", "query_embed.", "audio_feature_projection.", "audio_recons_proj.")
READING = "authors_reading"
PARTS = {"vision_backbone.": "backbone", "audio_backbone.": "audio_encoder"}
SEMANTIC = "query_embed.weight"  # only in files of AVSS
# Theirs: THW, THW reversed, TWH, … Ours: all forward ones, then all reversed ones. Scans of 4 agree.
DIRECTIONS = {8: (0, 2, 4, 6, 1, 3, 5, 7)}
SSM = {
    "A_logs": "ssm.A_log",
    "Ds": "ssm.D",
    "x_proj_weight": "ssm.x_proj_weight",
    "dt_projs_weight": "ssm.dt_weight",
    "dt_projs_bias": "ssm.dt_bias",
}
VISUAL = SSM | {"conv2d": "conv", "conv3d": "conv"}
FUSION = SSM | {
    "norm_v": "visual_norm",
    "norm_a": "audio_norm",
    "in_proj_vis": "visual_proj",
    "in_proj_audio": "audio_proj",
    "conv2d": "visual_conv",
    "conv1d": "audio_conv",
}


class Place(NamedTuple):
    """A prefix in the authors' names, ours for it, and the names below it that change."""

    theirs: str
    ours: str
    names: Mapping[str, str]


class Translation(NamedTuple):
    """A released state dict in our names.

    Attributes:
        state: tensors by the names of `AVSSegmentor`; unknown ones keep their own.
        idle: names of tensors that are not used.
        reading: 'semantic' for a model of AVSS, else 'object'.
    """

    state: dict[str, Tensor]
    idle: list[str]
    reading: str


def is_released(state: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict has the names of the authors' code."""
    return all(name in state for name in SIGN)


def places() -> Iterator[Place]:
    """Yield every prefix of the neck and the head; of nested prefixes the longer one comes first."""
    for i in range(4):
        yield Place(f"input_proj.{i}.", f"projection.visual.{i}.", {})
    yield Place("audio_proj.", "projection.audio.", {})
    for layer in range(2):
        theirs, vss, ffn, temporal = f"mamba_encoder.{layer}.", *(f"encoder.blocks.{3 * layer + i}." for i in range(3))
        yield Place(f"{theirs}ln_l.", f"{vss}norm.", {})
        yield Place(f"{theirs}mamba_block.", vss, VISUAL)
        yield Place(f"{theirs}norm2.", f"{ffn}norm.", {})
        yield Place(f"{theirs}mixffn.", ffn, {"dwconv": "conv"})
        yield Place(f"{theirs}norm3.", f"{temporal}norm.", {})
        yield Place(f"{theirs}temporal_mamba.", temporal, VISUAL)
        for scale in range(3):
            for level in range(2):
                theirs, ours = f"mamba_decoder.{layer}.{scale}.{level}.", f"decoder.stages.{2 * layer + level}.{scale}."
                yield Place(f"{theirs}vision_to_audio_layer.", ours, FUSION)
                yield Place(theirs, ours, FUSION)
    for i in range(4):  # scales: ours count from the finest, theirs from the coarsest
        temporal = f"pyramid.fusion.{i}.temporal_mamba."
        yield Place(f"cmfpn.self_attns.{3 - i}.ln_l.", f"{temporal}norm.", {})
        yield Place(f"cmfpn.self_attns.{3 - i}.mamba_block.", temporal, VISUAL)
        yield Place(f"cmfpn.cross_attns.{3 - i}.audio_to_vision_layer.", f"pyramid.fusion.{i}.a2v.", FUSION)
        yield Place(f"cmfpn.cross_attns.{3 - i}.", f"pyramid.fusion.{i}.a2v.", FUSION)
        yield Place(f"cmfpn.adapter_{i + 1}.", f"pyramid.pyramid.laterals.{i}.", {})
        yield Place(f"cmfpn.layer_{i + 1}.", f"pyramid.pyramid.smooth.{i}.0.", {})
    yield Place("cmfpn.mask_features.", "pyramid.pyramid.mask_features.", {})
    yield Place("mlp.layers.", "head.mlp.", {})
    yield Place("fc.0.", "head.hidden.0.", {})
    yield Place("fc.2.", "head.hidden.1.", {})
    yield Place("fc.4.", "head.classifier.", {})


def translate(state: Mapping[str, Tensor], model: nn.Module, file: str | Path) -> Translation:
    """Translate a released state dict to the names and shapes of our model; tensors may be on the meta device.

    Args:
        state: with the authors' names.
        model: an `AVSSegmentor`; its backbone and audio encoder read their own parts.
        file: named in errors.

    Raises:
        UserError: if the model's backbone or audio encoder cannot read its part, or an option of the model that no
            shape shows differs from the authors' code.
    """
    refuse_other_readings(model, file)
    known = list(places())
    ours: dict[str, Tensor] = {}
    idle = []
    for name, tensor in state.items():
        if name.startswith(tuple(PARTS)):
            continue
        if name.startswith(IDLE) or ".mixffn.norm." in name:
            idle.append(name)
        else:
            place = next((p for p in known if name.startswith(p.theirs)), None)
            ours.update([(name, tensor)] if place is None else [translate_one(place, name, state)])
    for prefix, attribute in PARTS.items():
        part = getattr(model, attribute)
        if any(name.startswith(prefix) for name in state):
            if not hasattr(part, "layout"):
                raise UserError(
                    f"{file}: contains {prefix}*, which {type(part).__name__} (model.{attribute}) cannot read"
                )
            found, unused = translate_part(part, state, prefix, file)
            ours |= {f"{attribute}.{name}": tensor for name, tensor in found.items()}
            idle += unused
    return Translation(ours, idle, "semantic" if SEMANTIC in state else "object")


def translate_one(place: Place, name: str, state: Mapping[str, Tensor]) -> tuple[str, Tensor]:
    """Translate the name and the layout of one tensor of the neck or the head."""
    tensor = state[name]
    first, dot, rest = name.removeprefix(place.theirs).partition(".")
    ours = f"{place.ours}{place.names.get(first, first)}{dot}{rest}"
    if first in SSM:
        if first in ("A_logs", "Ds"):  # directions and channels are one axis
            bias = state.get(f"{place.theirs}dt_projs_bias")
            tensor = tensor if bias is None else tensor.unflatten(0, (len(bias), -1))
        order = DIRECTIONS.get(len(tensor))
        tensor = tensor if order is None else tensor[list(order)]
    elif first == "conv3d" and tensor.ndim == 5 and tensor.shape[2] == 1:  # (1, 3, 3): over each frame alone
        tensor = tensor.squeeze(2)
    elif tensor.ndim == 4 and tensor.shape[2:] == (1, 1) and not ours.startswith("projection."):
        tensor = tensor.flatten(1)  # a 1 x 1 convolution, linear on tokens
    return ours, tensor


def refuse_other_readings(model: nn.Module, file: str | Path) -> None:
    """Raise a UserError if a model's options differ from the authors' code where no name or shape shows it."""
    decoder, encoder = getattr(model, "decoder", None), getattr(model, "encoder", None)
    wrong = []
    if decoder is not None and hasattr(decoder, "stages"):
        if not decoder.scale_by_scale:
            wrong.append("model.decoder.scale_by_scale: true")
        if any(b.level == "frame" and not b.one_token for stage in decoder.stages for b in stage):
            wrong.append("model.decoder.frame_audio_context: frame")
    if encoder is not None and any(m.eps != 1e-6 for n, m in encoder.named_modules() if n.endswith(".norm")):
        wrong.append("model.encoder.norm_eps: 1e-6")
    if wrong:
        raise UserError(f"{file}: a checkpoint of the authors' code needs {', '.join(wrong)}")


def use_authors_reading(model: nn.Module, reading: str) -> list[str]:
    """Set the options in which the authors' code differs from our own training.

    Args:
        model: an `AVSSegmentor`.
        reading: of the checkpoint, 'object' or 'semantic'. The model keeps it as an attribute, and a training writes it
            into the `meta` of its checkpoints, so that they are read in the same way.

    Returns:
        The changed options, in the form `key: value` of a config.
    """
    changed = []
    setattr(model, READING, reading)
    pyramid = getattr(model, "pyramid", None)
    if pyramid is not None:
        pyramid.repeat_stride_8, pyramid.pyramid.upsampling = True, "nearest"
        changed += ["model.pyramid.repeat_stride_8: true", "model.pyramid.upsampling: nearest"]
    if reading == "semantic":
        model.padded_frames = "zeros"
        changed.append("model.padded_frames: zeros")
    return changed


def idle_parts(names: Sequence[str]) -> list[str]:
    """Shorten the names of idle tensors to those of their parts."""
    parts = [*IDLE, "vision_backbone.layer3_2.", "vision_backbone.layer4_2."]
    return list(dict.fromkeys(next((f"{p}*" for p in parts if name.startswith(p)), name) for name in sorted(names)))


def outline(state: Mapping[str, Tensor]) -> str:
    """Describe a released state dict: backbone and number of classes."""
    classes = len(state["fc.4.weight"]) if "fc.4.weight" in state else 0
    backbone = "ResNet-50" if "vision_backbone.layer4_1.0.conv1.weight" in state else "PVT-v2"
    return f"AVS-Mamba as its authors released it: {backbone}, {classes} class{'' if classes == 1 else 'es'}"
