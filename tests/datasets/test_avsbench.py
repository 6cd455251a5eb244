import pickle
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader

from avsmamba.config.load import load_config
from avsmamba.datasets import AVSBenchMS3, AVSBenchS4
from avsmamba.datasets.log_mel import log_mel_patches
from avsmamba.datasets.readers import read_wav
from avsmamba.engine.seeding import SeededDataset, seed_everything
from avsmamba.registry import DATASETS
from avsmamba.utils import UserError
from tests.datasets.trees import RATE, random_patches, tone, write_avsbench, write_pickle, write_png, write_wav

SUBSETS = [("s4", AVSBenchS4), ("ms3", AVSBenchMS3)]
S4_TEST = "Single-source/s4_data/{}/test/cat_0/test_0"
MS3_TEST = "Multi-sources/ms3_data/{}/test/test_0"


@pytest.mark.parametrize(("subset", "cls"), SUBSETS)
def test_a_sample_holds_what_the_files_hold(avsbench, subset, cls):
    data = cls(avsbench, "test")
    item = data[1]
    sample, clip = item["data_samples"], data.clips[1]
    assert item["frames"].shape == (5, 3, 20, 28) and item["frames"].dtype == torch.uint8
    assert item["log_mel"].shape == (5, 1, 96, 64) and item["log_mel"].dtype == torch.float32
    for t, (frame, mask) in enumerate(zip(data.frame_paths(clip), data.mask_paths(clip), strict=True)):
        with Image.open(frame) as picture:
            assert np.array_equal(np.asarray(picture), item["frames"][t].permute(1, 2, 0))
        with Image.open(mask) as picture:
            assert np.array_equal(np.asarray(picture) == 255, sample.gt_masks[t])
    assert sample.gt_masks.dtype == torch.uint8 and 0 < sample.gt_masks.float().mean() < 1
    assert sample.gt_temporal_mask_flag.tolist() == sample.vid_temporal_mask_flag.tolist() == [True] * 5
    assert (sample.clip, sample.split, sample.subset, sample.clip_index) == ("test_1", "test", subset, 1)
    assert sample.category == ("cat_1" if subset == "s4" else "")
    assert sample.frame_names == [f"test_1_{t}.png" for t in range(1, 6)]
    assert sample.ori_shape == sample.img_shape == (20, 28) and sample.audio == "real"
    assert type(item["frames"]) is Tensor and type(sample.gt_masks) is Tensor


@pytest.mark.parametrize(("split", "length"), [("train", 3), ("val", 1), ("test", 2)])
def test_splits(avsbench, split, length):
    for _, cls in SUBSETS:
        data = cls(avsbench, split)
        assert len(data) == length and data.metainfo["split"] == split
        assert [data[i]["data_samples"].clip for i in range(length)] == [f"{split}_{i}" for i in range(length)]
        assert len(list(data)) == length


def test_only_the_first_frame_of_an_s4_training_clip_is_labelled(avsbench):
    sample = AVSBenchS4(avsbench, "train")[0]["data_samples"]
    assert sample.gt_temporal_mask_flag.tolist() == [True, False, False, False, False]
    assert sample.vid_temporal_mask_flag.all()
    assert sample.gt_masks[0].any() and not sample.gt_masks[1:].any()
    assert AVSBenchMS3(avsbench, "train")[0]["data_samples"].gt_temporal_mask_flag.all()


def test_further_masks_of_an_s4_training_clip_are_not_used(avsbench):
    folder = avsbench / "Single-source/s4_data/gt_masks/train/cat_0/train_0"
    shutil.copy(folder / "train_0_1.png", folder / "train_0_2.png")
    data = AVSBenchS4(avsbench, "train")
    assert data.faults(0) == []
    assert not data[0]["data_samples"].gt_masks[1:].any()


def test_masks_follow_the_frames_in_training_and_keep_their_size_in_testing(avsbench):
    pipeline = [{"type": "Resize", "size": [32, 64]}]
    for split, labels in [("train", (32, 64)), ("val", (20, 28))]:
        item = AVSBenchMS3(avsbench, split, pipeline)[0]
        sample = item["data_samples"]
        assert item["frames"].shape[-2:] == sample.img_shape == (32, 64)
        assert sample.gt_masks.shape == (5, *labels) and sample.ori_shape == labels
    plain = AVSBenchMS3(avsbench, "train")[0]["data_samples"].gt_masks
    pipeline.append({"type": "PhotometricDistortion", "prob": 1.0})
    resized = AVSBenchMS3(avsbench, "train", pipeline)[0]["data_samples"].gt_masks
    assert torch.equal(resized, interpolate(plain[None], (32, 64), mode="nearest")[0])
    assert AVSBenchMS3(avsbench, "train", pipeline, test_mode=True)[0]["data_samples"].ori_shape == (20, 28)


@pytest.mark.parametrize("num_frames", [1, 3, 10])
def test_other_numbers_of_frames(tmp_path, num_frames):
    for subset, cls in SUBSETS:
        write_avsbench(tmp_path, subset, {"test": 2}, num_frames=num_frames, log_mel=subset == "s4")
        for audio in ("real", "silence", "noise", "shuffle"):
            item = cls(tmp_path, "test", num_frames=num_frames, audio=audio)[0]
            assert len(item["frames"]) == len(item["data_samples"].gt_masks) == num_frames
            assert item["log_mel"].shape == (num_frames, 1, 96, 64)


def test_the_folder_itself_may_be_the_root(avsbench):
    assert len(AVSBenchS4(str(avsbench / "Single-source"), "test")) == 2
    assert (
        len(DATASETS.build({"type": "AVSBenchMS3", "data_root": str(avsbench / "Multi-sources"), "split": "val"})) == 1
    )


@pytest.mark.parametrize("name", [path.stem for path in sorted(Path("configs/avs_mamba").glob("*.yaml"))])
def test_the_configs_data_sets(original, original_avss, name):
    subset, size = re.search(r"_(s4|ms3|avss)_(\d+|shapes|comparison)", name).groups()
    size = {"shapes": 96, "comparison": 64}.get(size) or int(size)
    root = original_avss if subset == "avss" else original
    cfg = load_config(f"configs/avs_mamba/{name}.yaml", data_root=str(root))
    for split in (s for s in ("train", "val", "test") if cfg[f"{s}_dataloader"]):
        values = cfg[f"{split}_dataloader"].dataset
        data = DATASETS.build(values)
        item = data[0]
        assert (data.SUBSET, data.split, data.test_mode) == (subset, split, split != "train")
        assert item["frames"].shape[-2:] == (size, size)
        assert item["data_samples"].ori_shape == ((size, size) if split == "train" else (20, 28))
    expected = {"RandomFlip", "PhotometricDistortion", "RandomSizeCrop"}
    if any(small in name for small in ("_tiny_", "_lite_", "_plus_")):
        expected = {"Resize", "RandomFlip"}
    elif subset == "avss":
        expected = {"RandomFlip", "PhotometricDistortion", "Resize", "CenterCrop"}
    assert {t["type"] for t in cfg.train_dataloader.dataset.pipeline} == expected


def test_data_sets_travel_to_other_processes(avsbench):
    data = AVSBenchMS3(avsbench, "train", [{"type": "PhotometricDistortion"}, {"type": "Resize", "size": 8}])
    assert pickle.loads(pickle.dumps(data))[2]["data_samples"].clip == "train_2"


def test_batches_through_workers(avsbench):
    loader = DataLoader(AVSBenchS4(avsbench, "train"), batch_size=2, num_workers=1, collate_fn=pseudo_collate)
    batches = list(loader)
    assert [len(b["frames"]) for b in batches] == [2, 1]
    assert [s.clip for b in batches for s in b["data_samples"]] == ["train_0", "train_1", "train_2"]


# Sound


def test_log_mel_comes_from_its_file_or_else_from_the_wav(avsbench):
    data = AVSBenchMS3(avsbench, "test")
    assert not data.log_mel_path(data.clips[0]).exists() and data.log_mel_path(data.clips[1]).exists()
    for index, clip in enumerate(data.clips):
        computed = log_mel_patches(*read_wav(data.wav_path(clip)))
        torch.testing.assert_close(data[index]["log_mel"], computed, rtol=0, atol=1e-5)
    patches = random_patches(5)
    write_pickle(data.log_mel_path(data.clips[1]), patches)
    assert torch.equal(data[1]["log_mel"], patches)


@pytest.mark.parametrize("count", [1, 3, 5, 8])
def test_patches_are_repeated_or_cut_to_the_frames(avsbench, count):
    data = AVSBenchS4(avsbench, "test")
    patches = random_patches(count)
    write_pickle(data.log_mel_path(data.clips[0]), patches)
    log_mel = data[0]["log_mel"]
    assert all(torch.equal(log_mel[t], patches[min(t, count - 1)]) for t in range(5))


def test_a_short_wav_repeats_its_last_patch(avsbench):
    data = AVSBenchMS3(avsbench, "test")
    write_wav(data.wav_path(data.clips[0]), np.concatenate([np.zeros(RATE), tone(400, 1.2)]))
    log_mel = data[0]["log_mel"]
    assert not torch.equal(log_mel[0], log_mel[1])
    assert all(torch.equal(log_mel[1], later) for later in log_mel[2:])


def test_stereo_at_another_rate_is_read_as_mono_at_16_khz(avsbench):
    data = AVSBenchMS3(avsbench, "test")
    time = np.arange(5 * 44100) / 44100
    left, right = 0.4 * np.sin(2 * np.pi * 700 * time), 0.2 * np.sin(2 * np.pi * 700 * time)
    write_wav(data.wav_path(data.clips[0]), np.stack([left, right], axis=1), 44100)
    mono = log_mel_patches(tone(700, 5), RATE)
    # Compared where it is loud: away from the tone both are rounding noise.
    loud = mono > 0
    torch.testing.assert_close(data[0]["log_mel"][loud], mono[loud], rtol=0, atol=0.05)


def test_silence_and_noise(avsbench):
    silence = AVSBenchS4(avsbench, "test", audio="silence")[0]["log_mel"]
    assert torch.equal(silence, log_mel_patches(np.zeros(5 * RATE), RATE))
    noise = AVSBenchS4(avsbench, "test", audio="noise")
    first, second = noise[0]["log_mel"], noise[1]["log_mel"]
    assert not torch.equal(first, second) and torch.equal(first, noise[0]["log_mel"])
    expected = log_mel_patches(0.1 * np.random.default_rng(5).standard_normal(5 * RATE), RATE)
    assert abs(first.mean() - expected.mean()) < 0.02 and abs(first.std() - expected.std()) < 0.02
    assert noise[0]["data_samples"].audio == "noise"


def test_replaced_sound_needs_no_files_of_sound(avsbench):
    for folder in ("audio_wav", "audio_log_mel"):
        shutil.rmtree(avsbench / "Single-source/s4_data" / folder)
    for audio in ("silence", "noise"):
        assert AVSBenchS4(avsbench, "test", audio=audio)[0]["log_mel"].shape == (5, 1, 96, 64)


def test_shuffle_gives_every_clip_another_ones_sound_and_leaves_the_pictures(tmp_path):
    write_avsbench(tmp_path, "s4", {"test": 6}, size=(6, 8))
    real, other = AVSBenchS4(tmp_path, "test"), AVSBenchS4(tmp_path, "test", audio="shuffle")
    sounds = [real[i]["log_mel"] for i in range(6)]
    heard = [next(j for j, s in enumerate(sounds) if torch.equal(s, other[i]["log_mel"])) for i in range(6)]
    assert sorted(heard) == list(range(6)) and all(i != j for i, j in enumerate(heard))
    assert heard == list(AVSBenchS4(tmp_path, "test", audio="shuffle").sound_of)
    assert all(torch.equal(real[i]["frames"], other[i]["frames"]) for i in range(6))
    assert other[2]["data_samples"].clip == "test_2"


# Faults: one line that names the file and what was expected


def fails(data, index, *words):
    with pytest.raises(UserError) as caught:
        data[index]
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, (word, message)
    return message


@pytest.mark.parametrize(("cls", "place"), [(AVSBenchS4, S4_TEST), (AVSBenchMS3, MS3_TEST)])
def test_missing_mask_names_folder_and_counts(avsbench, cls, place):
    folder = avsbench / place.format("gt_masks")
    (folder / "test_0_3.png").unlink()
    fails(cls(avsbench, "test"), 0, str(folder), "expected 5 pictures", "found 4", "test_0_3.png missing")


def test_wrong_frame_counts(avsbench):
    folder = avsbench / "Multi-sources/ms3_data/visual_frames/test_0"
    shutil.copy(folder / "test_0.mp4_5.png", folder / "test_0.mp4_6.png")
    data = AVSBenchMS3(avsbench, "test")
    fails(data, 0, str(folder), "expected 5 pictures", "found 6", "test_0.mp4_6.png unexpected")
    for name in ("4", "5", "6"):
        (folder / f"test_0.mp4_{name}.png").unlink()
    fails(data, 0, "found 3", "test_0.mp4_4.png, test_0.mp4_5.png missing")
    shutil.rmtree(folder)
    fails(data, 0, str(folder), "no such folder", "expected 5 pictures test_0.mp4_1.png to test_0.mp4_5.png")
    fails(AVSBenchMS3(avsbench, "test", num_frames=3), 1, "expected 3 pictures", "found 5")


def test_mask_of_another_size(avsbench):
    path = avsbench / S4_TEST.format("gt_masks") / "test_0_2.png"
    write_png(path, np.zeros((28, 20)))
    fails(AVSBenchS4(avsbench, "test"), 0, str(path), "20 x 28 pixels", "28 x 20 pixels")


def test_frame_of_another_size(avsbench):
    path = avsbench / S4_TEST.format("visual_frames") / "test_0_4.png"
    write_png(path, np.zeros((10, 28, 3)))
    fails(AVSBenchS4(avsbench, "test"), 0, str(path), "20 x 28 pixels", "10 x 28 pixels", "(and 1 more fault")


@pytest.mark.parametrize("content", [b"", b"not a picture", None], ids=["empty", "text", "cut"])
def test_unreadable_picture(avsbench, content):
    path = avsbench / S4_TEST.format("visual_frames") / "test_0_4.png"
    path.write_bytes(path.read_bytes()[:500] if content is None else content)
    fails(AVSBenchS4(avsbench, "test"), 0, str(path), "picture")


def test_faulty_sounds(avsbench):
    data = AVSBenchMS3(avsbench, "test")
    path = data.wav_path(data.clips[0])
    path.write_bytes(b"RIFF no sound")
    fails(data, 0, str(path), "cannot be read as a wav")
    write_wav(path, np.zeros(0))
    fails(data, 0, str(path), "at least 0.975 s", "got 0 s")
    path.unlink()
    fails(data, 0, str(path), "no such file", "wav")


def test_a_shuffled_sound_that_is_missing_is_named(avsbench):
    data = AVSBenchMS3(avsbench, "test", audio="shuffle")
    data.wav_path(data.clips[0]).unlink()
    fails(data, 1, "test_0.wav: no such file")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,start,category,split\na,0,b,train\n", ["expected clips of split 'test', found none"]),
        (None, ["no such file", "Single-source"]),
    ],
)
def test_a_table_that_is_missing_or_has_no_clip_of_the_split(avsbench, text, words):
    table = avsbench / "Single-source/s4_meta_data.csv"
    table.unlink()
    if text is not None:
        table.write_text(text)
    with pytest.raises(UserError) as caught:
        AVSBenchS4(avsbench, "test")
    assert all(word in str(caught.value) for word in ["s4_meta_data.csv", *words]), str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"split": "validation"}, ["split", "train, val, test", "'validation'"]),
        ({"audio": "loud"}, ["audio", "shuffle", "'loud'"]),
        ({"num_frames": 0}, ["num_frames"]),
        ({"data_root": "/nowhere/at/all"}, ["no such folder", "/nowhere/at/all", "--data-root"]),
        ({"split": "val", "audio": "shuffle"}, ["shuffle", "two clips"]),
    ],
)
def test_faulty_arguments(avsbench, arguments, words):
    with pytest.raises(UserError) as caught:
        AVSBenchMS3(**{"data_root": avsbench, "split": "test", **arguments})
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_training_draws_depend_on_the_seed_alone(avsbench):
    pipeline = [
        {"type": "RandomFlip"},
        {"type": "RandomResizedCrop", "size": 16, "consistent": False},
        {"type": "PhotometricDistortion"},
    ]
    data = SeededDataset(AVSBenchMS3(avsbench, "train", pipeline))
    first = data[0, 11]
    random.seed(5)
    seed_everything(99)
    again, other = data[0, 11], data[0, 12]
    assert torch.equal(first["frames"], again["frames"])
    assert torch.equal(first["data_samples"].gt_masks, again["data_samples"].gt_masks)
    assert not torch.equal(first["frames"], other["frames"])


def test_reading_does_not_touch_the_generators(avsbench):
    seed_everything(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    for audio in ("real", "noise", "shuffle", "swap"):
        AVSBenchS4(avsbench, "test", audio=audio)[0]
    assert torch.equal(before[0], torch.get_rng_state()) and np.array_equal(before[1], np.random.get_state()[1])
