"""Names of EfficientNet-PyTorch (lukemelas), which several packages of weights have, in timm's form."""

import re

from torch import Tensor, nn

_BLOCK = re.compile(r"^_blocks\.(\d+)\._(\w+)\.(.+)$")
_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
# In a block without expansion timm has no first convolution, and numbers the rest from one.
_EXPANDED = {
    "expand_conv": "conv_pw",
    "bn0": "bn1",
    "depthwise_conv": "conv_dw",
    "bn1": "bn2",
    "project_conv": "conv_pwl",
    "bn2": "bn3",
    "se_reduce": "se.conv_reduce",
    "se_expand": "se.conv_expand",
}
_PLAIN = _EXPANDED | {"bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}


def is_efficientnet_pytorch(state: dict[str, Tensor]) -> bool:
    """Return whether the names are those of EfficientNet-PyTorch."""
    return "_conv_stem.weight" in state


def translate_efficientnet(state: dict[str, Tensor], whole: nn.Module) -> dict[str, Tensor]:
    """Rename tensors to timm's names; unknown names are kept.

    Args:
        state: tensors by EfficientNet-PyTorch's names, whose blocks are numbered through all stages.
        whole: the timm model with its classifier, whose blocks are numbered in each stage.
    """
    places = [(f"blocks.{s}.{b}", block) for s, stage in enumerate(whole.blocks) for b, block in enumerate(stage)]

    def renamed(name: str) -> str:
        found = _BLOCK.match(name)
        if found is None:
            part, dot, rest = name.partition(".")
            return _OUTSIDE.get(part, part) + dot + rest
        number, part, rest = int(found[1]), found[2], found[3]
        if number >= len(places):
            return name
        place, block = places[number]
        names = _EXPANDED if hasattr(block, "conv_pwl") else _PLAIN
        return f"{place}.{names.get(part, part)}.{rest}"

    return {renamed(name): tensor for name, tensor in state.items()}
