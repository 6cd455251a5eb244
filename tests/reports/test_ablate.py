"""tools/ablate.py: runs that are skipped, resumed, failed; the tables and the page made from them."""

import json
import sys
from pathlib import Path

import pytest
import torch

from avsmamba.config import load_config
from avsmamba.config.load import merge
from avsmamba.registry import MODELS
from avsmamba.reports import runs as runs_of
from avsmamba.reports.ablate import ablate, finished, plan
from avsmamba.reports.ablation_page import (
    BEGIN,
    END,
    against,
    comma_separated,
    fill_page,
    gather,
    markdown,
    record,
    write_page,
    write_tables,
)
from avsmamba.reports.paper_tables import FULL, Ablations, Methods
from avsmamba.reports.runs import carry_out, run_in_a_process
from avsmamba.sounding_shapes.generate import make_sounding_shapes
from avsmamba.utils import UserError
from tests import ROOT

ABLATIONS = Ablations(ROOT / "configs")
VARIANTS = {row.variant for _, rows in ABLATIONS.tables.values() for row in rows} - {FULL}

SMALL = """_base_: {base}
model:
  embed_dims: 8
  backbone: {{channels: [8, 8, 8, 8]}}
  audio_encoder: {{out_channels: 8}}
  encoder: {{num_layers: 1, d_state: 1}}
  decoder: {{num_layers: 1, d_state: 1}}
  pyramid: {{d_state: 1}}
train_cfg: {{max_iters: 4}}
train_dataloader: {{batch_size: 2, num_workers: 0, dataset: {{pipeline: [{{type: Resize, size: 32}}]}}}}
test_dataloader: {{num_workers: 0, dataset: {{pipeline: [{{type: Resize, size: 32}}]}}}}
default_hooks: {{logger: {{interval: 3}}, checkpoint: {{interval: 2}}}}
"""


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    make_sounding_shapes(root, "ms3", {"train": 2, "val": 2, "test": 2}, size=32)
    return root


@pytest.fixture
def small(tmp_path):
    """Two configs, of the whole model and of one without its decoder."""
    full = tmp_path / "small_full.yaml"
    full.write_text(SMALL.format(base=f"{ABLATIONS.file}#tiny_full"))
    other = tmp_path / "small_other.yaml"
    other.write_text("_base_: small_full.yaml\nmodel: {decoder: null}\n")
    return [full, other]


@pytest.fixture
def in_this_process(monkeypatch):
    """Runs without the seconds that a new process takes; the folders are noted, and one can be made to fail."""
    seen, faulty = [], set()

    def run(folder, threads=None):
        seen.append(folder.relative_to(folder.parents[1]).as_posix())
        if seen[-1] in faulty:
            return "a fault (status 2)"
        return carry_out(folder)

    monkeypatch.setattr(runs_of, "run_in_a_process", run)
    return seen, faulty


def test_runs_are_made_in_turn_and_skipped_when_finished(small, shapes, tmp_path, in_this_process, capsys):
    seen, faulty = in_this_process
    runs = plan(small, 2, tmp_path / "w", data_root=str(shapes))
    order = ["small_full/seed_0", "small_other/seed_0", "small_full/seed_1", "small_other/seed_1"]
    faulty.add(order[1])
    results, failed = ablate(runs)
    assert seen == order and failed == {"small_other, seed 0": "a fault (status 2)"}
    assert [(r["config"], r["seed"]) for r in results] == [("small_full", 0), ("small_full", 1), ("small_other", 1)]
    assert results[0]["loss"] != results[1]["loss"] and results[0]["parameters"] > results[2]["parameters"]
    assert {m["audio"] for m in results[0]["scores"].values()} == {"real", "shuffle"}
    assert all(r["iterations"] == 4 and r["scores"]["real"]["clips"] == 2 for r in results)
    assert "Failed" in write_tables(results, failed, tmp_path / "w", ABLATIONS)
    assert (tmp_path / "w" / "ablation.png").read_bytes()[:4] == b"\x89PNG"

    seen.clear(), faulty.clear()
    assert finished(runs) == results
    again, failed = ablate(runs)
    assert seen == [order[1]] and not failed
    assert len(again) == 4 and [r for r in again if r in results] == results

    with pytest.raises(UserError, match=r"small_full/seed_0: holds a run with another config; "):
        ablate(plan(small, 2, tmp_path / "w", data_root=str(shapes), options=["train_cfg.max_iters=5"]))
    with pytest.raises(UserError, match="another data root"):
        ablate(plan(small, 2, tmp_path / "w", data_root=str(tmp_path)))
    with pytest.raises(UserError, match="another set of sounds"):
        finished(plan(small, 1, tmp_path / "w", ["real"], data_root=str(shapes)))


def test_a_run_that_was_cut_off_goes_on_and_ends_the_same(small, shapes, tmp_path, in_this_process, monkeypatch):
    # Without a schedule a training of two iterations is the first half of one of four.
    (run,), (cut,) = (
        plan(small[:1], 1, tmp_path / name, ["real"], ["param_scheduler=null"], str(shapes))
        for name in ("whole", "cut")
    )
    (whole,), _ = ablate([run])
    train, score = runs_of.train, runs_of.evaluate
    resumed_at = []

    def half(*args, options, **more):
        train(*args, options=[*options, "train_cfg.max_iters=2"], **more)
        raise UserError("cut off in training")

    def noted(config, work_dir, **more):
        resumed_at.append(sorted(p.name for p in Path(work_dir).glob("iter_*.pth")))
        return train(config, work_dir, **more)

    def no_score(*args, **options):
        raise UserError("cut off in testing")

    for name, stand_in, message in (("train", half, "in training"), ("evaluate", no_score, "in testing")):
        monkeypatch.setattr(runs_of, "train", noted)
        monkeypatch.setattr(runs_of, name, stand_in)
        with pytest.raises(UserError, match=message):
            ablate([cut])
    monkeypatch.setattr(runs_of, "evaluate", score)
    (resumed,), _ = ablate([cut])
    assert resumed_at == [["iter_2.pth"], ["iter_4.pth"]]
    assert (resumed["scores"], resumed["iterations"]) == (whole["scores"], whole["iterations"])
    weights = [
        torch.load(tmp_path / name / "small_full" / "seed_0" / "train" / "iter_4.pth")["state_dict"]
        for name in ("whole", "cut")
    ]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


def test_a_process_of_its_own(small, tmp_path):
    (run,) = plan(small[:1], 1, tmp_path / "w")
    folder = run.folder
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({**run.record, "data_root": str(tmp_path / "none")}))
    reason = run_in_a_process(folder)
    assert reason.startswith("--data-root: no such folder") and reason.endswith(f"(status 2, see {folder / 'log.txt'})")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([], 1, "w"), "--configs: expected at least one"),
        ((["a/x.yaml", "b/x.yaml"], 1, "w"), "two configs are named 'x'"),
        ((["x.yaml"], 0, "w"), "--seeds: expected at least 1, got 0"),
        ((["x.yaml"], 1, "w", ["shuffle"]), "--sounds: expected 'real' and any of"),
        ((["x.yaml"], 1, "w", ["real", "rain"]), "--sounds: .*got real rain"),
    ],
)
def test_a_plan_that_cannot_be(arguments, message):
    with pytest.raises(UserError, match=message):
        plan(*arguments)


def made_up(config, seed, score, other=0.3):
    """A result as `carry_out` writes it."""
    scores = {
        sound: {"audio": sound, "clips": 96, "frames": 480, "frame": {"M_J": m, "M_F": m + 0.05}}
        for sound, m in (("real", score), ("shuffle", other))
    }
    env = {"device": "cpu", "threads": 2, "torch": "2.14", "commit": "abc"}
    train = {"parameters": 12345, "iterations": 250, "loss": 0.2, "train_seconds": 100.0}
    return {"config": config, "seed": seed, "digest": "x", "scores": scores, "env": env, **train}


RESULTS = [
    made_up(config, seed, score)
    for config, scores in {
        "tiny_full": (0.90, 0.91, 0.92),
        "tiny_without_mad": (0.80, 0.85, 0.89),
        "tiny_without_mte": (0.95, 0.96, 0.97),
        "tiny_orders_10": (0.90, 0.91, 0.93),
        "tpavi": (0.5, 0.5, 0.5),
    }.items()
    for seed, score in enumerate(scores)
]


def test_tables_follow_the_paper():
    text = markdown(gather(RESULTS), {"x, seed 1": "a fault"}, ABLATIONS)
    heads = [line for line in text.splitlines() if line.startswith("### ")]
    tables = [f"### Table {n}" for n in ("III", "IV", "V", "VII")]
    assert [h.split(":")[0] for h in heads] == [*tables, "### Other configs", "### Failed"]
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert "| 84.7 ± 4.5 | 80.0 – 89.0 | 89.7 ± 4.5 | 30.0 ± 0.0 |" in rows["w/o MAD"]
    assert "| -6.3: lower, as in the paper | 65.4 / 75.7 | 84.0 / 92.1 |" in rows["w/o MAD"]
    assert "| +5.0: higher, unlike the paper |" in rows["w/o MTE"]
    assert "| +0.3: within the spread | 69.0 / 78.3 |" in rows["10"]
    assert "| – | 68.6 / 78.8 |" in rows["Ours"]
    assert rows["tpavi"].startswith("| tpavi | 50.0 ± 0.0 |")
    assert "- x, seed 1: a fault" in text
    alone = markdown(gather(RESULTS[:1]), {}, ABLATIONS)
    assert "### Configs" in alone and "| tiny_full | 90.0 | 90.0 – 90.0 | 95.0 | 30.0 |" in alone
    assert comma_separated(gather(RESULTS)).splitlines()[1] == "tiny_full,0,90.0,95.0,30.0,0.2,100.0"


def test_ranges_that_touch_are_within_the_spread():
    assert against([1.0, 2.0], [2.0, 3.0]) == against([3.0, 4.0], [2.0, 3.0]) == "within the spread"
    assert against([1.0, 1.9], [2.0, 3.0]) == "lower" and against([3.1], [2.0, 3.0]) == "higher"


def test_the_page_keeps_what_is_written_by_hand(tmp_path):
    page = tmp_path / "ablations.md"
    write_page(RESULTS, page, ABLATIONS)
    first = page.read_text()
    assert "Runs: 15, of 5 configs with up to 3 seeds; 250 iterations" in first and "in 10 % of cases" in first
    assert (tmp_path / "images" / "ablations.png").is_file()
    page.write_text(first.replace(BEGIN, f"Read me first.\n{BEGIN}").replace(END, f"{END}\nIn the end."))
    write_page(RESULTS[:9], page, ABLATIONS)
    text = page.read_text()
    assert "Read me first." in text and text.endswith("In the end.\n") and "Runs: 9, of 3 configs" in text
    assert json.loads((tmp_path / "ablations.json").read_text()) == json.loads(record(RESULTS[:9]))
    page.write_text("no markers\n")
    with pytest.raises(UserError, match="once each"):
        write_page(RESULTS, page, ABLATIONS)
    assert page.read_text() == "no markers\n"


@pytest.mark.parametrize("name", ["ablations.md", "accidents.md", "plus.md"])
def test_a_committed_page_is_written_from_its_figures(name):
    page = ROOT / "docs" / name
    text, figures = page.read_text(), json.loads(page.with_suffix(".json").read_text())
    new = fill_page(text, figures, f"images/{page.stem}.png", str(page), ABLATIONS)
    assert new == text, "run tools/ablate.py --write-docs"


def test_every_row_of_the_paper_changes_one_thing_in_each_base():
    table = ABLATIONS.variants
    assert set(table.variants) - {FULL} == VARIANTS
    for base, other in (
        ("tiny", None),
        ("ms3", "avs_mamba/avs_mamba_pvtv2b5_ms3_512.yaml"),
        ("s4", "avs_mamba/avs_mamba_pvtv2b5_s4_512.yaml"),
    ):
        whole = load_config(f"{ABLATIONS.file}#{base}_{FULL}").to_dict()
        assert other is None or whole == load_config(ROOT / "configs" / other).to_dict()
        for variant in VARIANTS:
            cfg = load_config(f"{ABLATIONS.file}#{base}_{variant}").to_dict()
            changed = {k for k in whole["model"] if cfg["model"][k] != whole["model"][k]}
            expected = {"orders": {"encoder", "pyramid"}, "cip": {"pyramid"}}.get(variant.split("_")[0])
            assert changed == expected if expected else len(changed) == 1
            assert merge(whole, {"model": cfg["model"]}, "") == cfg


@pytest.mark.parametrize(
    "variant, gone, kept",
    [
        ("without_mte", ["encoder."], ["decoder.", "pyramid.fusion."]),
        ("without_mad", ["decoder."], ["encoder.", "pyramid.fusion."]),
        ("without_cip", ["pyramid.fusion."], ["encoder.", "decoder.", "pyramid.pyramid.laterals."]),
        ("cip_without_a2v", [".a2v."], ["pyramid.fusion.3.temporal_mamba."]),
        ("cip_without_temporal_mamba", [".temporal_mamba."], ["pyramid.fusion.0.a2v.", "encoder.blocks.1.conv"]),
    ],
)
def test_what_a_variant_leaves_out(variant, gone, kept):
    model = MODELS.build(load_config(f"{ABLATIONS.file}#tiny_{variant}").model)
    names = [name for name, _ in model.named_parameters()]
    assert not [n for n in names for g in gone if n.startswith(g) or (g[0] == "." and g in n)]
    assert all(any(n.startswith(k) for n in names) for k in kept)


def test_levels_and_orders():
    def build(variant):
        return MODELS.build(load_config(f"{ABLATIONS.file}#tiny_{variant}").model)

    assert {b.level for stage in build("without_frame_level").decoder.stages for b in stage} == {"temporal"}
    assert {b.level for stage in build("without_temporal_level").decoder.stages for b in stage} == {"frame"}
    assert {type(b).__name__ for b in build("without_vss").encoder.blocks} == {"TemporalMambaBlock"}
    assert {type(b).__name__ for b in build("without_temporal_mamba").encoder.blocks} == {"VSSBlock"}
    for n in (2, 12):
        model = build(f"orders_{n}")
        counts = [model.encoder.blocks[1].ssm.num_directions, model.pyramid.fusion[0].temporal_mamba.ssm.num_directions]
        assert counts == [n, n]


def test_published_figures_are_whole_and_consistent():
    scores = Methods(ROOT / "configs").scores
    assert len({method for method, _ in scores}) == 12 and len(scores) == 24
    assert sum("AVSS" in by_data for by_data in scores.values()) == 12
    for _, rows in ABLATIONS.tables.values():
        (ours,) = [r for r in rows if r.variant == FULL]
        for data, score in (("S4", ours.s4), ("MS3", ours.ms3)):
            assert tuple(score) == scores["AVS-Mamba", "PVT-v2"][data]


def test_the_command(small, shapes, tmp_path, in_this_process, monkeypatch, capsys):
    import runpy

    words = ["--seeds", "1", "--work-dir", tmp_path / "w", "--data-root", shapes, "--write-docs", tmp_path / "p.md"]
    monkeypatch.setattr(sys, "argv", ["ablate.py", "--configs", *map(str, [*small, *words])])
    in_this_process[1].add("small_other/seed_0")
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(ROOT / "tools" / "ablate.py"), run_name="__main__")
    said = capsys.readouterr()
    assert left.value.code == 2 and said.err == "error: 1 of 2 runs failed: small_other, seed 0\n"
    assert "| small_full |" in said.out and "| small_full |" in (tmp_path / "p.md").read_text()
