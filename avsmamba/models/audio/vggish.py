"""VGGish, the paper's audio encoder: log-mel patches to 128 features a second."""

import logging

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from avsmamba.checkpoint.pretrained import Layout, by_leading_part, load_pretrained
from avsmamba.models.audio.patches import per_second
from avsmamba.registry import MODELS
from avsmamba.utils import UserError

PLAN = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool")
# This package's, a released AVS-Mamba's, AVSegFormer's.
PREFIXES = ("audio_encoder.", "audio_backbone.", "vggish.")
EXPECTED = "the public VGGish weights (vggish-10086976.pth of the torchvggish release)"


@MODELS.register_module()
class VGGish(nn.Module):
    """Six convolutions and three linear layers (Hershey et al., 2017), with the keys of the torchvggish release.

    Each second is encoded alone. The feature map is laid out channels-last before the linear layers, as in the
    original, and the 128 features are those after the last ReLU, without the release's PCA.

    Args:
        checkpoint: local file with the public weights, read by `init_weights`, which mmengine calls when a training
            starts; a model that is tested or resumed does not need it. None: random weights.
        pretrained: True: weights must be loaded, a `checkpoint` that is not named is an error. False: random weights,
            whatever `checkpoint` says. None: loaded if `checkpoint` is named.
        frozen: no gradients, and always in eval mode.

    Attributes:
        out_channels: 128.

    Raises:
        UserError: if `pretrained` is True and no `checkpoint` is named.
    """

    def __init__(self, checkpoint: str | None = None, pretrained: bool | None = None, frozen: bool = True):
        super().__init__()
        if pretrained and checkpoint is None:
            raise UserError(f"VGGish: pretrained is true, but checkpoint names no file; expected {EXPECTED}, or "
                            "pretrained: false for random weights")  # fmt: skip
        self.checkpoint = None if pretrained is False else checkpoint
        self.frozen = frozen
        self.out_channels = 128
        layers: list[nn.Module] = []
        channels = 1
        for step in PLAN:
            if isinstance(step, str):
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, step, 3, padding=1), nn.ReLU(inplace=True)]
                channels = step
        self.features = nn.Sequential(*layers)
        linear: list[nn.Module] = []
        for c_in, c_out in ((512 * 6 * 4, 4096), (4096, 4096), (4096, self.out_channels)):
            linear += [nn.Linear(c_in, c_out), nn.ReLU(inplace=True)]
        self.embeddings = nn.Sequential(*linear)
        if frozen:
            self.requires_grad_(False)
        self.train()

    def init_weights(self) -> None:
        """Load `checkpoint`, if one is named; a log line warns of a frozen encoder without weights.

        Raises:
            UserError: if the file is missing, damaged, or not VGGish's.
        """
        if self.checkpoint is None:
            if self.frozen:
                print_log(
                    "VGGish: frozen at random weights, since no checkpoint is loaded; its features are poor",
                    logger="current",
                    level=logging.WARNING,
                )
            return
        try:
            load_pretrained(self.layout(), self.checkpoint, "VGGish")
        except UserError as error:
            raise UserError(f"{error}; expected {EXPECTED}, or pretrained: false for random weights") from error

    def layout(self) -> Layout:
        """How the file is read: names are the release's own; its PCA (`pproc`) is not used."""
        return Layout(self, lambda state, file: by_leading_part(state, ("pproc",)), PREFIXES)

    def train(self, mode: bool = True) -> "VGGish":
        """As in `nn.Module`; a frozen encoder stays in eval mode."""
        super().train(mode and not self.frozen)
        return self

    def forward(self, log_mel: Tensor) -> Tensor:
        """Encode.

        Args:
            log_mel: `(B, T, 1, 96, 64)`, one patch a second.

        Returns:
            `(B, T, 128)`, not negative.

        Raises:
            ValueError: if `log_mel` has another shape.
        """
        patches = per_second(log_mel)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.features(patches).permute(0, 2, 3, 1).flatten(1)
            return self.embeddings(features).unflatten(0, log_mel.shape[:2])
