"""VGGish, the paper's audio encoder: log-mel patches to 128 features a second."""

import logging

from einops import rearrange
from mmengine.logging import print_log
from torch import Tensor, nn

from avsmamba.checkpoint.pretrained import Layout, by_leading_part
from avsmamba.models.audio.patches import per_second
from avsmamba.models.pretrained_part import PretrainedPart
from avsmamba.registry import MODELS
from avsmamba.utils import UserError

PLAN = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool")
# This package's, a released AVS-Mamba's, AVSegFormer's.
PREFIXES = ("audio_encoder.", "audio_backbone.", "vggish.")
EXPECTED = "the public VGGish weights (vggish-10086976.pth of the torchvggish release)"


@MODELS.register_module()
class VGGish(PretrainedPart):
    """Six convolutions and three linear layers (Hershey et al., 2017), with the keys of the torchvggish release.

    Each second is encoded independently. The feature map is channels-last before the linear layers, as in the original,
    and the 128 features are those after the last ReLU, without the release's PCA.

    Args:
        checkpoint: local file with the public weights, read by `init_weights`, which mmengine calls when a training
            starts; a model that is tested or resumed does not need it. None: random weights.
        pretrained: True: weights must be loaded, a missing `checkpoint` is an error. False: random weights;
            `checkpoint` is ignored. None: loaded if `checkpoint` is named.
        frozen: no gradients, and always in eval mode.
        tokens: return the 6 x 4 positions (time, frequency) of the last feature map instead of the 128 features; the
            linear layers, with most of the weights, do not exist then.

    Attributes:
        out_channels: 128, with `tokens` 512.

    Raises:
        UserError: if `pretrained` is True and no `checkpoint` is named.
    """

    def __init__(
        self,
        checkpoint: str | None = None,
        pretrained: bool | None = None,
        frozen: bool = True,
        tokens: bool = False,
    ):
        super().__init__("VGGish", None if pretrained is False else checkpoint, frozen)
        if pretrained and checkpoint is None:
            raise UserError(f"VGGish: pretrained is true, but checkpoint names no file; expected {EXPECTED}, or "
                            "pretrained: false for random weights")  # fmt: skip
        self.tokens, self.out_channels = tokens, 512 if tokens else 128
        layers: list[nn.Module] = []
        channels = 1
        for step in PLAN:
            if isinstance(step, str):
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, step, 3, padding=1), nn.ReLU(inplace=True)]
                channels = step
        self.features = nn.Sequential(*layers)
        if not tokens:
            linear: list[nn.Module] = []
            for c_in, c_out in ((512 * 6 * 4, 4096), (4096, 4096), (4096, self.out_channels)):
                linear += [nn.Linear(c_in, c_out), nn.ReLU(inplace=True)]
            self.embeddings = nn.Sequential(*linear)
        self.freeze()

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
            super().init_weights()
        except UserError as error:
            raise UserError(f"{error}; expected {EXPECTED}, or pretrained: false for random weights") from error

    def layout(self) -> Layout:
        """Return how files are read: names are the release's own; its PCA (`pproc`) is not used."""
        unused = ("pproc", "embeddings") if self.tokens else ("pproc",)
        return Layout(self, lambda state, file: by_leading_part(state, unused), PREFIXES)

    def forward(self, log_mel: Tensor) -> Tensor:
        """Encode.

        Args:
            log_mel: `(B, T, 1, 96, 64)`, one patch a second.

        Returns:
            `(B, T, 128)`, or with `tokens` `(B, T, 24, 512)`, the frequency fastest; not negative.

        Raises:
            ValueError: if `log_mel` has another shape.
        """
        patches = per_second(log_mel)
        with self.gradients():
            maps = self.features(patches)
            if self.tokens:
                return rearrange(maps, "(b t) c h w -> b t (h w) c", b=len(log_mel))
            features = rearrange(maps, "n c h w -> n (h w c)")
            return self.embeddings(features).unflatten(0, log_mel.shape[:2])
