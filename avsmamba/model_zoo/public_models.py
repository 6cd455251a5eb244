"""Recognise public checkpoints, from which configs start, by the names and shapes of their tensors."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from avsmamba.checkpoint.reading import compare, take_prefix
from avsmamba.checkpoint.released import is_released, outline
from avsmamba.models.audio import VGGish
from avsmamba.models.backbones import TimmBackbone, Vim, VMamba
from avsmamba.models.backbones.vim import ARCHS as VIM_ARCHS
from avsmamba.models.backbones.vmamba import ARCHS as VMAMBA_ARCHS
from avsmamba.utils import UserError


class Family(NamedTuple):
    """Models whose tensors have similar names.

    Attributes:
        name: shown to the user.
        sign: pattern that matches the name of at least one tensor in every file of the family.
        members: constructors of the models by name.
    """

    name: str
    sign: str
    members: Mapping[str, Callable[[], nn.Module]]


FAMILIES = (
    Family(
        "VMamba",
        r"\.(?:op|self_attention)\.x_proj_weight$",
        {name: partial(VMamba, name) for name in VMAMBA_ARCHS},
    ),
    Family("Vim", r"\.mixer\.A_b_log$", {name: partial(Vim, name) for name in VIM_ARCHS}),
    Family(
        "PVT-v2",
        r"(?:^|\.)(?:block1\.0|stages\.0\.blocks\.0)\.attn\.kv\.weight$",
        {f"pvt_v2_b{i}": partial(TimmBackbone, f"pvt_v2_b{i}") for i in range(6)},
    ),
    Family(
        "ResNet",
        r"(?:^|\.)layer1\.0\.conv1\.weight$",
        {f"resnet{n}": partial(TimmBackbone, f"resnet{n}") for n in (18, 34, 50, 101, 152)},
    ),
    Family("VGGish", r"(?:^|\.)embeddings\.4\.weight$", {"torchvggish": partial(VGGish, pretrained=False)}),
)
# Larger models around a backbone, by a pattern of names that only they have; the first match counts.
AROUND = (
    (r"^roi_heads\.mask_predictor\.", "torchvision's Mask R-CNN"),
    (r"^roi_heads\.", "torchvision's Faster R-CNN"),
    (r"^classifier\.0\.convs\.", "torchvision's DeepLabV3"),
    (r"^classifier\.0\.weight$", "torchvision's FCN"),
    (r"^tpavi_b\d\.", "TPAVI, by its authors"),
    (r"^head\.learnable_query\.", "AVSegFormer, by its authors"),
    (r"^decode_head\.", "a segmenter of OpenMMLab"),
    (r"^(?:neck|bbox_head|rpn_head)\.", "a detector of OpenMMLab"),
)


class Kind(NamedTuple):
    """The model that a state dict belongs to.

    Attributes:
        family: name of the family; None: unknown.
        model: the member of the family that it fits; None: it fits none.
        around: the larger model that contains it; None: there is none.
        unused: names of tensors that are not the member's, such as a classifier's or those of the larger model.
    """

    family: str | None
    model: str | None
    around: str | None
    unused: Sequence[str]


def is_whole(state: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict is of a whole audio-visual model of this package."""
    return any(k.startswith("audio_encoder.") for k in state)


def recognise(state: Mapping[str, Tensor]) -> Kind:
    """Recognise the public model that a state dict belongs to."""
    if is_whole(state):
        return Kind(None, None, "a whole model of avsmamba", [])
    if is_released(state):
        return Kind(None, None, outline(state), [])
    around = next((what for sign, what in AROUND if any(re.search(sign, k) for k in state)), None)
    family = next((f for f in FAMILIES if any(re.search(f.sign, k) for k in state)), None)
    if family is None:
        return Kind(None, None, around, [])
    shapes = {k: v.to("meta") for k, v in state.items()}
    for name, make in family.members.items():
        with torch.device("meta"):
            layout = make().layout()
        part, _, rest = take_prefix(shapes, layout.prefixes)
        try:
            ours, unused, _ = layout.read(part, "")
        except UserError:
            continue
        fit = compare(layout.module.state_dict(), ours)
        if not (fit.missing or fit.unexpected or fit.misfits):
            return Kind(family.name, name, around, [*unused, *rest])
    return Kind(family.name, None, around, [])
