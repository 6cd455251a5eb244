"""Training from shards: the weights of a training from files, exact resume, and stored features."""

import json
import shutil

import pytest
import torch

from avsmamba.cli import main
from avsmamba.config.load import load_config, parse_options
from avsmamba.datasets.shards.pack import Settings, pack
from avsmamba.engine.pack_features import pack_features
from avsmamba.engine.train import train as run_training
from avsmamba.engine.work_dir import find_latest
from avsmamba.registry import DATASETS, MODELS
from avsmamba.utils import UserError
from tests.small_model import CONFIG, SMALL

RUN = [
    *SMALL,
    "train_dataloader.batch_size=2",
    "train_cfg={by_epoch: false, max_iters: 8, val_interval: 4}",
    "default_hooks.checkpoint={by_epoch: false, interval: 4, max_keep_ckpts: -1, save_best: null}",
    "val_dataloader=null",
    "val_cfg=null",
    "val_evaluator=null",
]
SHARDS = ["train_dataloader.dataset.type=ShardedMS3", "train_dataloader.sampler={type: ShardSampler, buffer: 3}"]
FROZEN = ["model.backbone={_delete_: true, type: TimmBackbone, model_name: test_resnet, frozen: true}"]
FIXED = ["train_dataloader.dataset.pipeline=[{type: Resize, size: 32}]"]


def train(work_dir, options, root, **kwargs):
    chosen = {o.partition("=")[0]: o for o in [*RUN, *options]}  # later ones win
    run_training(CONFIG, work_dir=str(work_dir), options=[*chosen.values()], data_root=str(root), **kwargs)
    return torch.load(find_latest(work_dir), weights_only=True)["state_dict"]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def packed(tmp_path_factory, shapes):
    out = tmp_path_factory.mktemp("packed")
    pack(shapes, "ms3", out, Settings("png"), per_shard=2)
    return out


def test_weights_equal_those_of_files(tmp_path, shapes, packed):
    files = train(tmp_path / "files", [], shapes)
    shards = train(tmp_path / "shards", SHARDS[:1], packed)
    assert equal(files, shards)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_resumed_training_ends_in_the_same_weights(tmp_path, packed, workers):
    whole = train(tmp_path / "whole", [*SHARDS, f"train_dataloader.num_workers={workers}"], packed)
    middle = torch.load(tmp_path / "whole" / "iter_4.pth", weights_only=True)["state_dict"]
    assert not equal(whole, middle)
    (tmp_path / "broken").mkdir()
    shutil.copy(tmp_path / "whole" / "iter_4.pth", tmp_path / "broken")
    assert equal(whole, train(tmp_path / "broken", SHARDS, packed, resume="auto"))


def losses(model, dataset, indices):
    items = [dataset[i] for i in indices]
    batch = {k: [item[k] for item in items] for k in items[0]}
    if "maps" in batch:
        batch["maps"] = list(zip(*batch["maps"], strict=True))
    torch.manual_seed(0)
    return model(**model.data_preprocessor(batch), mode="loss")


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    """A checkpoint of the small model with a frozen backbone."""
    torch.manual_seed(3)
    model = MODELS.build(load_config(CONFIG, parse_options([*SMALL, *FROZEN])).model)
    path = tmp_path_factory.mktemp("frozen") / "model.pth"
    torch.save({"state_dict": model.state_dict()}, path)
    return path


def loaded(path, options=()):
    model = MODELS.build(load_config(CONFIG, parse_options([*SMALL, *FROZEN, *options])).model)
    model.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    return model.train()


def test_stored_features_give_the_same_losses(tmp_path, shapes, frozen):
    for dtype in ("float32", "float16"):
        options = [*SMALL, *FROZEN, *FIXED]
        pack_features(
            CONFIG, frozen, out=tmp_path / dtype, dtype=dtype, per_shard=4, options=options, data_root=str(shapes)
        )
    files = DATASETS.build({"type": "AVSBenchMS3", "data_root": str(shapes), "split": "train"} | resized())
    features = {
        d: DATASETS.build({"type": "ShardedMS3", "data_root": str(tmp_path / d), "split": "train"})
        for d in ("float32", "float16")
    }
    for indices in ([0], [3, 1]):
        expected = losses(loaded(frozen), files, indices)
        found = losses(loaded(frozen), features["float32"], indices)
        assert expected.keys() == found.keys() and len(found) == 2
        for name, value in expected.items():
            assert torch.equal(found[name], value), name
        half = losses(loaded(frozen), features["float16"], indices)
        for name, value in expected.items():
            assert half[name] != value and torch.allclose(half[name], value, rtol=0.02), name


def resized():
    return {"pipeline": [{"type": "Resize", "size": 32}]}


def test_training_on_features_equals_training_on_frames(tmp_path, shapes, frozen):
    options = [*FROZEN, *FIXED, f"load_from={frozen}", "train_dataloader.batch_size=1"]
    pack_features(
        CONFIG, frozen, out=tmp_path / "out", dtype="float32", options=[*SMALL, *options], data_root=str(shapes)
    )
    files = train(tmp_path / "files", options, shapes)
    kind = ["train_dataloader.dataset.type=ShardedMS3", "train_dataloader.dataset.pipeline=[]"]
    plain = [o for o in options if o not in FIXED]
    features = train(tmp_path / "features", [*plain, *kind], tmp_path / "out")
    assert equal(files, features)


def test_padded_clips_have_features_too(tmp_path, shapes):
    """AVSS: of clips of 5 and 10 frames, whether padding is skipped or zero."""
    config = CONFIG.with_name("avs_mamba_tiny_avss_shapes.yaml")
    options = [*SMALL, *FROZEN, *FIXED]
    cfg = load_config(config, parse_options(options), str(shapes))
    torch.manual_seed(3)
    model = MODELS.build(cfg.model)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "avss.pth")
    pack_features(
        config, tmp_path / "avss.pth", out=tmp_path / "out", dtype="float32", options=options, data_root=str(shapes)
    )
    files = DATASETS.build(cfg.train_dataloader.dataset)
    features = DATASETS.build({"type": "ShardedAVSS", "data_root": str(tmp_path / "out"), "split": "train"})
    for padded_frames in ("skip", "zeros"):
        model.padded_frames = padded_frames
        for index in range(len(files)):
            expected, found = losses(model, files, [index]), losses(model, features, [index])
            assert all(torch.equal(found[k], v) for k, v in expected.items())


def test_another_backbone_is_refused(tmp_path, shapes, frozen):
    pack_features(CONFIG, frozen, out=tmp_path / "out", options=[*SMALL, *FROZEN, *FIXED], data_root=str(shapes))
    features = DATASETS.build({"type": "ShardedMS3", "data_root": str(tmp_path / "out"), "split": "train"})
    model = loaded(frozen)
    next(model.backbone.parameters()).data[0] += 1
    with pytest.raises(ValueError, match=r"backbone: its weights \(SHA-256 \w{12}\) are not those of the stored"):
        losses(model, features, [0])
    with pytest.raises(ValueError, match="backbone: expected frozen: true"):
        losses(loaded(frozen, ["model.backbone.frozen=false"]), features, [0])
    with pytest.raises(UserError, match="expected an empty pipeline"):
        DATASETS.build({"type": "ShardedMS3", "data_root": str(tmp_path / "out"), "split": "train"} | resized())
    with pytest.raises(UserError, match="features of a backbone are for training"):
        DATASETS.build({"type": "ShardedMS3", "data_root": str(tmp_path / "out"), "split": "train", "test_mode": True})


def test_what_cannot_be_stored(tmp_path, shapes, frozen):
    for options, words in (
        ([*FROZEN], "pipeline: expected only Resize and CenterCrop, got RandomFlip"),
        ([*FIXED], "model.backbone: expected frozen: true"),
        ([*FROZEN, *FIXED, "train_dataloader.dataset.type=ShardedMS3"], "expected AVSBenchS4, AVSBenchMS3"),
    ):
        root = shapes
        if "Sharded" in words or "AVSBenchS4" in words:
            root = tmp_path / "packed"
            pack(shapes, "ms3", root)
        with pytest.raises(UserError, match=words):
            pack_features(CONFIG, out=tmp_path / "out", options=[*SMALL, *options], data_root=str(root))


def test_the_command(tmp_path, shapes, frozen, capsys):
    assert main(["shards", "--subset", "ms3", "--data-root", str(shapes), "--out", str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "a" / "index.json")
    more = ["--format", "jpg", "--size", "16", "--quality", "80", "--no-wav", "--per-shard", "3"]
    assert main(["shards", "--subset", "ms3", "--data-root", str(shapes), "--out", str(tmp_path / "b"), *more]) == 0
    index = json.loads((tmp_path / "b" / "index.json").read_text())
    assert index["settings"] == {"frames": "jpg", "size": 16, "shorter_side": False, "quality": 80, "wav": False}
    assert [s["clips"] for s in index["splits"]["train"]["shards"]] == [3, 3]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["shards", "--out", str(tmp_path / "c")])
    assert "--subset and --data-root" in capsys.readouterr().err
    options = ["--cfg-options", *SMALL, *FROZEN, *FIXED]
    features = ["--features", str(CONFIG), str(frozen), "--data-root", str(shapes), "--out", str(tmp_path / "d")]
    assert main(["shards", *features, *options]) == 0
    index = json.loads((tmp_path / "d" / "index.json").read_text())
    assert (index["kind"], index["settings"]["maps"], index["settings"]["dtype"]) == ("features", 4, "float16")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["shards", "--features", "a", "b", "c", "--out", str(tmp_path / "e")])
    assert "expected CONFIG [CHECKPOINT], got 3 files" in capsys.readouterr().err
