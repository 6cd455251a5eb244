"""Clips from shards: the items, the random numbers and the faults are those of files."""

import json
import shutil
import tarfile

import pytest
import torch

from avsmamba.datasets.shards.pack import Settings, pack
from avsmamba.registry import DATASETS
from avsmamba.utils import UserError
from tests.datasets.trees import write_avss

TYPES = {"s4": "S4", "ms3": "MS3", "avss": "AVSS"}


def build(kind, subset, root, split="train", **options):
    return DATASETS.build({"type": kind + TYPES[subset], "data_root": str(root), "split": split, **options})


def assert_same(a, b):
    for key in ("frames", "log_mel"):
        assert torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype, key
    for key in ("gt_masks", "gt_temporal_mask_flag", "vid_temporal_mask_flag"):
        assert torch.equal(a["data_samples"].get(key), b["data_samples"].get(key)), key
    assert dict(a["data_samples"].metainfo_items()) == dict(b["data_samples"].metainfo_items())


@pytest.fixture(scope="session")
def packed(tmp_path_factory, original, original_avss):
    out = tmp_path_factory.mktemp("shards")
    for subset, root in (("s4", original), ("ms3", original), ("avss", original_avss)):
        pack(root, subset, out / subset, Settings("png"), per_shard=2)
    return out


@pytest.mark.parametrize("subset", TYPES)
@pytest.mark.parametrize("split, sound", [("train", "real"), ("test", "real"), ("test", "swap"), ("test", "shuffle")])
def test_items_equal_those_of_files(packed, original, original_avss, subset, split, sound):
    if subset == "avss":
        original = original_avss
    pipeline = (
        [{"type": "RandomResizedCrop", "size": 24}, {"type": "PhotometricDistortion"}] if split == "train" else []
    )
    files = build("AVSBench", subset, original, split, audio=sound, pipeline=pipeline)
    shards = build("Sharded", subset, packed / subset, split, audio=sound, pipeline=pipeline)
    assert len(files) == len(shards) > 1 and files.metainfo == shards.metainfo
    for i in [*range(len(files)), 0]:
        torch.manual_seed(i)
        expected = files[i]
        torch.manual_seed(i)
        assert_same(expected, shards[i])


@pytest.mark.parametrize("negative", ["vggish", "librosa"])
@pytest.mark.parametrize("source", ["file", "wav"])
def test_wrong_sounds_equal_those_of_files(packed, original, negative, source):
    options = {"negative_audio_prob": 0.7, "negative_features": negative, "log_mel_from": source}
    files, shards = build("AVSBench", "s4", original, **options), build("Sharded", "s4", packed / "s4", **options)
    for i in range(12):
        torch.manual_seed(i)
        expected = files[i % 3]
        torch.manual_seed(i)
        assert_same(expected, shards[i % 3])


@pytest.mark.parametrize("frames, size", [("keep", None), ("png", 16)])
def test_kept_and_resized_frames_give_the_same_numbers(tmp_path, original_avss, frames, size):
    pipeline = [{"type": "Resize", "size": 16}]
    pack(original_avss, "avss", tmp_path / "out", Settings(frames, size))
    for split in ("train", "val"):
        files = build("AVSBench", "avss", original_avss, split, pipeline=pipeline)
        shards = build("Sharded", "avss", tmp_path / "out", split, pipeline=pipeline)
        for i in range(len(files)):
            assert_same(files[i], shards[i])


def test_jpeg_is_close_and_masks_are_exact(tmp_path, original):
    pack(original, "s4", tmp_path / "out", Settings("jpg", 16, quality=100))
    pipeline = [{"type": "Resize", "size": 16}]
    a = build("AVSBench", "s4", original, pipeline=pipeline)[0]
    b = build("Sharded", "s4", tmp_path / "out", pipeline=pipeline)[0]
    assert torch.equal(a["data_samples"].gt_masks, b["data_samples"].gt_masks)
    assert not torch.equal(a["frames"], b["frames"])
    assert (a["frames"].float() - b["frames"].float()).abs().mean() < 20  # of noise, the worst case of JPEG


def test_kinds_of_masks_are_stored(tmp_path):
    root = write_avss(tmp_path / "in", masks="labels_rgb")
    table = root / "AVSS" / "metadata.csv"
    table.write_text(table.read_text().replace('"cat, dog"', "unknown"))
    pack(root, "avss", tmp_path / "out")
    files, shards = (
        build(k, "avss", r, "test", audio="swap") for k, r in (("AVSBench", root), ("Sharded", tmp_path / "out"))
    )
    assert [c.sounding for c in files.clips] == [c.sounding for c in shards.clips]
    assert all(c.sounding for c in shards.clips)


def test_without_waveforms(tmp_path, original):
    pack(original, "ms3", tmp_path / "out", Settings(wav=False))
    shards = build("Sharded", "ms3", tmp_path / "out", log_mel_from="wav")
    assert shards.clips_without_wav() == 3
    assert torch.equal(shards[1]["log_mel"], build("AVSBench", "ms3", original)[1]["log_mel"])
    with pytest.raises(UserError, match=r"train_0: wav: no such file"):
        shards.read_waveform(shards.clips[0])


def test_webdataset_reads_them(packed):
    webdataset = pytest.importorskip("webdataset")
    urls = sorted(map(str, (packed / "s4").glob("test-*.tar")))
    clips = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert [c["json"]["name"] for c in clips] == ["test_0", "test_1"]
    shards = build("Sharded", "s4", packed / "s4", "test")
    for i, clip in enumerate(clips):
        assert torch.equal(torch.tensor(clip["frame_03.png"]).permute(2, 0, 1), shards[i]["frames"][3])
        assert torch.equal(torch.from_numpy(clip["log_mel.npy"])[:5], shards[i]["log_mel"])


def test_faults_name_the_clip(packed, tmp_path, original):
    root = shutil.copytree(packed / "s4", tmp_path / "s4")
    shards = build("Sharded", "s4", root)
    assert [shards.faults(i) for i in range(3)] == [[], [], []]
    with tarfile.open(root / "train-000000.tar") as tar:
        member = tar.getmember("00000001.frame_02.png")
    content = bytearray((root / "train-000000.tar").read_bytes())
    content[member.offset_data : member.offset_data + 8] = bytes(8)
    (root / "train-000000.tar").write_bytes(content)
    assert len(shards.faults(0)) == 0
    assert len(shards.faults(1)) == 1 and "train_1: frame_02.png: cannot be read as a picture" in shards.faults(1)[0]
    with pytest.raises(UserError, match="train_1: frame_02.png"):
        shards[1]
    (root / "train-000001.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"train-000001.tar: expected bytes 0 to \d+, got 0"):
        shards[2]


def test_masks_for_testing_are_refused_in_training(tmp_path, original):
    pack(original, "ms3", tmp_path / "out", Settings("png", 16))
    with pytest.raises(UserError, match=r"20 x 28 pixels, its frame 16 x 16: .*split 'val'"):
        build("Sharded", "ms3", tmp_path / "out", "val", test_mode=False)[0]


def test_a_wrong_index_is_refused(packed, tmp_path):
    with pytest.raises(UserError, match="expected subset 'ms3' for ShardedMS3, got 's4'"):
        build("Sharded", "ms3", packed / "s4")
    with pytest.raises(UserError, match=r"index.json: no such file"):
        build("Sharded", "s4", tmp_path)
    root = shutil.copytree(packed / "s4", tmp_path / "s4")
    index = json.loads((root / "index.json").read_text())
    (root / "train.json").write_text((root / "train.json").read_text().replace("train_1", "train_x"))
    with pytest.raises(UserError, match=r"train.json: has another SHA-256"):
        build("Sharded", "s4", root)
    (root / "index.json").write_text(json.dumps({**index, "version": 2}))
    with pytest.raises(UserError, match="expected version 1"):
        build("Sharded", "s4", root)
    del index["splits"]["val"]
    (root / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="has no split 'val', only train, test"):
        build("Sharded", "s4", root, "val")
