"""What the backbones and VGGish share: loading public weights, and freezing what they fill."""

import torch
from torch import nn

from avsmamba.checkpoint.pretrained import Layout, load_pretrained


class PretrainedPart(nn.Module):
    """A part of the model that a public file can fill; a frozen one has no gradients and stays in eval mode.

    A subclass implements `layout` and calls `freeze` at the end of its constructor.

    Args:
        title: name in the log.
        checkpoint: local file that `init_weights` reads, or None.
        frozen: whether it is frozen.
        new_parts: children that public files do not hold; they are always trained.
    """

    def __init__(self, title: str, checkpoint: str | None, frozen: bool, new_parts: tuple[str, ...] = ()):
        super().__init__()
        self.title, self.checkpoint, self.frozen, self.new_parts = title, checkpoint, frozen, new_parts

    def layout(self) -> Layout:
        """Return how files are read."""
        raise NotImplementedError

    def init_weights(self) -> None:
        """Load `checkpoint`, if one is named; new parts that it does not hold keep their initial values.

        Raises:
            UserError: if the file is missing, damaged, or does not hold all of the part's tensors.
        """
        if self.checkpoint is not None:
            load_pretrained(self.layout(), self.checkpoint, self.title)

    def freeze(self) -> None:
        """Switch gradients off if the part is frozen, and set the mode."""
        for name, parameter in self.named_parameters():
            if self.frozen and name.split(".")[0] not in self.new_parts:
                parameter.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> "PretrainedPart":
        """Set the mode, as in `nn.Module`; what is frozen stays in eval mode."""
        super().train(mode and (not self.frozen or bool(self.new_parts)))
        for name, child in self.named_children():
            if self.frozen and name not in self.new_parts:
                child.eval()
        return self

    def gradients(self, always: bool = False) -> torch.set_grad_enabled:
        """Return a context in which gradients are recorded if they are outside, and the part is not frozen or `always`.

        A frozen part through which gradients pass to others has to record them.
        """
        return torch.set_grad_enabled(torch.is_grad_enabled() and (always or not self.frozen))
