import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from avsmamba.engine.check_data import check_data
from avsmamba.utils import UserError
from tests.datasets.trees import write_pickle, write_png

CONFIGS = Path("configs/avs_mamba").resolve()
AVSS = CONFIGS / "avs_mamba_tiny_avss_shapes.yaml"
S4, MS3 = CONFIGS / "avs_mamba_tiny_s4_shapes.yaml", CONFIGS / "avs_mamba_r50_ms3_512.yaml"


def lines(capsys, config, root, options=()):
    count = check_data(config, str(root), options)
    *faults, summary = capsys.readouterr().out.splitlines()
    assert count == len(faults)
    return faults, summary


def test_no_faults(avsbench, capsys):
    for config in (S4, MS3):
        faults, summary = lines(capsys, config, avsbench)
        assert faults == [] and summary == "6 clips of 3 data sets, 0 faults"


def test_all_faults_are_listed(avsbench, capsys):
    data = avsbench / "Single-source/s4_data"
    train, test = "train/cat_0/train_0", "test/cat_0/test_0"
    (data / f"visual_frames/{train}/train_0_2.png").unlink()
    (data / f"gt_masks/{train}/train_0_1.png").write_bytes(b"")
    write_pickle(data / f"audio_log_mel/{train}.pkl", np.zeros((5, 3), np.float32))
    (data / f"audio_wav/{train}.wav").write_bytes(b"no sound")
    write_png(data / f"gt_masks/{test}/test_0_4.png", np.zeros((9, 9)))
    write_png(data / f"gt_masks/{test}/test_0_5.png", np.zeros((9, 8)))
    (data / "audio_wav/val/cat_0/val_0.wav").unlink()
    (data / "audio_log_mel/test/cat_1/test_1.pkl").write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
    faults, summary = lines(capsys, S4, avsbench)
    expected = [
        ("train_0", "train_0_2.png missing"),
        ("train_0_1.png", "cannot be read as a picture"),
        ("train_0.pkl", "got (5, 3)"),
        ("train_0.wav", "cannot be read as a wav"),
        ("val_0.wav", "no such file"),
        ("test_0_4.png", "got 9 x 9 pixels"),
        ("test_0_5.png", "got 9 x 8 pixels"),
        ("test_1.pkl", "posix.system"),
    ]
    assert len(faults) == len(expected)
    for fault, words in zip(faults, expected, strict=True):
        assert all(word in fault for word in words), fault
    assert summary == "6 clips of 3 data sets, 8 faults"


def test_avss(avss, capsys):
    faults, summary = lines(capsys, AVSS, avss)
    assert faults == [] and summary == "18 clips of 3 data sets, 0 faults"
    (avss / "AVSS/v2/test_v2_0/frames/9.jpg").unlink()
    (avss / "AVSS/v1m/val_v1m_0/audio.wav").write_bytes(b"")
    (avss / "AVSS/v1s/train_v1s_1/labels_semantic/0.png").write_bytes(b"no picture")
    faults, summary = lines(capsys, AVSS, avss)
    expected = ["0.png: cannot be read as a picture", "audio.wav: cannot be read as a wav", "9.jpg missing"]
    assert len(faults) == 3 and all(words in fault for words, fault in zip(expected, faults, strict=True))


def test_a_faulty_table_is_listed_once_and_an_empty_split_for_itself(avsbench, capsys):
    table = avsbench / "Multi-sources/ms3_meta_data.csv"
    table.write_text("name,split\ntrain_0,train\ntest_0,test\n")
    faults, summary = lines(capsys, MS3, avsbench)
    assert len(faults) == 1 and "split 'val', found none" in faults[0]
    assert summary == "2 clips of 2 data sets, 1 fault"
    table.write_text("name\ntrain_0\n")
    faults, summary = lines(capsys, MS3, avsbench)
    assert len(faults) == 1 and "ms3_meta_data.csv: expected a column 'split'" in faults[0]


def test_wrapped_and_repeated_data_sets(avsbench, capsys):
    inner = "{type: AVSBenchMS3, data_root: x, split: train, num_frames: 5}"
    options = [f"train_dataloader.dataset={{_delete_: true, type: ConcatDataset, datasets: [{inner}, {inner}]}}"]
    faults, summary = lines(capsys, MS3, avsbench, [*options, "test_dataloader.dataset.split=val"])
    assert faults == [] and summary == "4 clips of 2 data sets, 0 faults"


def test_a_data_set_of_another_kind(tmp_path):
    from tests.engine.standins import config

    with pytest.raises(UserError, match="StandInDataset has no method 'faults'"):
        check_data(config(tmp_path))


def test_a_config_without_data(avsbench, tmp_path):
    path = tmp_path / "no_data.yaml"
    path.write_text("model: {type: AVSDataPreprocessor}\n")
    with pytest.raises(UserError, match=r"no_data\.yaml: has no data set"):
        check_data(path)


def test_the_tool_and_its_exit_status(avsbench, capsys, monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["check_data.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            runpy.run_path("tools/check_data.py", run_name="__main__")
        return int(left.value.code), *capsys.readouterr()

    status, out, err = run(S4, "--data-root", avsbench)
    assert status == 0 and "0 faults" in out and "6/6" in err
    (avsbench / "Single-source/s4_data/gt_masks/val/cat_0/val_0/val_0_3.png").unlink()
    status, out, err = run(S4, "--data-root", avsbench)
    assert status == 1 and "val_0_3.png missing" in out and out.count("\n") == 2
    status, out, err = run(S4, "--data-root", avsbench / "nothing")
    assert status == 2 and out == "" and "no such folder" in err and err.count("\n") == 1
