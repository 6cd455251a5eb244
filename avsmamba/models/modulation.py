"""Sound in the backbone: feature-wise modulation of the maps between its stages; not from the paper."""

from collections.abc import Sequence

from torch import Tensor, nn

from avsmamba.limits import MAP_NUMBER, counts, limits
from avsmamba.models.layers.stage_fusion import StageFusion
from avsmamba.registry import MODELS


@MODELS.register_module()
class AudioModulation(StageFusion):
    """Scale and shift the channels of a stage's map by linear functions of the frame's sound: x (1 + U a) + V a.

    Both start at zero, where the backbone is unchanged, so that a pretrained one can be used. The sound itself passes
    unchanged. Source: FiLM (Perez et al., AAAI 2018).

    Args:
        in_channels: channels of the four maps.
        audio_channels: channels of the audio encoder.
        embed_dims: hidden channels of the sound's layer, which all stages share.
        scales: after which stages, 1 (stride 4) to 4.
    """

    @limits(**counts("embed_dims"), scales=MAP_NUMBER)
    def __init__(
        self,
        in_channels: Sequence[int],
        audio_channels: int,
        embed_dims: int = 256,
        scales: Sequence[int] = (1, 2, 3, 4),
    ):
        super().__init__()
        self.out_channels = audio_channels
        self.hidden = nn.Sequential(nn.LayerNorm(audio_channels), nn.Linear(audio_channels, embed_dims), nn.GELU())
        self.outputs = nn.ModuleDict({str(s - 1): nn.Linear(embed_dims, 2 * in_channels[s - 1]) for s in scales})
        for linear in self.outputs.values():
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def fuse(self, stage: int, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Modulate the map `(N, C_i, h_i, w_i)` after stage 0 to 3; the state `(N, C_a)` passes."""
        if str(stage) not in self.outputs:
            return x, state
        scale, shift = self.outputs[str(stage)](self.hidden(state))[:, :, None, None].chunk(2, dim=1)
        return x * (1 + scale) + shift, state
