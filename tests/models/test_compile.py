"""Blocks and the whole model under torch.compile, torch.export and gradient checkpointing."""

import pytest
import torch
from torch import nn

from avsmamba.models import (
    AudioQueryHead,
    ContextualIntegrationPyramid,
    ModalityAggregationDecoder,
    MultiScaleTemporalEncoder,
)
from avsmamba.models.cip import ContextFusionBlock
from avsmamba.models.layers import A2VFusionBlock, SSMOptions, TemporalMambaBlock, V2AFusionBlock, VSSBlock
from avsmamba.ops import available_backends
from tests.models.test_segmentor import build, sample

OPTIONS = SSMOptions(d_state=2, drop_path=0.0)
SWITCHES = {f"model.{part}.grad_checkpointing": True for part in ("encoder", "decoder", "pyramid")}
# Few layers and orders: a graph of the whole model is built in seconds.
SMALL = {f"model.{part}.num_layers": 1 for part in ("encoder", "decoder")} | {
    f"model.{part}.orders": 2 for part in ("encoder", "pyramid")
}
# How each part is built, and which of (maps, audio) are its inputs.
PART = {"d_state": 2, "drop_path": 0.0}
PARTS = {
    "vss": (lambda: VSSBlock(8, OPTIONS), lambda maps, audio: [maps[1:]]),
    "temporal": (lambda: TemporalMambaBlock(8, 8, options=OPTIONS), lambda maps, audio: [maps[1:]]),
    "v2a-frame": (lambda: V2AFusionBlock(8, "frame", options=OPTIONS), lambda maps, audio: [maps[2], audio]),
    "v2a-temporal": (lambda: V2AFusionBlock(8, "temporal", options=OPTIONS), lambda maps, audio: [maps[2], audio]),
    "a2v": (lambda: A2VFusionBlock(8, options=OPTIONS), lambda maps, audio: [maps[2], audio]),
    "context-fusion": (
        lambda: ContextFusionBlock(TemporalMambaBlock(8, 12, "2d", OPTIONS), A2VFusionBlock(8, "3d", options=OPTIONS)),
        lambda maps, audio: [maps[2], audio],
    ),
    "encoder": (lambda: MultiScaleTemporalEncoder(8, 1, orders=2, **PART), lambda maps, audio: [maps]),
    "decoder": (lambda: ModalityAggregationDecoder(8, 1, **PART), lambda maps, audio: [maps, audio]),
    "pyramid": (lambda: ContextualIntegrationPyramid(8, orders=2, **PART), lambda maps, audio: [maps, audio]),
    "head": (
        lambda: AudioQueryHead(8, mlp_dims=(6, 5), hidden_dims=(6, 4)),
        lambda maps, audio: [audio.unsqueeze(2), maps[0]],
    ),
}


def outputs(y):
    return [y] if isinstance(y, torch.Tensor) else [t for t in y if isinstance(t, torch.Tensor)]


def gradients(module: nn.Module, y) -> dict[str, torch.Tensor]:
    loss = sum((t * torch.linspace(-1, 1, t.numel(), dtype=t.dtype).view_as(t)).sum() for t in outputs(y))
    return dict(zip(dict(module.named_parameters()), torch.autograd.grad(loss, module.parameters()), strict=True))


@pytest.mark.parametrize("name", PARTS)
def test_a_part_compiles_into_one_graph(name, maps, audio):
    make, take = PARTS[name]
    part, inputs = make().double(), take(maps, audio)
    torch._dynamo.reset()
    y = torch.compile(part, fullgraph=True, backend="aot_eager")(*inputs)
    expected = part(*inputs)
    torch.testing.assert_close(outputs(y), outputs(expected))
    torch.testing.assert_close(gradients(part, y), gradients(part, expected))


def test_a_compiled_block_takes_clips_of_other_sizes():
    torch._dynamo.reset()
    block = V2AFusionBlock(8, "temporal", options=OPTIONS).double()
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    for b, t, h, w in ((2, 3, 4, 2), (2, 3, 6, 5), (1, 4, 7, 3)):
        visual = torch.randn(b, t, h, w, 8, dtype=torch.float64)
        audio = torch.randn(b, t, 8, dtype=torch.float64)
        torch.testing.assert_close(compiled(visual, audio), block(visual, audio))


def test_the_whole_model_is_exported_for_any_batch_and_number_of_frames():
    model = build(SMALL).eval()
    batch, frames = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("frames", min=1, max=80)
    shapes = {"frames": {0: batch, 1: frames}, "log_mel": {0: batch, 1: frames}}
    clip = {"frames": torch.randn(2, 3, 3, 64, 32), "log_mel": torch.randn(2, 3, 1, 96, 64)}
    program = torch.export.export(model, (), clip, dynamic_shapes=shapes)
    scans = [n for n in program.graph.nodes if n.target is torch.ops.avsmamba.multi_directional_scan.default]
    assert len(scans) == 2 + 2 * 3 + 2 * 4
    for b, t in ((2, 3), (1, 5), (3, 2)):
        clip = {"frames": torch.randn(b, t, 3, 64, 32), "log_mel": torch.randn(b, t, 1, 96, 64)}
        with torch.no_grad():
            torch.testing.assert_close(program.module()(**clip), model(**clip))


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_checkpointing_changes_no_number(drop_path):
    """Outputs, losses and gradients, with the dropped paths drawn alike when blocks run again."""
    drops = {f"model.{part}.drop_path": drop_path for part in ("encoder", "decoder", "pyramid")}
    frames, log_mel = torch.randn(2, 3, 3, 64, 32), torch.randn(2, 3, 1, 96, 64)
    results = []
    for switches in ({}, SWITCHES):
        torch.manual_seed(1)
        model = build(SMALL | drops | switches)
        loss = model(frames, log_mel, [sample(), sample()], mode="loss")["loss_dice"]
        loss.backward()
        results.append([loss, *(p.grad for p in model.parameters())])
    for plain, recomputed in zip(*results, strict=True):
        assert torch.equal(plain, recomputed)


@pytest.mark.parametrize("name", ["encoder", "decoder", "pyramid"])
def test_checkpointing_keeps_less(name, maps, audio):
    """Of what the blocks save for the backward pass, beside their inputs, less than a third is left."""
    make, take = PARTS[name]
    part, inputs = make().double(), take(maps, audio)
    kept = []
    for on in (False, True):
        for module in part.modules():
            if hasattr(module, "grad_checkpointing"):
                module.grad_checkpointing = on
        seen: dict[int, int] = {}

        def pack(t, seen=seen):
            if t.grad_fn is not None or not t.requires_grad:
                seen[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            y = part(*inputs)
        del y
        kept.append(sum(seen.values()))
    assert kept[1] < kept[0] / 3


@pytest.mark.skipif("cpu" not in available_backends(), reason="the C++ kernel was not built")
def test_a_block_compiles_for_inference_with_inductor():
    torch._dynamo.reset()
    block = V2AFusionBlock(8, "frame", options=OPTIONS).eval()
    visual, audio = torch.randn(2, 3, 4, 2, 8), torch.randn(2, 3, 8)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(block, fullgraph=True)(visual, audio), block(visual, audio))
