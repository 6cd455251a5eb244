"""Public models written out from their formulas, slowly, in the state dicts' own names; and their lists of keys."""

import ast
import math
import re
from pathlib import Path

import torch
import torch.nn.functional as F

FOLDER = Path(__file__).parent / "public_keys"
LISTS = sorted(p.stem for p in FOLDER.glob("v*.txt"))  # the public backbones: VMamba and Vim


def shapes(name, depths=None):
    """Return shapes by public name; `depths` keeps the first blocks of each stage, an integer the first layers."""
    found = {}
    for line in (FOLDER / f"{name}.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        key, _, shape = line.partition(" ")
        if depths is not None and (found_in := re.match(r"layers\.(\d+)\.(?:blocks\.(\d+)\.)?", key)):
            first, second = found_in.groups()
            if isinstance(depths, int):
                if int(first) >= depths:
                    continue
            elif second is not None and int(second) >= depths[int(first)]:
                continue
        found[key] = ast.literal_eval(shape)
    return found


def random_state(shapes, seed=0):
    """Return float32 values of a size at which every one of them shows in the output."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        if name.endswith(("A_logs", "A_log", "A_b_log")):
            values = values * 0.5
        elif name.endswith(("dt_projs_bias", "dt_proj.bias", "dt_proj_b.bias")):
            values = values - 1
        elif len(shape) == 1:
            values = 1 + 0.3 * values if name.endswith("weight") else 0.3 * values
        elif len(shape) > 1 and "embed" not in name[:9] and "token" not in name:
            values = values / math.sqrt(math.prod(shape[1:]))
        state[name] = values
    return state


def scan(u, delta, A, B, C, D):
    """Run Mamba's recurrence token by token: u, delta (b, E, L), A (E, N), B, C (b, N, L), D (E)."""
    h = torch.zeros(*u.shape[:2], A.shape[1], dtype=u.dtype)
    outputs = []
    for t in range(u.shape[2]):
        step = delta[:, :, t, None]
        h = torch.exp(step * A) * h + step * B[:, None, :, t] * u[:, :, t, None]
        outputs.append((h * C[:, None, :, t]).sum(-1) + D * u[:, :, t])
    return torch.stack(outputs, dim=-1)


def ss2d(x, p):
    """Run VMamba's four-way scan of (b, E, H, W); `p` finds a parameter by the end of its public name."""
    b, e, height, width = x.shape
    weight, dt_weight = p("x_proj_weight"), p("dt_projs_weight")
    k, rank = 4, dt_weight.shape[2]
    n = p("A_logs").shape[1]
    rows, columns = x.flatten(2), x.transpose(2, 3).flatten(2)
    xs = torch.stack([rows, columns, rows.flip(-1), columns.flip(-1)], dim=1)
    dt, B, C = torch.einsum("bkel,kce->bkcl", xs, weight).split([rank, n, n], dim=2)
    delta = F.softplus(torch.einsum("bkrl,ker->bkel", dt, dt_weight) + p("dt_projs_bias")[:, :, None])
    A, D = -torch.exp(p("A_logs")).view(k, e, n), p("Ds").view(k, e)
    ys = [scan(xs[:, i], delta[:, i], A[i], B[:, i], C[:, i], D[i]) for i in range(k)]
    rows, columns = ys[0] + ys[2].flip(-1), ys[1] + ys[3].flip(-1)
    return rows.view(b, e, height, width) + columns.view(b, e, width, height).transpose(2, 3)


def layer_norm(x, p, name):
    """Normalise over the channels of (b, C, H, W)."""
    weight = p(f"{name}.weight")
    return F.layer_norm(x.movedim(1, -1), weight.shape, weight, p(f"{name}.bias")).movedim(-1, 1)


def linear(x, weight, bias=None):
    y = torch.einsum("bchw,oc->bohw", x, weight)
    return y if bias is None else y + bias[:, None, None]


def vmamba_block(x, p, gated):
    q = lambda name: p(f"op.{name}")  # noqa: E731
    y = linear(layer_norm(x, p, "norm"), q("in_proj.weight"))
    if gated:
        y, z = y.chunk(2, dim=1)
    bias = q("conv2d.bias") if gated else None
    y = F.silu(F.conv2d(y, q("conv2d.weight"), bias, padding=1, groups=y.shape[1]))
    y = layer_norm(ss2d(y, q), q, "out_norm")
    x = x + linear(y * F.silu(z) if gated else y, q("out_proj.weight"))
    if gated:
        return x
    hidden = F.gelu(linear(layer_norm(x, p, "norm2"), p("mlp.fc1.weight"), p("mlp.fc1.bias")))
    return x + linear(hidden, p("mlp.fc2.weight"), p("mlp.fc2.bias"))


def vmamba(state, depths, x):
    """Return the maps of the four stages before their downsampling, (b, C, H, W)."""
    gated = "patch_embed.5.weight" not in state
    p = state.__getitem__
    if gated:
        x = layer_norm(F.conv2d(x, p("patch_embed.0.weight"), p("patch_embed.0.bias"), 4), p, "patch_embed.2")
    else:
        x = layer_norm(F.conv2d(x, p("patch_embed.0.weight"), p("patch_embed.0.bias"), 2, 1), p, "patch_embed.2")
        x = F.conv2d(F.gelu(x), p("patch_embed.5.weight"), p("patch_embed.5.bias"), 2, 1)
        x = layer_norm(x, p, "patch_embed.7")
    maps = []
    for i, depth in enumerate(depths):
        for j in range(depth):
            x = vmamba_block(x, lambda name, i=i, j=j: state[f"layers.{i}.blocks.{j}.{name}"], gated)
        maps.append(x)
        if i == 3:
            break
        q = lambda name, i=i: state[f"layers.{i}.downsample.{name}"]  # noqa: E731
        if gated:
            x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
            parts = [x[:, :, r::2, c::2] for r, c in ((0, 0), (1, 0), (0, 1), (1, 1))]
            x = linear(layer_norm(torch.cat(parts, dim=1), q, "norm"), q("reduction.weight"))
        else:
            x = layer_norm(F.conv2d(x, q("1.weight"), q("1.bias"), 2, 1), q, "3")
    return maps


def rms_norm(x, weight):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weight


def vim_path(xz, p, back):
    """Run one direction of the mixer on xz (b, 2E, L), its own gate applied."""
    x, z = xz.chunk(2, dim=1)
    weight = p(f"conv1d{back}.weight")
    x = F.silu(F.conv1d(F.pad(x, (3, 0)), weight, p(f"conv1d{back}.bias"), groups=len(weight)))
    A = -torch.exp(p("A_b_log" if back else "A_log"))
    rank, n = p(f"dt_proj{back}.weight").shape[1], A.shape[1]
    dt, B, C = torch.einsum("bel,ce->bcl", x, p(f"x_proj{back}.weight")).split([rank, n, n], dim=1)
    dt = torch.einsum("brl,er->bel", dt, p(f"dt_proj{back}.weight")) + p(f"dt_proj{back}.bias")[:, None]
    return scan(x, F.softplus(dt), A, B, C, p(f"D{back}")) * F.silu(z)


def vim(state, depth, x):
    """Return the map at stride 16, (b, C, H / 16, W / 16), with the residual carried beside the hidden tokens."""
    x = F.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], 16)
    height, width = x.shape[2:]
    x = x.flatten(2).transpose(1, 2)
    middle = x.shape[1] // 2
    x = torch.cat([x[:, :middle], state["cls_token"].expand(len(x), 1, -1), x[:, middle:]], dim=1)
    embedding = state["pos_embed"]
    if (height, width) != (14, 14):
        grid = embedding[:, [i for i in range(197) if i != 98]].reshape(1, 14, 14, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, (height, width), mode="bicubic").flatten(2).transpose(1, 2)
        embedding = torch.cat([grid[:, :middle], embedding[:, 98:99], grid[:, middle:]], dim=1)
    hidden, residual = x + embedding, 0
    for i in range(depth):
        p = lambda name, i=i: state[f"layers.{i}.mixer.{name}"]  # noqa: E731
        residual = residual + hidden
        xz = (rms_norm(residual, state[f"layers.{i}.norm.weight"]) @ p("in_proj.weight").T).transpose(1, 2)
        both = vim_path(xz, p, "") + vim_path(xz.flip(-1), p, "_b").flip(-1)
        hidden = (both / 2).transpose(1, 2) @ p("out_proj.weight").T
    x = rms_norm(hidden + residual, state["norm_f.weight"])
    x = torch.cat([x[:, :middle], x[:, middle + 1 :]], dim=1)
    return x.transpose(1, 2).unflatten(2, (height, width))
