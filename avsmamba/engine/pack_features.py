"""Store the maps of a frozen backbone on the training clips of a config: `avsmamba shards --features`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avsmamba.checkpoint.build import build_model
from avsmamba.config.load import data_sets, load_config, parse_options
from avsmamba.datasets.avsbench import AVSBench
from avsmamba.datasets.shards.clips import Sharded
from avsmamba.datasets.shards.pack import mask_files, sound_files
from avsmamba.datasets.shards.write import Files, array_bytes, jobs_of, write_shards
from avsmamba.registry import DATASETS, MODELS
from avsmamba.structures import weights_digest
from avsmamba.utils import UserError

FIXED = ("Resize", "CenterCrop")  # transforms without random numbers


class FeaturePacker:
    """Callable that returns the files of a training clip: its sound, its masks, and the maps of its frames.

    Args:
        model: an `AVSSegmentor`, in eval mode.
        dataset: of the training clips, from files.
        dtype: of the maps.
    """

    def __init__(self, model: Any, dataset: AVSBench, dtype: str, with_wav: bool = True):
        self.model, self.dataset, self.dtype, self.with_wav = model, dataset, np.dtype(dtype), with_wav
        self.device = next(model.parameters()).device

    @torch.no_grad()
    def __call__(self, split: str, index: int) -> Files:
        dataset = self.dataset
        clip, faults = dataset.clips[index], list[str]()
        frames, masks = dataset.read_pictures(clip, faults)
        if faults:
            raise UserError(faults[0])
        sound = sound_files(dataset, clip, self.with_wav)
        item = dataset.pack(index, frames, masks, torch.zeros(len(frames), 1, 96, 64))
        sample = item["data_samples"]
        data = self.model.data_preprocessor(
            {"frames": [item["frames"][: len(frames)]], "log_mel": [item["log_mel"]], "data_samples": [sample]}
        )
        maps = self.model.backbone(data["frames"].flatten(0, 1))
        pictures = {f"map_{i}.npy": array_bytes(m.cpu().numpy().astype(self.dtype)) for i, m in enumerate(maps)}
        pictures["frame_size.npy"] = array_bytes(np.array(sample.img_shape))
        return clip, sound, pictures | mask_files([*sample.gt_masks[: len(masks)].numpy()], dataset.SUBSET)


def pack_features(
    config: str | Path,
    checkpoint: str | Path | None = None,
    *,
    out: str | Path,
    dtype: str = "float16",
    per_shard: int = 500,
    with_wav: bool = True,
    options: Sequence[str] = (),
    data_root: str | None = None,
    device: str | None = None,
    progress: bool = False,
) -> Path:
    """Store the maps of a config's backbone on its training clips.

    Args:
        config: YAML file; its backbone has `frozen: true`, and the pipeline of its training set no random transforms.
        checkpoint: weights of the whole model; None: those that the config's parts name.
        out: new folder, or that of an interrupted run with the same options, which is continued.
        dtype: 'float16' or 'float32'.
        per_shard: clips in a shard.
        with_wav: store waveforms too.
        options: `key=value` overrides of the config.
        data_root: see `AVSBench`.
        device: of the model; None: a GPU if there is one.
        progress: show a bar on stderr.

    Returns:
        The path of the index.

    Raises:
        UserError: if the config does not fit, or files are missing or faulty.
    """
    cfg = load_config(config, parse_options(options), data_root)
    found = next(data_sets((cfg.get("train_dataloader") or {}).get("dataset")), None)
    if found is None:
        raise UserError(f"{config}: has no train_dataloader: no clips to compute features of")
    place = "train_dataloader.dataset"
    if random := [t["type"] for t in found.get("pipeline", ()) if t["type"].rpartition(".")[2] not in FIXED]:
        raise UserError(
            f"{place}.pipeline: expected only {' and '.join(FIXED)}, got {', '.join(random)}: stored features "
            "are the same in every epoch"
        )
    if cfg.model.get("stage_fusion"):
        raise UserError("model.stage_fusion: acts within the backbone, so that its maps cannot be stored")
    dataset = DATASETS.build(found)
    if not isinstance(dataset, AVSBench) or isinstance(dataset, Sharded):
        raise UserError(f"{place}: expected AVSBenchS4, AVSBenchMS3 or AVSBenchAVSS, got {found['type']}")
    if checkpoint is None:
        model: Any = MODELS.build(cfg.model)
        model.init_weights()
    else:
        model = build_model(cfg.model, checkpoint)
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
    if any(p.requires_grad for p in model.backbone.parameters()):
        raise UserError("model.backbone: expected frozen: true, since stored features replace it in training")
    settings = {
        "maps": len(model.backbone.out_channels),
        "backbone": weights_digest(model.backbone),
        "dtype": dtype,
        "pipeline": [dict(t) for t in found.get("pipeline", ())],
        "preprocessor": dict(cfg.model.get("data_preprocessor") or {}),
        "wav": with_wav,
    }
    about = {"subset": dataset.SUBSET, "kind": "features", "classes": dataset.classes(), "settings": settings}
    jobs = jobs_of({dataset.split: len(dataset)}, per_shard)
    return write_shards(out, jobs, about, FeaturePacker(model, dataset, dtype, with_wav), progress=progress)
