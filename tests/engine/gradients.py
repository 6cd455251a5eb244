"""Gradients of small real models on a batch of clips, by one process or by the processes of torchrun.

`torchrun ... -m tests.engine.gradients FILE`: rank 0 writes the gradients of every case to FILE.
"""

import sys
import warnings

import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel

from avsmamba.config.load import load_config, parse_options
from avsmamba.engine.sharding import FullyShard, gathered
from avsmamba.registry import MODELS
from avsmamba.structures import AVSDataSample
from tests import ROOT
from tests.small_model import AVSS, CONFIG, SMALL

CLIPS, FRAMES, SIZE = 7, 3, 32
CATR = ROOT / "configs" / "baselines" / "catr_tiny_ms3_shapes.yaml"
TPAVI = CATR.with_name("tpavi_tiny_ms3_shapes.yaml")
AVSBIGEN = CATR.with_name("avsbigen_tiny_ms3_shapes.yaml")
COMBO = CATR.with_name("combo_tiny_ms3_shapes.yaml")
BLOCKS = ("TemporalMambaBlock", "VSSBlock", "V2AFusionBlock", "A2VFusionBlock", "ContextFusionBlock")
TWO_LAYERS = [o.replace("decoder.num_layers=1", "decoder.num_layers=2") for o in SMALL]
SMALL_SET = [
    "model.embed_dims=16",
    "model.backbone.channels=[8, 8, 8, 8]",
    "model.audio_encoder.out_channels=16",
    "model.decoder.num_queries=4",
    "model.head.kernel_dims=[16, 4]",
]
SMALL_COMBO = [
    "model.embed_dims=16",
    "model.decoder.num_queries=4",
    "model.set_losses.0.num_points=null",  # points without random numbers
    "model.set_losses.0.matcher.num_points=null",
]
AVM = "model.matching_losses=[{{type: AVMLoss, reduction: {}}}]"
# config, options, labelled frames of each clip, what does not train
ALL, FIRST, UNEVEN = [range(FRAMES)] * CLIPS, [range(1)] * CLIPS, [range(n) for n in (1, 1, 1, 2, 3, 3, 2)]
CASES = {
    "ms3": (CONFIG, SMALL, ALL, None),
    "s4": (CONFIG, SMALL, FIRST, None),
    "uneven_labels": (CONFIG, SMALL, UNEVEN, None),
    "deep_supervision": (CONFIG, [*TWO_LAYERS, "model.deep_supervision=true"], UNEVEN, None),
    "frozen_backbone": (CONFIG, SMALL, ALL, "backbone"),
    "avss": (AVSS, [*SMALL, "model.losses.1.background_weight=1.0"], UNEVEN, None),
    "set_prediction": (CATR, SMALL_SET, UNEVEN, None),
    "inter_frame_loss": (COMBO, SMALL_COMBO, UNEVEN, None),
    "generation_loss": (AVSBIGEN, [], UNEVEN, None),
    "avm_loss_sum": (TPAVI, [AVM.format("sum")], UNEVEN, None),
    "avm_loss_mean": (TPAVI, [AVM.format("mean")], UNEVEN, None),
}


def freeze_statistics(model):
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()


def clips(num_classes):
    """Clips whose numbers of shapes, and labelled frames, differ."""
    generator = torch.Generator().manual_seed(1)
    frames = torch.randn(CLIPS, FRAMES, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    log_mel = torch.randn(CLIPS, FRAMES, 1, 96, 64, generator=generator, dtype=torch.float64)
    masks = torch.zeros(CLIPS, FRAMES, SIZE, SIZE, dtype=torch.uint8)
    for i in range(1, CLIPS):  # the first is silent
        masks[i, :, 4 : 8 + 3 * i, 5:25] = 1
        if num_classes > 1:
            masks[i, i % FRAMES, :3, : 4 * i] = i % num_classes
    return frames, log_mel, masks


def gradients(case, rank=0, world=1, statistics="frozen", classes=None):
    """Return the gradients by name, averaged over the processes by DDP, or by FSDP2 with modules of `classes`."""
    path, options, labelled, frozen = CASES[case]
    cfg = load_config(path, parse_options(options)).model
    torch.manual_seed(0)
    model = MODELS.build(cfg).double()
    if frozen:
        model.get_submodule(frozen).requires_grad_(False)
    frames, log_mel, masks = clips(cfg.head.num_classes)
    samples = []
    for i in range(CLIPS):
        flags = torch.tensor([t in labelled[i] for t in range(FRAMES)])
        samples.append(AVSDataSample(gt_masks=masks[i], gt_temporal_mask_flag=flags))
    mine = slice(rank * CLIPS // world, (rank + 1) * CLIPS // world)
    if classes is not None:
        wrapped = FullyShard(model, classes)
    else:
        wrapped = MMDistributedDataParallel(model) if world > 1 else model
    wrapped.train()
    if statistics == "frozen":
        freeze_statistics(model)
    losses = wrapped(frames[mine], log_mel[mine], samples[mine], mode="loss")
    model.parse_losses(losses)[0].backward()
    return gathered({name: p.grad for name, p in model.named_parameters() if p.grad is not None})


def main(file):
    torch.set_num_threads(1)
    # Some blocks return views; were one changed in place, the gradients would differ.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    found = {case: gradients(case, rank, world) for case in CASES}
    found["own_statistics"] = gradients("ms3", rank, world, "own")
    found["fully_sharded"] = gradients("uneven_labels", rank, world, classes=BLOCKS)
    if rank == 0:
        torch.save(found, file)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
