"""SelM (Li et al., ACM MM 2024: selective mechanism based audio-visual segmentation) as parts of AVSSegmentor.

Stage fusion: the dual alignment (DAM) after each stage of the backbone. Projection: 1 x 1 convolutions. Encoder: gates
over time from Mamba (BCSM). Decoder, head and loss are in `selm_decoder`. Accidents of the public code (Cyyzpoi/SelM,
Apache-2.0) are options; its layers whose output nothing reads are omitted (docs/methods/selm.md).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avsmamba.limits import AT_LEAST_1, POSITIVE, counts, limits, one_of
from avsmamba.models.layers.conv import CausalConv1d
from avsmamba.models.layers.ssm import MultiDirectionalSSM, SSMOptions
from avsmamba.models.layers.stage_fusion import StageFusion
from avsmamba.models.projection import project_maps
from avsmamba.ops import selective_scan_1d
from avsmamba.registry import MODELS

NORMS, GATES = one_of(("layer", "instance")), one_of(("intended", "released"))


def group_norm(channels: int) -> nn.GroupNorm:
    """Build a group normalisation with 8 channels a group; one group for fewer than 16 channels.

    Raises:
        ValueError: if groups do not divide the channels.
    """
    return nn.GroupNorm(max(1, channels // 8), channels)


def over_pixels(tokens: Tensor) -> Tensor:
    """Normalise each channel of `(N, L, C)` over the L pixels, without weights (instance norm); return `(N, C, L)`."""
    return F.layer_norm(tokens.transpose(1, 2).contiguous(), (tokens.shape[1],))


class DualAlignment(nn.Module):
    """A frame's map and its one sound change each other (SelM's DAM).

    Visual side: u = Norm(W_o W_v a), r = GELU(W (GELU(W_p x) * u)), x + tanh(W_2 ReLU(W_1 r)) * r. An attention of each
    pixel to one sound has the weight 1, so the public code's query and key of this side never learn and are omitted.
    Audio side: the sound attends to the pixels, a + GELU(W W_o attention(W_2 W_1 a, IN(W_k x), IN(W_v x))), IN over the
    pixels.

    Args:
        channels: C of the map.
        audio_channels: A of the sound.
        norm: of u, see `SelMFusion`.
    """

    def __init__(self, channels: int, audio_channels: int, norm: str):
        super().__init__()
        self.norm, self.scale = norm, channels**-0.5
        self.pixels, self.fused = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.message = nn.Sequential(nn.Linear(audio_channels, channels), nn.Linear(channels, channels))
        self.gate = nn.Sequential(
            nn.Linear(channels, channels, bias=False), nn.ReLU(), nn.Linear(channels, channels, bias=False), nn.Tanh()
        )
        self.query = nn.Sequential(nn.Linear(audio_channels, channels), nn.Linear(channels, audio_channels))
        # The normalisation over the pixels removes a bias.
        self.key, self.value = (nn.Linear(channels, audio_channels, bias=False) for _ in range(2))
        self.answer = nn.Sequential(
            nn.Linear(audio_channels, audio_channels), nn.Linear(audio_channels, audio_channels), nn.GELU()
        )

    def forward(self, x: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Map `(N, C, h, w)` and `(N, A)` to the same shapes."""
        tokens = x.flatten(2).transpose(1, 2)
        message = self.message(audio).unsqueeze(1)
        if self.norm == "instance":
            message = over_pixels(message.expand(-1, tokens.shape[1], -1)).transpose(1, 2)
        else:
            message = F.layer_norm(message, message.shape[-1:])
        residual = F.gelu(self.fused(F.gelu(self.pixels(tokens)) * message))
        changed = tokens + self.gate(residual) * residual
        weights = (self.query(audio).unsqueeze(1) @ over_pixels(self.key(tokens)) * self.scale).softmax(-1)
        found = over_pixels(self.value(tokens)) @ weights.transpose(1, 2)
        return changed.transpose(1, 2).unflatten(2, x.shape[2:]), audio + self.answer(found.squeeze(2))


@MODELS.register_module()
class SelMFusion(StageFusion):
    """Dual alignment of each frame and its second of sound after every stage of the backbone (SelM's DAM).

    Before the first stage the sound goes through a linear layer and a layer normalisation. Its state is updated from
    stage to stage and is the audio of the next parts.

    Args:
        in_channels: channels of the four maps, finest first.
        audio_channels: channels of the audio features.
        embed_dims: channels of the sound's state.
        norm: of the sound's message to the pixels, without weights. 'layer': over the channels. 'instance': over the
            pixels, as in the public code; the message is the same at every pixel, so it becomes zero, and the sound
            does not reach the maps here.
    """

    @limits(**counts("embed_dims"), norm=NORMS)
    def __init__(self, in_channels: Sequence[int], audio_channels: int, embed_dims: int = 256, norm: str = "layer"):
        super().__init__()
        self.out_channels = embed_dims
        self.audio = nn.Sequential(nn.Linear(audio_channels, embed_dims), nn.LayerNorm(embed_dims))
        self.stages = nn.ModuleList(DualAlignment(c, embed_dims, norm) for c in in_channels)

    def start(self, audio: Tensor) -> Tensor:
        """Return the sound's state `(N, C)` before the first stage."""
        return self.audio(audio.flatten(0, 1))

    def fuse(self, stage: int, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return map `(N, C_i, h_i, w_i)` and state `(N, C)` after a stage."""
        return self.stages[stage](x, state)


@MODELS.register_module()
class SelMProjection(nn.Module):
    """A 1 x 1 convolution and a group normalisation for each map; the audio is projected before, by `SelMFusion`.

    Args:
        in_channels: channels of the four maps, finest first.
        audio_channels: channels of the audio, which must be C.
        embed_dims: C.

    Raises:
        ValueError: if the audio has another number of channels.
    """

    @limits(**counts("embed_dims"))
    def __init__(self, in_channels: Sequence[int], audio_channels: int, embed_dims: int = 256):
        super().__init__()
        if audio_channels != embed_dims:
            raise ValueError(
                f"audio_channels: expected embed_dims {embed_dims}, as from SelMFusion, got {audio_channels}"
            )
        self.visual = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, embed_dims, 1), group_norm(embed_dims)) for c in in_channels
        )

    def forward(self, maps: list[Tensor], audio: Tensor) -> tuple[list[Tensor], Tensor]:
        """Project `(B * T, C_i, h_i, w_i)` maps to `(B, T, h_i, w_i, C)`; the `(B, T, C)` audio is not changed."""
        return project_maps(self.visual, maps, *audio.shape[:2]), audio


class MambaLayer(nn.Module):
    """LN(x) + Mamba(LN(x)) over a sequence; the residual is that of the normalised x, as in SelM.

    Mamba (Gu and Dao, 2023): Linear to (x, z) -> causal convolution of 4 taps, SiLU, selective scan -> times SiLU(z) ->
    Linear.
    """

    def __init__(self, channels: int, options: SSMOptions):
        super().__init__()
        inner = options.inner(channels)
        self.norm = nn.LayerNorm(channels)
        self.in_proj = nn.Linear(channels, 2 * inner, bias=False)
        self.conv = CausalConv1d(inner, activation="silu")
        self.ssm = MultiDirectionalSSM(channels, 1, options)
        self.out_proj = nn.Linear(inner, channels, bias=False)

    def forward(self, sequence: Tensor) -> Tensor:
        """Map `(B, T, C)` to the same shape."""
        sequence = self.norm(sequence)
        x, gate = self.in_proj(sequence).chunk(2, dim=-1)
        x = self.conv(x)
        y = selective_scan_1d(x, self.ssm.scan_parameters(x))
        return sequence + self.out_proj(y * F.silu(gate))


def temporal_gate(channels: int, num_layers: int, options: SSMOptions) -> nn.Sequential:
    """Build Mamba layers over the seconds, then SiLU(Linear(.)): a factor for each second and channel."""
    layers = [MambaLayer(channels, options) for _ in range(num_layers)]
    return nn.Sequential(*layers, nn.Linear(channels, channels), nn.SiLU())


@MODELS.register_module()
class SelMEncoder(nn.Module):
    """Sound and maps gate each other's channels over time (SelM's BCSM, bi-directional cross selection).

    For each map i: x_i + g_i(a) * x_i, with a gate from the sounds; a + mean_i(h_i(v_i)) * a, with gates from
    v_i = Linear(mean of map i over its pixels). The gates read the seconds in order: each depends on those before.

    Args:
        embed_dims: channels C.
        num_layers: Mamba layers of each gate.
        d_state: size N of the state of each channel.
        expand: inner channels of Mamba over C.
        gates: 'intended': each frame has its own gates. 'released': the public code, which swaps the axes of clips and
            frames, so that in a batch of several clips the gates of maps 2 to 4 and those of the sounds reach frames of
            other clips; the same for one clip.
    """

    reads_audio = True

    @limits(**counts("embed_dims", "num_layers"), d_state=AT_LEAST_1, expand=POSITIVE, gates=GATES)
    def __init__(
        self,
        embed_dims: int = 256,
        num_layers: int = 3,
        d_state: int = 16,
        expand: float = 2.0,
        gates: str = "intended",
    ):
        super().__init__()
        options = SSMOptions(d_state, expand)
        self.gates = gates
        self.pooled = nn.ModuleList(nn.Linear(embed_dims, embed_dims) for _ in range(4))
        self.visual, self.audio = (
            nn.ModuleList(temporal_gate(embed_dims, num_layers, options) for _ in range(4)) for _ in range(2)
        )

    def forward(self, maps: list[Tensor], audio: Tensor) -> tuple[list[Tensor], Tensor]:
        """Gate four `(B, T, h_i, w_i, C)` maps and the `(B, T, C)` audio; both keep their shapes."""
        to_maps = [gate(audio) for gate in self.audio]
        to_audio = [
            gate(pooled(x.mean((2, 3)))) for gate, pooled, x in zip(self.visual, self.pooled, maps, strict=True)
        ]
        if self.gates == "released":
            to_maps, to_audio = [to_maps[0], *map(swapped, to_maps[1:])], [swapped(g) for g in to_audio]
        gated = [x + g[:, :, None, None] * x for x, g in zip(maps, to_maps, strict=True)]
        return gated, audio + torch.stack(to_audio).mean(0) * audio


def swapped(gate: Tensor) -> Tensor:
    """Read `(B, T, C)` frame by frame in the order of `(T, B, C)`."""
    return gate.transpose(0, 1).reshape(gate.shape)
