"""Right and wrong sounds in one go: every figure against what it must be for models whose answer is known."""

import json
import pickle
import shutil

import pytest
import torch

from avsmamba.engine.evaluate import evaluate
from avsmamba.engine.robustness import SOUNDS, add_metric, global_scores, robustness, summary, table_and_notes
from avsmamba.utils import UserError
from tests.small_model import CONFIG, SMALL, write_checkpoint


def run(shapes, checkpoint, tmp_path, *options, **more):
    return robustness(
        CONFIG, checkpoint, str(tmp_path / "w"), options=[*SMALL, *options], data_root=str(shapes), **more
    )


def test_a_model_that_marks_everything_whatever_it_hears(shapes, tmp_path, capsys):
    result = run(shapes, write_checkpoint(tmp_path / "all.pth", 5.0), tmp_path)
    assert list(result["sounds"]) == list(SOUNDS) and (result["clips"], result["frames"]) == (4, 20)
    real = result["sounds"]["real"]
    assert real["right"] == real["own"]["frame"] and "gap" not in real
    for sound in ("silence", "noise", "swap"):
        row = result["sounds"][sound]
        assert row["own"] == real["own"], "the picture's own masks are what they were"
        assert row["right"] == {"M_J": 0.0, "M_F": None}
        assert row["marked"] == {"pixels": 1.0, "frames": 1.0}
        assert row["gap"] == {
            "own_M_J": 0.0,
            "own_M_F": 0.0,
            "right_M_J": real["right"]["M_J"],
            "marked_ratio": 1.0,
        }
    assert result["swap"] == {"known": "visible", "clips_without": 0}
    assert result["features"] == {"log_mel_from": "wav", "negative_features": "vggish", "clips_without_wav": 0}
    assert result["global"] == {"false_positive_rate": 1.0, "M_J": 0.0, "M_F": 0.0} == row["global"]
    files = {name: (tmp_path / "w" / name).read_text() for name in ("robustness.json", "robustness.md")}
    assert json.loads(files["robustness.json"]) == result
    assert files["robustness.md"] in capsys.readouterr().out
    lines = [line for line in files["robustness.md"].splitlines() if line.startswith("|")]
    assert [line.split()[1] for line in lines[2:]] == list(SOUNDS)
    assert {len(line) for line in lines} == {len(lines[0])}


def test_a_model_that_marks_nothing(shapes, tmp_path):
    result = run(shapes, write_checkpoint(tmp_path / "none.pth", -5.0), tmp_path)
    real, noise = result["sounds"]["real"], result["sounds"]["noise"]
    assert noise["right"]["M_J"] == 1.0 and noise["marked"] == {"pixels": 0.0, "frames": 0.0}
    assert noise["gap"]["marked_ratio"] is None
    # What it scores with the real sound is the share of frames in which nothing sounds.
    assert 0 < real["silent"]["count"] < 20
    assert real["own"]["frame"]["M_J"] == pytest.approx(real["silent"]["count"] / 20)


def test_each_row_is_what_a_test_with_that_sound_gives(shapes, checkpoint, tmp_path):
    folders = {"out": str(tmp_path / "masks"), "show_dir": str(tmp_path / "show")}
    result = run(shapes, checkpoint, tmp_path, **folders)
    for sound in ("real", "swap"):
        alone = evaluate(CONFIG, checkpoint, str(tmp_path / sound), audio=sound, options=SMALL, data_root=str(shapes))
        row = result["sounds"][sound]
        assert row["own"] == {key: alone[key] for key in ("frame", "avsbench")}
        assert row["marked"]["pixels"] == pytest.approx(alone["foreground"])
    for folder in ("masks", "show"):
        assert sorted(p.name for p in (tmp_path / folder).iterdir()) == sorted(SOUNDS)
    assert len(list((tmp_path / "masks" / "noise").rglob("*.png"))) == 20


def test_avss(shapes, tmp_path):
    config = CONFIG.with_name("avs_mamba_tiny_avss_shapes.yaml")
    checkpoint = write_checkpoint(tmp_path / "avss.pth", config=config)
    result = robustness(config, checkpoint, str(tmp_path / "w"), options=SMALL, data_root=str(shapes))
    row = result["sounds"]["silence"]
    assert result["swap"]["known"] == "category" and result["features"]["log_mel_from"] == "wav"
    assert row["right"] == {"M_J": 1 - row["marked"]["pixels"], "M_F": None}
    real = result["sounds"]["real"]
    assert {name: real["own"]["frame"][name] for name in ("M_J", "M_F")} == real["right"]


def test_the_notes_say_how_sure_a_swapped_sound_is():
    scores = {"M_J": 0.5, "M_F": 0.5, "avsbench/M_J": 0.5, "avsbench/M_F": 0.5, "avsbench/batch_size": 4, "clips": 2}
    scores |= {"frames": 10, "marked/pixels": 0.1, "marked/frames": 0.2}
    scores |= {"silent/count": 0.0, "silent/pixels": 0.0, "silent/frames": 0.0}
    for known, words in (
        ("category", "may be of a visible object; 2 clips"),
        ("nothing", "are not known: a swapped"),
    ):
        result = summary(dict.fromkeys(SOUNDS, scores), {"known": known, "clips_without": 2})
        assert words in table_and_notes(result) and "empty mask of their own" not in table_and_notes(result)


def test_global_scores():
    values = global_scores({"M_J": 0.6, "M_F": 0.8}, 0.2)
    assert values == pytest.approx({"false_positive_rate": 0.2, "M_J": 0.96 / 1.4, "M_F": 0.8})
    assert global_scores({"M_J": 0.0, "M_F": 0.5}, 1.0) == {"false_positive_rate": 1.0, "M_J": 0.0, "M_F": 0.0}


def test_real_sounds_are_computed_as_wrong_ones_unless_the_config_says_otherwise(shapes, checkpoint, tmp_path):
    root = shutil.copytree(shapes, tmp_path / "data")
    for path in (root / "Multi-sources/ms3_data/audio_log_mel/test").iterdir():
        path.write_bytes(pickle.dumps(torch.full((5, 1, 96, 64), 3.0)))
    computed = run(root, checkpoint, tmp_path)
    assert computed["sounds"] == run(shapes, checkpoint, tmp_path)["sounds"]
    read = run(root, checkpoint, tmp_path, "test_dataloader.dataset.log_mel_from=file")
    assert read["sounds"]["real"] != computed["sounds"]["real"] and read["features"]["log_mel_from"] == "file"
    assert "real sounds from their log-mel files" in table_and_notes(read)


def test_released_negatives(shapes, checkpoint, tmp_path):
    clean = run(shapes, checkpoint, tmp_path)
    result = run(shapes, checkpoint, tmp_path, "test_dataloader.dataset.negative_features=librosa")
    assert result["sounds"]["real"] == clean["sounds"]["real"]
    assert all(result["sounds"][sound] != clean["sounds"][sound] for sound in SOUNDS[1:])
    assert result["features"]["negative_features"] == "librosa"
    assert "with librosa's parameters" in table_and_notes(result)
    rates = [result["sounds"][sound]["marked"]["pixels"] for sound in SOUNDS[1:]]
    real = result["sounds"]["real"]["own"]["frame"]
    assert result["global"] == pytest.approx(global_scores(real, sum(rates) / 3))


def test_a_metric_beside_others():
    for before, after in (
        ({"type": "A"}, [{"type": "A"}, {"type": "B"}]),
        ([{"type": "A"}], [{"type": "A"}, {"type": "B"}]),
        ({"metrics": {"type": "A"}}, {"metrics": [{"type": "A"}, {"type": "B"}]}),
    ):
        from mmengine.config import Config

        cfg = Config({"test_evaluator": before})
        add_metric(cfg, {"type": "B"})
        assert cfg.to_dict()["test_evaluator"] == after


def test_faults(shapes, checkpoint, tmp_path):
    with pytest.raises(UserError, match=r"none\.pth: no such checkpoint"):
        run(shapes, tmp_path / "none.pth", tmp_path)
    with pytest.raises(UserError, match="has no test_cfg"):
        run(shapes, checkpoint, tmp_path, "test_cfg=null", "test_dataloader=null", "test_evaluator=null")
