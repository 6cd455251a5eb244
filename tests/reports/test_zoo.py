"""The zoo: every config builds and runs, and docs/zoo.md says what is there."""

import json
import shutil

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from avsmamba.checkpoint.build import drop_pretrained
from avsmamba.config import load_config
from avsmamba.registry import MODELS
from avsmamba.reports.paper_tables import ABLATIONS, Ablations, Methods
from avsmamba.reports.zoo import Costs, Entry, add_score, collect, config_files, measured_score, page, sized_configs
from avsmamba.utils import UserError
from tests import ROOT

CONFIGS = ROOT / "configs"
METHODS = Methods(CONFIGS)
NAMES = [p.relative_to(CONFIGS).as_posix() for p in config_files(CONFIGS)]
NAMES += [f"{ABLATIONS}#{name}" for name in Ablations(CONFIGS).variants.names()]
BUILT: dict[str, str] = {}


def without_losses(cfg):
    return json.dumps({k: v for k, v in cfg.model.to_dict().items() if not k.endswith("losses")}, sort_keys=True)


@pytest.mark.parametrize("name", NAMES)
def test_every_config_builds_and_runs(name):
    cfg = load_config(CONFIGS / name)
    drop_pretrained(cfg.model)
    key = without_losses(cfg)
    if key in BUILT:  # the same model with other data, losses or schedule
        for losses in ("losses", "aux_losses", "matching_losses"):
            assert all(MODELS.build(loss) for loss in cfg.model.get(losses) or ())
        return
    model = MODELS.build(cfg.model).eval().requires_grad_(False)
    logits = model(torch.rand(1, 2, 3, 64, 64), torch.rand(1, 2, 1, 96, 64))
    assert logits.shape[:3] == (1, 2, cfg.model.head.num_classes) and logits.isfinite().all()
    BUILT[key] = name


def test_the_zoo_is_whole():
    for backbone in ("pvtv2b5", "r50", "vmamba_t", "vim_s"):
        for data in ("s4", "ms3", "avss"):
            own = 224 if data == "avss" else 512
            path = CONFIGS / "avs_mamba" / f"avs_mamba_{backbone}_{data}_{own}.yaml"
            batch, epochs, classes, loss = {
                "s4": (2, 60, 1, "DiceLoss"),
                "ms3": (2, 120, 1, "DiceLoss"),
                "avss": (6, 50, 71, "CrossEntropyLoss"),
            }[data]
            for size in (224, 512):
                cfg = load_config(path, {} if size == own else {"size": size})
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
    text = page(collect(CONFIGS), scores, memory, CONFIGS)
    assert (ROOT / "docs" / "zoo.md").read_text() == text, "run python tools/zoo.py --write"
    assert all(f"`{name.removesuffix('.yaml')}`" in text for name in NAMES if "#" not in name)


def test_costs_are_those_of_the_model():
    path = CONFIGS / "avs_mamba" / "avs_mamba_tiny_ms3_shapes.yaml"
    costs = Costs()
    entry = costs.entry(load_config(path), "avs_mamba/avs_mamba_tiny_ms3_shapes")
    model = MODELS.build(load_config(path).model).eval().requires_grad_(False)
    assert entry.config == "avs_mamba/avs_mamba_tiny_ms3_shapes" and (entry.size, entry.frames) == (96, 5)
    assert entry.parameters == sum(p.numel() for p in model.parameters())
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 5, 3, 96, 96), torch.zeros(1, 5, 1, 96, 64))
    assert entry.flops == counter.get_total_flops() > 1e8
    again = costs.entry(load_config(CONFIGS / "ablations.yaml#tiny_full"), "ablations.yaml#tiny_full")
    assert len(costs.models) == 1 and again.parameters == entry.parameters and again.flops < entry.flops


def test_published_scores():
    for config, size, score in (
        ("avs_mamba/avs_mamba_pvtv2b5_ms3_512", 512, (68.6, 78.8)),
        ("avs_mamba/avs_mamba_pvtv2b5_ms3_512", 224, None),
        ("avs_mamba/avs_mamba_r50_avss_224", 224, (32.2, 38.2)),
        ("avs_mamba/avs_mamba_r50_avss_224", 512, None),
        ("avs_mamba/avs_mamba_vim_s_s4_512", 512, None),
        ("avs_mamba/avs_mamba_tiny_ms3_shapes", 96, None),
        ("baselines/tpavi_r50_s4_224", 224, (72.8, 84.8)),
        ("baselines/avsegformer_pvtv2b5_s4_224", 224, (83.1, 90.5)),
    ):
        assert METHODS.published(config, size) == score


def test_published_tables_say_what_has_a_config():
    text = (ROOT / "docs" / "zoo.md").read_text().partition("## The paper's tables")[2]
    assert "| TPAVI | ResNet50 | 72.8 / 84.8 | 47.9 / 57.8 | S4, MS3 |" in text
    assert "| TPAVI | ResNet50 | 20.2 / 25.2 | AVSS |" in text and "| BAVS | PVT-v2 | 32.6 / 36.4 | – |" in text
    assert len([line for line in text.splitlines() if line.startswith("| ")]) == 2 * 2 + 24 + 12


def copied(tmp_path, file, old, new):
    """A copy of configs/ with one change."""
    configs = tmp_path / "configs"
    shutil.copytree(CONFIGS, configs, dirs_exist_ok=True)
    text = (configs / file).read_text()
    assert old in text
    (configs / file).write_text(text.replace(old, new, 1))
    return configs


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("name: TPAVI", "nam: TPAVI", "tpavi.yaml: nam: it takes no 'nam'; did you mean 'name'"),
        ("name: TPAVI\n", "", "tpavi.yaml: top level: needs 'name'"),
        ("M_J: 72.8", "M_J: high", "tpavi_r50_s4_224.M_J: expected a number, got 'high'"),
        (", M_J: 72.8", "", "tpavi_r50_s4_224: needs 'table', 'row', 'M_J' and 'M_F' together"),
        ("baselines/tpavi_r50_s4_224:", "baselines/tpavi_r5_s4_224:", "tpavi_r5_s4_224: no such file"),
        ("name: TPAVI", "name: TPAV", "other_methods.yaml: order: expected every method once"),
    ],
)
def test_a_faulty_metafile(tmp_path, old, new, message):
    with pytest.raises(UserError, match=message) as caught:
        Methods(copied(tmp_path, "metafiles/tpavi.yaml", old, new))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("data: S4, sizes: [224]", "data: S4, sizes: [512]", r"has size and convention \(224, 'tpavi'\), its metafile"),
        ("convention: tpavi", "convention: selm", "its metafile .*'selm'"),
    ],
)
def test_a_metafile_that_does_not_fit_its_config(tmp_path, old, new, message):
    methods = Methods(copied(tmp_path, "metafiles/tpavi.yaml", old, new))
    with pytest.raises(UserError, match=message):
        list(sized_configs(CONFIGS, methods))


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
        page([Entry("avs_mamba/avs_mamba_r50_s4_512", 512, 5, 1, 1)], known, {}, CONFIGS)
