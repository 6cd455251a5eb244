"""Load foreign weights into a part of the model; the part's `layout()` says how they are translated."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mmengine.logging import print_log
from torch import Tensor, nn

from avsmamba.checkpoint.reading import load_checkpoint_file, load_into, name_some

Translation = Callable[[dict[str, Tensor], str | Path], tuple[dict[str, Tensor], list[str]]]


class Layout(NamedTuple):
    """How a part reads files that were not written by this package.

    Attributes:
        module: is filled.
        translate: from a file's tensors (and the file's name, for errors) to those of `module` by its own names, and
            the names of tensors that are known not to belong to it, such as a classifier's.
        prefixes: of the part's names in files of larger models, the most specific first.
        new_parts: leading parts of the module's names that foreign files do not contain; they keep their values.
    """

    module: nn.Module
    translate: Translation
    prefixes: Sequence[str] = ()
    new_parts: Sequence[str] = ()

    def read(self, state: dict[str, Tensor], file: str | Path) -> tuple[dict[str, Tensor], list[str], list[str]]:
        """Return a file's tensors by the module's names, names that are not used, and those filled from the module."""
        ours, unused = self.translate(state, file)
        kept: dict[str, Tensor] = {}
        for part in self.new_parts:
            if not any(k.startswith(f"{part}.") for k in ours):
                kept |= {k: v for k, v in self.module.state_dict().items() if k.startswith(f"{part}.")}
        return ours | kept, unused, list(kept)


def load_pretrained(layout: Layout, path: str | Path, what: str) -> None:
    """Load every tensor that a file must contain into a part, or none and raise an error.

    Args:
        layout: of the part.
        path: local file.
        what: the model's name, for the log.

    Raises:
        UserError: if the file is missing, damaged, or does not fit.
    """
    state, unused, kept = layout.read(load_checkpoint_file(path, strip=layout.prefixes), path)
    load_into(layout.module, state, file=path)
    if unused:
        part = type(layout.module).__name__
        print_log(f"{path}: not part of {part}, not used: {name_some(unused)}", logger="current")
    if kept:
        print_log(f"{path}: missing from the file, keep their initial values: {name_some(kept)}", logger="current")
    print_log(f"{what}: pretrained weights from {path}", logger="current")


def translate_part(
    part: nn.Module, state: Mapping[str, Tensor], prefix: str, file: str | Path
) -> tuple[dict[str, Tensor], list[str]]:
    """Translate one part of a larger foreign model, such as `vision_backbone.*` of a released AVS-Mamba.

    Args:
        part: has a `layout()`: a backbone, or VGGish.
        state: tensors of the larger model by name; those without the prefix are ignored.
        prefix: of the part's names in `state`.
        file: named in errors.

    Returns:
        tensors by the names of `part.state_dict()` (unknown ones keep their own), and the names in `state` of tensors
        that are known to be idle, such as a second head's.

    Raises:
        UserError: if the tensors cannot be read as this part's.
    """
    layout = part.layout()
    own = next(name for name, module in part.named_modules() if module is layout.module)
    own = f"{own}." if own else ""
    mine = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    tensors, unused, kept = layout.read(mine, file)
    return {own + k: v for k, v in tensors.items() if k not in kept}, [prefix + k for k in unused]


def by_leading_part(state: dict[str, Tensor], parts: Sequence[str]) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors whose names' first part is none of `parts`, and the other names."""
    unused = [k for k in state if k.split(".")[0] in parts]
    return {k: v for k, v in state.items() if k not in unused}, unused
