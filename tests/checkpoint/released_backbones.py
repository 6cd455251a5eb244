"""Backbones of the released AVS-Mamba in float64: PVT-v2, AVSBench's two-headed ResNet-50, VGGish; in public names.

Plain functions over a state dict; how many blocks a stage has is read from the names, so that a short list makes a
short model. Decided here, because released_model.md leaves it to the public models:

- PVT-v2 (whai362/PVT): LayerNorm eps 1e-6 in `norm1`, `norm2` of a block and in the norm that ends a stage, but
  1e-5 (torch's default) in `patch_embed*.norm` and in `attn.norm` after the spatial reduction. Exact GELU. The map
  that leaves a stage is the one after its norm, and the next stage starts from it. The reduction's convolution has
  no padding, so a rest of fewer than `sr` rows or columns is not seen by keys and values.
- ResNet-50: stride in the 3 x 3 convolution of a bottleneck, batch norm with running statistics (eps 1e-5). The maps
  are layer1, layer2, layer3_1, layer4_1; layer3_2 and layer4_2 are in the file and never run. The authors' lists for
  r50 name no entry of the backbone: `resnet_lines` writes the list down, with torchvision's names inside a stage.
- VGGish: no PCA (the lists hold none); ReLU after each of the three linear layers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
PVT_HEADS = (1, 2, 5, 8)


def layer_norm(state: State, name: str, x: Tensor, eps: float) -> Tensor:
    """Normalise the last axis."""
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + eps) * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(state: State, name: str, x: Tensor) -> Tensor:
    """Multiply the last axis by a weight (out, in); the bias is added where the file has one."""
    y = x @ state[f"{name}.weight"].T
    return y + state[f"{name}.bias"] if f"{name}.bias" in state else y


def conv(state: State, name: str, x: Tensor, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
    """Convolve maps (T, C, H, W); the bias is added where the file has one."""
    return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), stride, padding, groups=groups)


def depth(state: State, stage: str) -> int:
    """Count the blocks of a stage by the names `{stage}.{i}.`."""
    return len({name[len(stage) + 1 :].split(".")[0] for name in state if name.startswith(f"{stage}.")})


def pvt_attention(state: State, name: str, x: Tensor, heads: int) -> Tensor:
    """Attend from each token of x (B, H, W, C) to the tokens of the map that the convolution `sr` reduced."""
    source = x
    if f"{name}.sr.weight" in state:
        ratio = state[f"{name}.sr.weight"].shape[-1]
        source = conv(state, f"{name}.sr", x.movedim(-1, 1), stride=ratio).movedim(1, -1)
        source = layer_norm(state, f"{name}.norm", source, 1e-5)
    q = linear(state, f"{name}.q", x).flatten(1, 2)
    k, v = linear(state, f"{name}.kv", source).flatten(1, 2).chunk(2, dim=-1)
    size = x.shape[-1] // heads
    outputs = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        weights = torch.softmax(q[..., part] @ k[..., part].mT / size**0.5, dim=-1)
        outputs.append(weights @ v[..., part])
    return linear(state, f"{name}.proj", torch.cat(outputs, dim=-1)).reshape(x.shape)


def pvt(state: State, pictures: Tensor, prefix: str = "vision_backbone") -> list[Tensor]:
    """Give the four maps (B, C, H / 4, W / 4) to (B, C, H / 32, W / 32) of normalised pictures (B, 3, H, W)."""
    x, maps = pictures, []
    for stage, heads in enumerate(PVT_HEADS, start=1):
        patch, block = f"{prefix}.patch_embed{stage}", f"{prefix}.block{stage}"
        x = conv(state, f"{patch}.proj", x, 4 if stage == 1 else 2, 3 if stage == 1 else 1).movedim(1, -1)
        x = layer_norm(state, f"{patch}.norm", x, 1e-5)
        for i in range(depth(state, block)):
            name = f"{block}.{i}"
            x = x + pvt_attention(state, f"{name}.attn", layer_norm(state, f"{name}.norm1", x, 1e-6), heads)
            hidden = linear(state, f"{name}.mlp.fc1", layer_norm(state, f"{name}.norm2", x, 1e-6)).movedim(-1, 1)
            hidden = conv(state, f"{name}.mlp.dwconv.dwconv", hidden, padding=1, groups=hidden.shape[1])
            x = x + linear(state, f"{name}.mlp.fc2", F.gelu(hidden).movedim(1, -1))
        x = layer_norm(state, f"{prefix}.norm{stage}", x, 1e-6).movedim(-1, 1)
        maps.append(x)
    return maps


def resnet_lines(depths: tuple[int, int, int, int] = (3, 4, 6, 3), prefix: str = "vision_backbone") -> list[str]:
    """List `name (shape)` of the two-headed ResNet-50 as the key lists do."""
    lines = []

    def add_conv(conv: str, norm: str, out: int, into: int, kernel: int) -> None:
        lines.append(f"{prefix}.{conv}.weight ({out}, {into}, {kernel}, {kernel})")
        lines.extend(f"{prefix}.{norm}.{part} ({out},)" for part in ("weight", "bias", "running_mean", "running_var"))
        lines.append(f"{prefix}.{norm}.num_batches_tracked ()")

    add_conv("conv1", "bn1", 64, 3, 7)
    stages = [("layer1", 64, 64, 0), ("layer2", 256, 128, 1)]
    stages += [(f"layer{n}_{head}", width * 2, width, n - 1) for head in (1, 2) for n, width in ((3, 256), (4, 512))]
    for stage, into, width, number in stages:
        for i in range(depths[number]):
            block, into_block = f"{stage}.{i}", into if i == 0 else 4 * width
            add_conv(f"{block}.conv1", f"{block}.bn1", width, into_block, 1)
            add_conv(f"{block}.conv2", f"{block}.bn2", width, width, 3)
            add_conv(f"{block}.conv3", f"{block}.bn3", 4 * width, width, 1)
            if i == 0:
                add_conv(f"{block}.downsample.0", f"{block}.downsample.1", 4 * width, into, 1)
    return lines


def batch_norm(state: State, name: str, x: Tensor) -> Tensor:
    """Normalise maps (B, C, H, W) with the running statistics."""
    mean, variance, weight, bias = (
        state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias


def bottleneck(state: State, name: str, x: Tensor, stride: int) -> Tensor:
    """Run one residual block of ResNet-50."""
    y = F.relu(batch_norm(state, f"{name}.bn1", conv(state, f"{name}.conv1", x)))
    y = F.relu(batch_norm(state, f"{name}.bn2", conv(state, f"{name}.conv2", y, stride, 1)))
    y = batch_norm(state, f"{name}.bn3", conv(state, f"{name}.conv3", y))
    if f"{name}.downsample.0.weight" in state:
        x = batch_norm(state, f"{name}.downsample.1", conv(state, f"{name}.downsample.0", x, stride))
    return F.relu(x + y)


def resnet(state: State, pictures: Tensor, prefix: str = "vision_backbone") -> list[Tensor]:
    """Give the four maps of normalised pictures (B, 3, H, W), of 256, 512, 1024 and 2048 channels."""
    x = F.relu(batch_norm(state, f"{prefix}.bn1", conv(state, f"{prefix}.conv1", pictures, 2, 3)))
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    maps = []
    for stage in ("layer1", "layer2", "layer3_1", "layer4_1"):
        for i in range(depth(state, f"{prefix}.{stage}")):
            x = bottleneck(state, f"{prefix}.{stage}.{i}", x, 2 if i == 0 and stage != "layer1" else 1)
        maps.append(x)
    return maps


def vggish(state: State, log_mel: Tensor, prefix: str = "audio_backbone") -> Tensor:
    """Give the features (B, 128) of log-mel patches (B, 1, 96, 64)."""
    x = log_mel
    for layer, pooled in ((0, True), (3, True), (6, False), (8, True), (11, False), (13, True)):
        x = F.relu(conv(state, f"{prefix}.features.{layer}", x, padding=1))
        if pooled:
            x = F.max_pool2d(x, 2)
    x = x.permute(0, 2, 3, 1).flatten(1)
    for layer in (0, 2, 4):
        x = F.relu(linear(state, f"{prefix}.embeddings.{layer}", x))
    return x
