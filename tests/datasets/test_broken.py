"""Clips that cannot be read, in training: skipped with a line and a count, up to a limit."""

import pytest
import torch
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader

from avsmamba.datasets import AVSBenchMS3, AVSBenchS4
from avsmamba.datasets.broken import BrokenClips
from avsmamba.engine.seeding import SeededDataset
from avsmamba.utils import UserError

pytest_plugins = ["tests.models.log_lines"]

FLIP = [{"type": "RandomFlip"}, {"type": "PhotometricDistortion"}]


def damage(data, index):
    path = data.frame_paths(data.clips[index])[2]
    path.write_bytes(path.read_bytes()[:40])
    return path


def names(data):
    return [data[i]["data_samples"].clip for i in range(len(data))]


def test_a_broken_clip_is_replaced_by_the_next_and_reported_once(avsbench, log_lines):
    data = AVSBenchS4(avsbench, "train", on_broken="skip")
    path = damage(data, 2)
    assert names(data) == ["train_0", "train_1", "train_0"]
    assert names(data) == ["train_0", "train_1", "train_0"]
    lines = [line for line in log_lines if "skipped" in line]
    assert len(lines) == 1 and "train_2" in lines[0] and "broken clip 1 (at most 100)" in lines[0]
    assert str(path) in lines[0]


def test_without_the_option_it_is_an_error(avsbench):
    data = AVSBenchS4(avsbench, "train")
    path = damage(data, 1)
    with pytest.raises(UserError, match=path.name):
        data[1]


def test_the_limit_counts_clips_not_readings(avsbench):
    data = AVSBenchMS3(avsbench, "train", on_broken="skip", max_broken=1)
    damage(data, 0)
    for _ in range(3):
        assert names(data) == ["train_1", "train_1", "train_2"]
    damage(data, 1)
    with pytest.raises(UserError, match="2 broken clips, max_broken is 1"):
        data[1]


def test_all_broken():
    def fail(index):
        raise UserError(f"file {index}")

    with pytest.raises(UserError, match="all 3 clips are broken"):
        BrokenClips(3, 3).read(1, fail, str)


def test_workers_share_what_they_found(avsbench):
    data = AVSBenchS4(avsbench, "train", on_broken="skip")
    damage(data, 1)
    loader = DataLoader(data, batch_size=1, num_workers=1, collate_fn=pseudo_collate)
    clips = [batch["data_samples"][0].clip for batch in loader]
    assert clips == ["train_0", "train_2", "train_2"]
    assert data.broken.found.tolist() == [False, True, False]


def test_draws_are_those_of_a_run_that_knew_the_broken_clip(avsbench):
    data = AVSBenchMS3(avsbench, "train", FLIP, negative_audio_prob=0.5, on_broken="skip")
    sound = data.wav_path(data.clips[0])
    data.log_mel_path(data.clips[0]).unlink(missing_ok=True)
    sound.write_bytes(b"no sound")  # is read after a random number is drawn
    seeded = SeededDataset(data)
    for seed in range(8):
        data.broken.found.zero_()
        first, second = seeded[0, seed], seeded[0, seed]
        assert torch.equal(first["frames"], second["frames"])
        assert torch.equal(first["log_mel"], second["log_mel"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"split": "train", "on_broken": "ignore"}, "on_broken: expected one of raise, skip, got 'ignore'"),
        ({"split": "test", "on_broken": "skip"}, "on_broken: 'skip' is for training only; this data set"),
    ],
)
def test_faulty_arguments(avsbench, arguments, said):
    with pytest.raises(UserError, match=said):
        AVSBenchMS3(avsbench, **arguments)
