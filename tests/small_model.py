"""A small model of all parts on SoundingShapes of 32 pixels, for the tools that need one."""

import torch

from avsmamba.config.load import load_config, parse_options
from avsmamba.registry import MODELS
from tests import ROOT

CONFIG = ROOT / "configs" / "avs_mamba" / "avs_mamba_tiny_ms3_shapes.yaml"
NEGATIVES = CONFIG.with_name("avs_mamba_tiny_ms3_shapes_negatives.yaml")
AVSS = CONFIG.with_name("avs_mamba_tiny_avss_shapes.yaml")
SMALL = [
    "model.embed_dims=8",
    "model.backbone.channels=[8, 8, 8, 8]",
    "model.audio_encoder.out_channels=8",
    *(f"model.{part}.d_state=1" for part in ("encoder", "decoder", "pyramid")),
    *(f"model.{part}.orders=2" for part in ("encoder", "pyramid")),
    *(f"model.{part}.num_layers=1" for part in ("encoder", "decoder")),
    *(f"{loader}_dataloader.dataset.pipeline.0.size=32" for loader in ("train", "val", "test")),
    *(f"{loader}_dataloader.num_workers=0" for loader in ("train", "val", "test")),
]


def write_checkpoint(path, bias=None, config=CONFIG):
    """Random weights; with a bias, that is the logit of every pixel."""
    torch.manual_seed(0)
    model = MODELS.build(load_config(config, parse_options(SMALL)).model)
    if bias is not None:
        last = [m for m in model.head.modules() if isinstance(m, torch.nn.Linear)][-1]
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.constant_(last.bias, bias)
    torch.save({"state_dict": model.state_dict()}, path)
    return path
