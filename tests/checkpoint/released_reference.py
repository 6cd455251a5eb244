"""The released AVS-Mamba in float64, written from its description alone: slow, plain, in the authors' own names.

Nothing here comes from `avsmamba`; the project's model is checked against it. Every function takes the authors' state
dict. Maps of a clip are (T, C, H, W), finest first; audio is (T, C). Drop path is off (inference).

Sources: the description of the released model (names, order of parts, eps, the slip in CIP), the paper's equations,
VMamba's public conventions. What these leave open is decided as follows:

 1. `in_proj` of VSS and Temporal Mamba gives x in its first E rows and the gate z in the last E (VMamba). So do
    `in_proj_audio` of Vision-to-Audio and `in_proj_vis` of Audio-to-Vision, which hold 2E rows.
 2. z meets neither convolution nor scan: y = out_proj(out_norm(sum) * SiLU(z)), added to the block's input before
    its norm.
 3. Directions of both cross-modal blocks: (THW, TWH, THW reversed, TWH reversed), VMamba's order of four; at frame
    level (HW, WH, HW reversed, WH reversed). The paper's text of A2V, "THW(+)(-) and TWH(+)(-)", could also mean
    (THW, THW reversed, TWH, TWH reversed), as the eight of Temporal Mamba are: see FUSION_DIRECTIONS.
 4. Vision-to-Audio: a reversed direction reverses the visual tokens and, apart from them, the audio tokens; audio
    stays behind. Audio-to-Vision: the same with audio in front. Audio and visual tokens share x_proj, dt_projs, A, D.
 5. Temporal Mamba and VSS over several scales: in every direction the scales follow one after the other, finest
    first, each flattened in the direction's order; the whole sequence is reversed (so the coarsest comes first then).
 6. Causal convolution: tap 3 meets the present token, taps 2, 1, 0 those before; zeros before the first token. It and
    the depthwise convolutions run before the tokens are put in order, so time is never reversed in them.
 7. The query is the projected audio (`audio_proj`, no norm, no activation): MAD starts from it, layer 1 continues
    from what layer 0 returned, and CIP takes it as it was before MAD. `query_embed` is not read.
 8. MAD sees the maps that MTE returns, and does not change them; the stride-4 map skips MTE and enters CIP as
    `input_proj.0` left it.
 9. LayerNorm eps 1e-6 also in `self_attns.*.ln_l` and in `cross_attns.*.norm_v`, `norm_a`; GroupNorm eps 1e-5, over
    one frame each. GELU of the MixFFN is the exact one.
10. In the head, x 4 is bilinear with align_corners False, and there is no ReLU between `fc.0` and the upsampling.
11. CIP's nearest upsampling goes to the exact size of the finer map (torch's rule), also where that is not twice.
12. Frame flags multiply the backbone's maps before `input_proj` (whose bias and norm make them non-zero again), the
    log-mel before VGGish, and the logits of both decoder layers at the end. Nothing else knows of padding.
13. softplus is torch's, linear above 20.
"""

import ast
import itertools
import math
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from tests import ROOT
from tests.checkpoint.released_backbones import State, conv, layer_norm, linear, pvt, resnet, vggish

KEYS = ROOT / "tests" / "models" / "public_keys"
BACKBONES = ("audio_backbone.", "vision_backbone.")
INNER = 512

# The letters name the axes from the slowest to the fastest; a minus reverses the whole sequence.
VSS_DIRECTIONS = ("HW", "WH", "HW-", "WH-")
TEMPORAL_DIRECTIONS = ("THW", "THW-", "TWH", "TWH-", "HWT", "HWT-", "WHT", "WHT-")
FUSION_DIRECTIONS = ("THW", "TWH", "THW-", "TWH-")


def key_lines(name: str, without: tuple[str, ...] = ()) -> list[str]:
    """Read the lines `name (shape)` of a list in public_keys/, leaving out the names with one of these beginnings."""
    lines = (KEYS / f"{name}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", *without))]


def random_values(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw one tensor, of a size at which it shows in the output and no scan runs away."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(1000, dtype=torch.int64)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    if name.endswith("A_logs"):
        return torch.arange(1, shape[1] + 1, dtype=torch.float64).log() + 0.1 * noise
    if name.endswith("dt_projs_bias"):
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
        step = torch.exp(math.log(0.001) + uniform * (math.log(0.1) - math.log(0.001)))
        return step + torch.log(-torch.expm1(-step))  # softplus of it is the step
    if name.endswith("running_var"):
        return 0.5 + torch.rand(shape, generator=generator, dtype=torch.float64)
    if name == "mlp.layers.0.bias":
        return noise  # its bends are in the range of the pixels' numbers
    if len(shape) == 1:
        return 0.1 * noise + (1 if name.endswith((".weight", "Ds")) else 0)
    if name == "mlp.layers.0.weight":
        return noise / 16  # the number it multiplies is a sum over 256 channels
    fan_in = shape[-1] if name.endswith("_weight") else math.prod(shape[1:])
    gain = 1
    if name.startswith(("audio_backbone.", "mlp.")):
        gain = 2  # there is no norm between their ReLUs
    if name.endswith("x_proj_weight"):
        gain = 4  # else D x hides what the scan adds
    return noise * math.sqrt(gain / fan_in)


def random_state(keys: Path | Iterable[str], seed: int = 0) -> State:
    """Draw a state dict with the listed names and shapes; a tensor depends on the seed and on its own name only."""
    state = {}
    for line in keys.read_text().splitlines() if isinstance(keys, Path) else keys:
        name, _, shape = line.partition(" ")
        if not shape or name == "#":
            continue
        source = name.replace("mamba_decoder_block.", "mamba_decoder.1.")
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {source}".encode()))
        state[name] = random_values(source, ast.literal_eval(shape), generator)
    return state


def scan(tokens: Tensor, A_logs: Tensor, Ds: Tensor, x_proj: Tensor, dt_proj: Tensor, dt_bias: Tensor) -> Tensor:
    """Run the recurrence of one direction over tokens (L, E), one after the other (Eq. 3 and 4): (L, E)."""
    rank, states = dt_proj.shape[1], A_logs.shape[1]
    A = -torch.exp(A_logs)
    h = torch.zeros_like(A)
    outputs = []
    for x in tokens:
        low, B, C = (x_proj @ x).split([rank, states, states])
        delta = F.softplus(dt_proj @ low + dt_bias)
        h = torch.exp(delta[:, None] * A) * h + (delta * x)[:, None] * B
        outputs.append(h @ C + Ds * x)
    return torch.stack(outputs)


def scan_sum(state: State, block: str, tokens: Tensor, orders: Sequence[list[int]]) -> Tensor:
    """Scan tokens (L, E) in every order, one direction's weights each; add the outputs, each at its token's place."""
    inner = tokens.shape[1]
    total = torch.zeros_like(tokens)
    for k, order in enumerate(orders):
        assert sorted(order) == list(range(len(tokens)))
        rows = slice(k * inner, (k + 1) * inner)
        total[order] += scan(
            tokens[order],
            state[f"{block}.A_logs"][rows],
            state[f"{block}.Ds"][rows],
            state[f"{block}.x_proj_weight"][k],
            state[f"{block}.dt_projs_weight"][k],
            state[f"{block}.dt_projs_bias"][k],
        )
    return total


def visual_order(direction: str, shapes: Sequence[tuple[int, int, int]]) -> list[int]:
    """List the tokens of maps (T, H, W), numbered in the order T, H, W and map after map, in a direction's order."""
    order, first = [], 0
    for frames, height, width in shapes:
        sizes = {"T": frames, "H": height, "W": width}
        axes = direction.rstrip("-")
        for position in itertools.product(*(range(sizes[axis]) for axis in axes)):
            at = {"T": 0, **dict(zip(axes, position, strict=True))}
            order.append(first + (at["T"] * height + at["H"]) * width + at["W"])
        first += frames * height * width
    return order[::-1] if direction.endswith("-") else order


def audio_order(direction: str, frames: int, first: int = 0) -> list[int]:
    """List the audio tokens first, first + 1, ... in time, or against it in a reversed direction."""
    order = list(range(first, first + frames))
    return order[::-1] if direction.endswith("-") else order


def depthwise(state: State, name: str, x: Tensor) -> Tensor:
    """Convolve x (T, H, W, E) 3 x 3 in each frame and channel, also with a kernel (1, 3, 3); then SiLU."""
    weight = state[f"{name}.weight"].reshape(-1, 1, 3, 3)
    y = F.conv2d(x.movedim(-1, 1), weight, state[f"{name}.bias"], padding=1, groups=len(weight))
    return F.silu(y).movedim(1, -1)


def causal(state: State, name: str, x: Tensor) -> Tensor:
    """Convolve x (T, E) over the present token and the three before it; then SiLU."""
    taps = state[f"{name}.weight"][:, 0]
    outputs = []
    for t in range(len(x)):
        y = state[f"{name}.bias"].clone()
        for back in range(min(t, 3) + 1):
            y += taps[:, 3 - back] * x[t - back]
        outputs.append(F.silu(y))
    return torch.stack(outputs)


def gated(state: State, block: str, y: Tensor, z: Tensor) -> Tensor:
    """Normalise the summed scans, multiply by the gate and project back to C channels."""
    return linear(state, f"{block}.out_proj", layer_norm(state, f"{block}.out_norm", y, 1e-5) * F.silu(z))


def clip_block(
    state: State, norm: str, block: str, convolution: str, maps: Sequence[Tensor], directions: tuple[str, ...]
) -> list[Tensor]:
    """Scan all tokens of some maps of a clip as one sequence in each direction, with the residual."""
    shapes = [(m.shape[0], m.shape[2], m.shape[3]) for m in maps]
    inner = [linear(state, f"{block}.in_proj", layer_norm(state, norm, m.movedim(1, -1), 1e-6)) for m in maps]
    x = [depthwise(state, f"{block}.{convolution}", i[..., :INNER]).flatten(0, 2) for i in inner]
    z = [i[..., INNER:].flatten(0, 2) for i in inner]
    y = scan_sum(state, block, torch.cat(x), [visual_order(d, shapes) for d in directions])
    parts = gated(state, block, y, torch.cat(z)).split([math.prod(s) for s in shapes])
    return [m + part.reshape(*s, -1).movedim(-1, 1) for m, part, s in zip(maps, parts, shapes, strict=True)]


def vss_block(state: State, prefix: str, maps: Sequence[Tensor]) -> list[Tensor]:
    """Run the VSS block of an encoder layer (Eq. 5 to 7) over the scales of each frame by itself."""
    frames = [
        clip_block(
            state, f"{prefix}.ln_l", f"{prefix}.mamba_block", "conv2d", [m[t : t + 1] for m in maps], VSS_DIRECTIONS
        )
        for t in range(len(maps[0]))
    ]
    return [torch.cat(scale) for scale in zip(*frames, strict=True)]


def temporal_mamba(state: State, norm: str, block: str, maps: Sequence[Tensor]) -> list[Tensor]:
    """Run Temporal Mamba (Eq. 8 to 10) over all frames and some scales; `norm` and `block` are full names."""
    return clip_block(state, norm, block, "conv3d", maps, TEMPORAL_DIRECTIONS)


def mix_ffn(state: State, prefix: str, x: Tensor) -> Tensor:
    """Run the MixFFN of an encoder layer on one map: x + fc2(GELU(dwconv(fc1(norm2 x))))."""
    y = linear(state, f"{prefix}.mixffn.fc1", layer_norm(state, f"{prefix}.norm2", x.movedim(1, -1), 1e-6))
    y = conv(state, f"{prefix}.mixffn.dwconv", y.movedim(-1, 1), padding=1, groups=y.shape[-1])
    return x + linear(state, f"{prefix}.mixffn.fc2", F.gelu(y).movedim(1, -1)).movedim(-1, 1)


def mte(state: State, maps: Sequence[Tensor]) -> list[Tensor]:
    """Run both layers of the encoder over the maps of stride 8, 16 and 32."""
    maps = list(maps)
    for prefix in ("mamba_encoder.0", "mamba_encoder.1"):
        maps = vss_block(state, prefix, maps)
        maps = [mix_ffn(state, prefix, m) for m in maps]
        maps = temporal_mamba(state, f"{prefix}.norm3", f"{prefix}.temporal_mamba", maps)
    return maps


def fusion_inputs(state: State, prefix: str, block: str, visual: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
    """Project visual (T, C, H, W) and audio (T, C), each after its norm: (T, H, W, E or 2E), (T, E or 2E)."""
    normed = layer_norm(state, f"{prefix}.norm_v", visual.movedim(1, -1), 1e-6)
    v = linear(state, f"{block}.in_proj_vis", normed)
    a = linear(state, f"{block}.in_proj_audio", layer_norm(state, f"{prefix}.norm_a", audio, 1e-6))
    return v, a


def v2a_block(state: State, prefix: str, visual: Tensor, audio: Tensor, level: str) -> Tensor:
    """Carry visual (T, C, H, W) into audio (T, C) at the level "frame" (Eq. 11 to 16) or "temporal" (Eq. 17)."""
    if level == "frame":
        frames = [v2a_block(state, prefix, visual[t : t + 1], audio[t : t + 1], "temporal") for t in range(len(audio))]
        return torch.cat(frames)
    block = f"{prefix}.vision_to_audio_layer"
    v, a = fusion_inputs(state, prefix, block, visual, audio)
    shape = v.shape[:3]
    x_v = depthwise(state, f"{block}.conv2d", v).flatten(0, 2)
    x_a, z = causal(state, f"{block}.conv1d", a[:, :INNER]), a[:, INNER:]
    orders = [visual_order(d, [shape]) + audio_order(d, len(a), first=len(x_v)) for d in FUSION_DIRECTIONS]
    y = scan_sum(state, block, torch.cat([x_v, x_a]), orders)[len(x_v) :]
    return audio + gated(state, block, y, z)


def a2v_block(state: State, prefix: str, visual: Tensor, audio: Tensor) -> Tensor:
    """Carry audio (T, C) into visual (T, C, H, W) (Eq. 18 and 19)."""
    block = f"{prefix}.audio_to_vision_layer"
    v, a = fusion_inputs(state, prefix, block, visual, audio)
    shape = v.shape[:3]
    x_v, z = depthwise(state, f"{block}.conv2d", v[..., :INNER]).flatten(0, 2), v[..., INNER:].flatten(0, 2)
    x_a = causal(state, f"{block}.conv1d", a)
    orders = [
        audio_order(d, len(a)) + [len(a) + token for token in visual_order(d, [shape])] for d in FUSION_DIRECTIONS
    ]
    y = scan_sum(state, block, torch.cat([x_a, x_v]), orders)[len(a) :]
    return visual + gated(state, block, y, z).reshape(*shape, -1).movedim(-1, 1)


def mad(state: State, maps: Sequence[Tensor], audio: Tensor) -> list[Tensor]:
    """Run the decoder on the maps of stride 8, 16, 32 and audio (T, C): the queries after layer 0 and layer 1."""
    queries = []
    for layer in range(2):
        for scale, visual in enumerate(maps):
            audio = v2a_block(state, f"mamba_decoder.{layer}.{scale}.0", visual, audio, "frame")
            audio = v2a_block(state, f"mamba_decoder.{layer}.{scale}.1", visual, audio, "temporal")
        queries.append(audio)
    return queries


def cip(state: State, maps: Sequence[Tensor], audio: Tensor) -> Tensor:
    """Join the maps of stride 4 to 32 with audio (T, C) into mask features (T, C, H, W) of stride 4."""
    coarser: Tensor | None = None
    for index, number in enumerate((4, 3, 2, 1)):
        y = conv(state, f"cmfpn.adapter_{number}", maps[number - 1])
        attention = f"cmfpn.self_attns.{min(index, 2)}"  # the slip: the finest scale runs that of stride 8 again
        (y,) = temporal_mamba(state, f"{attention}.ln_l", f"{attention}.mamba_block", [y])
        y = a2v_block(state, f"cmfpn.cross_attns.{index}", y, audio)
        if coarser is not None:
            y = y + F.interpolate(coarser, size=y.shape[-2:], mode="nearest")
        coarser = F.relu(conv(state, f"cmfpn.layer_{number}", y, padding=1))
    assert coarser is not None
    return conv(state, "cmfpn.mask_features", coarser, padding=1)


def head(state: State, query: Tensor, mask_features: Tensor) -> Tensor:
    """Give the logits (T, N_class, 4 H, 4 W) of a query (T, C) and mask features (T, C, H, W)."""
    x = (query[:, :, None, None] * mask_features).sum(1, keepdim=True)
    x = F.relu(conv(state, "mlp.layers.0", x))
    x = F.relu(conv(state, "mlp.layers.1", x))
    x = conv(state, "mlp.layers.2", x) + mask_features
    x = conv(state, "fc.0", x, padding=1)
    x = F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)
    return conv(state, "fc.4", F.relu(conv(state, "fc.2", x, padding=1)))


def input_proj(state: State, scale: int, x: Tensor) -> Tensor:
    """Project the backbone's map of a scale to C channels, with GroupNorm in 32 groups in each frame."""
    name = f"input_proj.{scale}"
    y = conv(state, f"{name}.0", x)
    return F.group_norm(y, 32, state[f"{name}.1.weight"], state[f"{name}.1.bias"], 1e-5)


def neck_and_head(
    state: State, maps_of_backbone: Sequence[Tensor], audio_features: Tensor, frame_flags: Tensor | None = None
) -> list[Tensor]:
    """Give the logits (B, T, N_class, 4 H, 4 W) of both decoder layers.

    Takes the backbone's four maps (B, T, C_i, H_i, W_i), VGGish's features (B, T, 128), and flags (B, T), 0 where a
    frame is padding.
    """
    flags = torch.ones(audio_features.shape[:2]) if frame_flags is None else frame_flags
    flags = flags.to(audio_features.dtype)[..., None, None, None]
    clips: list[list[Tensor]] = []
    for clip, flag in enumerate(flags):
        maps = [input_proj(state, scale, m[clip] * flag) for scale, m in enumerate(maps_of_backbone)]
        audio = linear(state, "audio_proj", audio_features[clip])
        encoded = mte(state, maps[1:])
        queries = mad(state, encoded, audio)
        mask_features = cip(state, [maps[0], *encoded], audio)
        clips.append([head(state, query, mask_features) * flag for query in queries])
    return [torch.stack(layer) for layer in zip(*clips, strict=True)]


def segment(state: State, pictures: Tensor, log_mel: Tensor, frame_flags: Tensor | None = None) -> list[Tensor]:
    """Run the whole model on normalised pictures (B, T, 3, H, W) and log-mel patches (B, T, 1, 96, 64)."""
    backbone = pvt if "vision_backbone.patch_embed1.proj.weight" in state else resnet
    if frame_flags is not None:
        log_mel = log_mel * frame_flags.to(log_mel.dtype)[..., None, None, None]
    size = pictures.shape[:2]
    maps = [m.unflatten(0, size) for m in backbone(state, pictures.flatten(0, 1))]
    return neck_and_head(state, maps, vggish(state, log_mel.flatten(0, 1)).unflatten(0, size), frame_flags)
