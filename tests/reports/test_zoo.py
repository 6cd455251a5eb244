"""The zoo: every config builds and runs, and docs/zoo.md says what is there."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from avsmamba.checkpoint.build import drop_pretrained
from avsmamba.config import load_config
from avsmamba.registry import MODELS
from avsmamba.reports.zoo import Costs, Entry, add_score, collect, measured_score, page, paper_tables, published
from avsmamba.utils import UserError
from tests import ROOT

CONFIGS = ROOT / "configs"
PATHS = sorted(p for p in CONFIGS.rglob("*.yaml") if "_base_" not in p.relative_to(CONFIGS).parts)
BUILT: dict[str, str] = {}


def without_losses(cfg):
    return json.dumps({k: v for k, v in cfg.model.to_dict().items() if not k.endswith("losses")}, sort_keys=True)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.relative_to(CONFIGS).with_suffix("").as_posix())
def test_every_config_builds_and_runs(path):
    cfg = load_config(path)
    drop_pretrained(cfg.model)
    key = without_losses(cfg)
    if key in BUILT:  # the same model with other data, losses or schedule
        for name in ("losses", "aux_losses", "matching_losses"):
            assert all(MODELS.build(loss) for loss in cfg.model.get(name) or ())
        return
    model = MODELS.build(cfg.model).eval().requires_grad_(False)
    logits = model(torch.rand(1, 2, 3, 64, 64), torch.rand(1, 2, 1, 96, 64))
    assert logits.shape[:3] == (1, 2, cfg.model.head.num_classes) and logits.isfinite().all()
    BUILT[key] = path.stem


def test_the_zoo_is_whole():
    names = {p.stem for p in PATHS}
    for backbone in ("pvtv2b5", "r50", "vmamba_t", "vim_s"):
        for data in ("s4", "ms3", "avss"):
            for size in (224, 512):
                name = f"avs_mamba_{backbone}_{data}_{size}"
                assert name in names
                cfg = load_config(CONFIGS / "avs_mamba" / f"{name}.yaml")
                batch, epochs, classes, loss = {
                    "s4": (2, 60, 1, "DiceLoss"),
                    "ms3": (2, 120, 1, "DiceLoss"),
                    "avss": (6, 50, 71, "CrossEntropyLoss"),
                }[data]
                assert cfg.train_dataloader.batch_size == batch and cfg.train_cfg.max_epochs == epochs
                assert cfg.model.head.num_classes == classes and [c["type"] for c in cfg.model.losses] == [loss]
                assert cfg.train_dataloader.dataset.type.endswith(data.upper())
                for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
                    assert [t["size"] for t in loader.dataset.pipeline if "size" in t][-1] == size
                assert cfg.optim_wrapper.optimizer.lr == 2e-5


def test_fig_10_s_backbones_have_configs():
    for key, backbone in (
        ("vmamba_b", {"type": "VMamba", "arch": "v05_base_s2l15", "drop_path_rate": 0.6}),
        ("vim_b", {"type": "Vim", "arch": "base", "pyramid": False, "img_size": 512, "drop_path_rate": 0.1}),
    ):
        for data in ("s4", "ms3"):
            cfg = load_config(CONFIGS / "avs_mamba" / f"avs_mamba_{key}_{data}_512.yaml")
            main = load_config(CONFIGS / "avs_mamba" / f"avs_mamba_pvtv2b5_{data}_512.yaml")
            assert backbone.items() <= cfg.model.backbone.to_dict().items()
            assert {k: v for k, v in cfg.model.items() if k != "backbone"} == {
                k: v for k, v in main.model.items() if k != "backbone"
            }
            assert all(cfg[k] == main[k] for k in main if k.startswith(("train", "val", "test", "optim")))


def test_the_page_is_up_to_date():
    scores = json.loads((ROOT / "docs" / "zoo_scores.json").read_text())
    memory = json.loads((ROOT / "docs" / "zoo_memory.json").read_text())
    text = page(collect(CONFIGS), scores, memory)
    assert (ROOT / "docs" / "zoo.md").read_text() == text, "run python tools/zoo.py --write"
    assert len([p for p in PATHS if f"`{p.relative_to(CONFIGS).with_suffix('').as_posix()}`" in text]) >= 24


def test_costs_are_those_of_the_model():
    path = CONFIGS / "avs_mamba" / "avs_mamba_tiny_ms3_shapes.yaml"
    costs = Costs()
    entry = costs.entry(path, CONFIGS)
    model = MODELS.build(load_config(path).model).eval().requires_grad_(False)
    assert entry.config == "avs_mamba/avs_mamba_tiny_ms3_shapes" and (entry.size, entry.frames) == (96, 5)
    assert entry.parameters == sum(p.numel() for p in model.parameters())
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 5, 3, 96, 96), torch.zeros(1, 5, 1, 96, 64))
    assert entry.flops == counter.get_total_flops() > 1e8
    again = costs.entry(CONFIGS / "ablations" / "tiny_full.yaml", CONFIGS)
    assert len(costs.models) == 1 and again.parameters == entry.parameters and again.flops < entry.flops


def test_published_scores():
    assert published("avs_mamba_pvtv2b5_ms3_512") == (68.6, 78.8)
    assert published("avs_mamba_r50_avss_224") == (32.2, 38.2)
    assert published("tpavi_r50_s4_224") == (72.8, 84.8)
    assert published("avsegformer_pvtv2b5_s4_224") == (83.1, 90.5)
    for name in (
        "avs_mamba_pvtv2b5_ms3_224",
        "avs_mamba_pvtv2b5_avss_512",
        "avs_mamba_vim_s_s4_224",
        "avs_mamba_tiny_ms3_shapes",
        "other",
    ):
        assert published(name) is None


def test_published_tables_say_what_has_a_config():
    text = paper_tables(["avs_mamba_r50_s4_224", "tpavi_r50_ms3_224", "tpavi_r50_s4_512", "tpavi_tiny_s4_shapes"])
    assert "| TPAVI | ResNet50 | 72.8 / 84.8 | 47.9 / 57.8 | S4, MS3 |" in text
    assert "| TPAVI | ResNet50 | 20.2 / 25.2 | – |" in text and "| SelM | PVT-v2 | 41.3 / 46.9 | – |" in text
    assert len([line for line in text.splitlines() if line.startswith("| ")]) == 2 * 2 + 24 + 12


def test_a_score_is_taken_from_a_test(tmp_path):
    scores, log = tmp_path / "scores.json", tmp_path / "t" / "20261125_153629"
    metrics = tmp_path / "t" / "metrics.json"
    log.mkdir(parents=True)
    found = {"audio": "real", "clips": 9, "frames": 45, "frame": {"M_J": 0.51236, "M_F": 0.6}}
    metrics.write_text(json.dumps(found))
    with pytest.raises(UserError, match="env.json: no such file"):
        add_score(scores, "configs/a/b.yaml", metrics)
    (log / "env.json").write_text(json.dumps({"commit": "abc", "device": "cpu", "command": "python tools/test.py"}))
    for sound, value in (("real", 0.1), ("shuffle", 0.3), ("real", 0.51236)):
        metrics.write_text(json.dumps(found | {"audio": sound, "frame": {"M_J": value, "M_F": 0.6}}))
        add_score(scores, "/x/configs/a/b.yaml", metrics)
    known = json.loads(scores.read_text())
    assert [r["sound"] for r in known["a/b"]] == ["shuffle", "real"]
    assert known["a/b"][1]["date"] == "2026-11-25" and measured_score(known, "a/b") == pytest.approx((51.24, 60.0))
    assert measured_score(known, "a/c") is None
    with pytest.raises(UserError, match="no such config: a/b"):
        page([Entry("avs_mamba/avs_mamba_r50_s4_224", 224, 5, 1, 1)], known, {})
