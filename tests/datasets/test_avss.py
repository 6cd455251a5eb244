"""AVSS: parts of two lengths, both flags, both nestings, indices or colours, and clear words for what is broken."""

import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from avsmamba.datasets import AVSBenchAVSS
from avsmamba.datasets.avss import FRAMES, object_classes
from avsmamba.datasets.log_mel import log_mel_patches, silent_patches
from avsmamba.datasets.palette import PALETTE
from avsmamba.datasets.readers import read_frame, read_wav
from avsmamba.datasets.replaced_sound import mismatch_summary, mismatched_clips
from avsmamba.registry import DATASETS
from avsmamba.utils import UserError
from tests.datasets.test_avsbench import fails
from tests.datasets.trees import AVSS_CLASSES, tone, write_avss, write_png, write_wav


def clip_of(data, name):
    index = next(i for i, clip in enumerate(data.clips) if clip.name == name)
    return index, data.clips[index], data[index]


def flags(sample):
    return sample.vid_temporal_mask_flag.sum().item(), sample.gt_temporal_mask_flag.sum().item()


@pytest.mark.parametrize("part", FRAMES)
def test_a_sample_holds_what_the_files_hold(original_avss, part):
    data = AVSBenchAVSS(original_avss, "test")
    _, clip, item = clip_of(data, f"test_{part}_1")
    sample, count = item["data_samples"], FRAMES[part]
    assert item["frames"].shape == (10, 3, 20, 28) and item["log_mel"].shape == (10, 1, 96, 64)
    assert sample.gt_masks.shape == (10, 20, 28) and sample.gt_masks.dtype == torch.uint8
    for t, (frame, mask) in enumerate(zip(data.frame_paths(clip), data.mask_paths(clip), strict=True)):
        assert np.array_equal(read_frame(frame), item["frames"][t].permute(1, 2, 0))
        with Image.open(mask) as picture:
            assert np.array_equal(np.asarray(picture), sample.gt_masks[t])
    assert sample.gt_masks[:count].flatten(1).amax(1).gt(0).all() and sample.gt_masks.max() > 1
    patches = log_mel_patches(*read_wav(data.wav_path(clip)))
    assert len(patches) == count and torch.equal(item["log_mel"][:count], patches)
    for padding in (item["frames"], sample.gt_masks, item["log_mel"]):
        assert not padding[count:].any() and padding.is_contiguous()
    place = torch.arange(10)
    assert torch.equal(sample.vid_temporal_mask_flag, place < count)
    assert torch.equal(sample.gt_temporal_mask_flag, place < count)
    assert (sample.clip, sample.part, sample.subset, sample.category) == (clip.name, part, "avss", "cat, dog")
    assert sample.frame_names == [f"{t}.png" for t in range(count)]


def test_labelled_frames(original_avss):
    train, val = AVSBenchAVSS(original_avss, "train"), AVSBenchAVSS(original_avss, "val")
    expected = {"v1s": (5, 1), "v1m": (5, 5), "v2": (10, 10)}
    for part, (frames, labelled) in expected.items():
        sample = clip_of(train, f"train_{part}_0")[2]["data_samples"]
        assert flags(sample) == (frames, labelled)
        assert sample.gt_temporal_mask_flag[:labelled].all() and not sample.gt_masks[labelled:].any()
        assert flags(clip_of(val, f"val_{part}_0")[2]["data_samples"]) == (frames, frames)
    assert len(train) == 9 and len(val) == 3


def test_further_masks_of_a_v1s_training_clip_are_not_used(avss):
    folder = avss / "AVSS/v1s/train_v1s_0/labels_semantic"
    shutil.copy(folder / "0.png", folder / "1.png")
    data = AVSBenchAVSS(avss, "train")
    index, _, item = clip_of(data, "train_v1s_0")
    assert data.faults(index) == [] and flags(item["data_samples"]) == (5, 1)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("masks", ["labels_semantic", "labels_rgb"])
def test_both_nestings_and_both_kinds_of_masks(tmp_path, original_avss, nested, masks):
    write_avss(tmp_path, {"test": 1}, nested=nested, masks=masks)
    reference = AVSBenchAVSS(write_avss(tmp_path / "plain", {"test": 1}), "test")
    for data in (AVSBenchAVSS(tmp_path, "test"), AVSBenchAVSS(tmp_path / "AVSS", "test")):
        for i in range(3):
            assert torch.equal(data[i]["data_samples"].gt_masks, reference[i]["data_samples"].gt_masks)
            assert torch.equal(data[i]["log_mel"], reference[i]["log_mel"]) and data.faults(i) == []


def test_indices_are_preferred_and_may_have_a_palette(avss):
    folder = avss / "AVSS/v1m/test_v1m_0"
    write_png(folder / "labels_rgb/0.png", np.full((20, 28, 3), 7))
    picture = Image.fromarray(np.full((20, 28), 3, np.uint8))
    picture.putpalette(PALETTE.flatten().tolist())
    picture.save(folder / "labels_semantic/0.png")
    sample = clip_of(AVSBenchAVSS(avss, "test"), "test_v1m_0")[2]["data_samples"]
    assert (sample.gt_masks[0] == 3).all()


def test_masks_stay_class_indices_in_training(original_avss):
    pipeline = [
        {"type": "RandomFlip", "prob": 1.0},
        {"type": "PhotometricDistortion", "prob": 1.0, "consistent": False},
        {"type": "RandomResizedCrop", "size": [33, 47], "consistent": False},
    ]
    plain, data = AVSBenchAVSS(original_avss, "train"), AVSBenchAVSS(original_avss, "train", pipeline)
    for name in ("train_v1s_0", "train_v2_0"):
        torch.manual_seed(0)
        (_, _, before), (_, _, after) = clip_of(plain, name), clip_of(data, name)
        masks = after["data_samples"].gt_masks
        assert masks.dtype == torch.uint8 and masks.shape == (10, 33, 47) and after["frames"].shape == (10, 3, 33, 47)
        assert flags(after["data_samples"]) == flags(before["data_samples"])
        for old, new in zip(before["data_samples"].gt_masks, masks, strict=True):
            assert set(new.unique().tolist()) <= set(old.unique().tolist())
    wide = AVSBenchAVSS(original_avss, "train", [{"type": "Resize", "size": [40, 56]}])
    doubled = clip_of(wide, "train_v1m_0")[2]["data_samples"].gt_masks
    small = clip_of(plain, "train_v1m_0")[2]["data_samples"].gt_masks
    assert torch.equal(doubled, small.repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert clip_of(AVSBenchAVSS(original_avss, "val", pipeline), "val_v2_0")[2]["data_samples"].ori_shape == (20, 28)


def test_longer_padding_classes_and_registry(original_avss):
    data = DATASETS.build({"type": "AVSBenchAVSS", "data_root": str(original_avss), "split": "val", "num_frames": 12})
    assert [len(data[i]["frames"]) for i in range(3)] == [12] * 3
    assert flags(data[2]["data_samples"]) == (10, 10)
    assert data.metainfo["classes"] == AVSS_CLASSES and data.metainfo["subset"] == "avss"


def test_other_sounds(original_avss):
    real, other = (AVSBenchAVSS(original_avss, "test", audio=a) for a in ("real", "shuffle"))
    for i, clip in enumerate(real.clips):
        count, heard = FRAMES[clip.part], FRAMES[real.clips[other.sound_of[i]].part]
        sound = real[other.sound_of[i]]["log_mel"]
        expected = sound[torch.arange(count).clamp(max=heard - 1)]
        assert torch.equal(other[i]["log_mel"][:count], expected) and not other[i]["log_mel"][count:].any()
    silence = AVSBenchAVSS(original_avss, "test", audio="silence")
    assert torch.equal(silence[0]["log_mel"], torch.cat([silent_patches(5), torch.zeros(5, 1, 96, 64)]))
    noise = AVSBenchAVSS(original_avss, "test", audio="noise")
    assert noise[0]["log_mel"][:5].std() > 0.1 and not noise[0]["log_mel"][5:].any()


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("cat", {"cat"}),
        ("cat+dog", {"cat", "dog"}),
        ("cat, dog", {"cat", "dog"}),
        ("dog_emergency-car", {"dog", "emergency-car"}),
        ("big_drum", {"big_drum"}),
        ("playing_cat", set()),
        ("", set()),
    ],
)
def test_classes_in_a_obj(text, kinds):
    assert object_classes(text, {"cat", "dog", "emergency-car", "big_drum"}) == kinds


def test_a_swapped_sound_is_of_another_class(avss):
    """Clips with `a_obj` of classes, and two with other words, whose masks have the classes."""
    table = avss / "AVSS/metadata.csv"
    rows = [["v1s_0", "cat"], ["v1s_1", "dog"], ["v1m_0", "cat_violin"], ["v1m_1", "meowing"], ["v2_0", "barking"]]
    lines = ["vid,uid,s_min,s_sec,a_obj,split,label"]
    for i, (name, text) in enumerate(rows):
        lines.append(f"abc,test_{name},0,3,{text},test,{name[:-2]}")
        write_wav(avss / "AVSS" / name[:-2] / f"test_{name}" / "audio.wav", tone(300.0 * (i + 1), 10))
    table.write_text("\n".join(lines) + "\n")
    for name, index in (("v1m/test_v1m_1", 1), ("v2/test_v2_0", 2)):
        for path in (avss / "AVSS" / name / "labels_semantic").iterdir():
            write_png(path, np.full((20, 28), index if path.stem == "1" else 0))
    data = AVSBenchAVSS(avss, "test", audio="swap")
    assert [sorted(clip.sounding) for clip in data.clips] == [["cat"], ["dog"], ["cat", "violin"], ["cat"], ["dog"]]
    assert mismatch_summary(data.clips) == {"known": "category", "clips_without": 0}
    assert [mismatched_clips(data.clips, i) for i in range(5)] == [[1, 4], [0, 2, 3], [1, 4], [1, 4], [0, 2, 3]]
    sounds = [item["log_mel"][:5] for item in (AVSBenchAVSS(avss, "test")[i] for i in range(5))]
    for i in range(5):
        heard = next(j for j, sound in enumerate(sounds) if torch.equal(sound, data[i]["log_mel"][:5]))
        assert heard in mismatched_clips(data.clips, i)


# Faults


def broken(avss, name="test_v1m_0"):
    data = AVSBenchAVSS(avss, "test")
    index = next(i for i, clip in enumerate(data.clips) if clip.name == name)
    return data, index, avss / "AVSS" / data.clips[index].part / name


def test_unknown_colours_name_the_file(tmp_path):
    data, index, folder = broken(write_avss(tmp_path, {"test": 1}, masks="labels_rgb"))
    picture = np.zeros((20, 28, 3), np.uint8)
    picture[3, 4] = (1, 2, 3)
    write_png(folder / "labels_rgb/2.png", picture)
    fails(data, index, str(folder / "labels_rgb/2.png"), "no class has the colour (1, 2, 3)")
    picture[3, 4] = PALETTE[5]
    write_png(folder / "labels_rgb/2.png", picture)
    fails(data, index, str(folder / "labels_rgb/2.png"), "class indices 0 to 4", "got 5")


def test_faulty_masks(avss):
    data, index, folder = broken(avss)
    path = folder / "labels_semantic/2.png"
    write_png(path, np.full((20, 28), 5))
    fails(data, index, str(path), "class indices 0 to 4 by label2idx.json", "got 5")
    write_png(path, np.zeros((20, 28, 3)))
    fails(data, index, str(path), "8-bit grey or with a palette", "mode RGB")
    cv2.imwrite(str(path), np.zeros((20, 28), np.uint16))
    fails(data, index, str(path), "8-bit grey or with a palette")
    write_png(path, np.zeros((10, 28)))
    fails(data, index, str(path), "20 x 28 pixels", "10 x 28 pixels")
    for content in (b"", b"nothing", (folder / "labels_semantic/1.png").read_bytes()[:60]):
        path.write_bytes(content)
        fails(data, index, str(path), "cannot be read as a picture")
    path.unlink()
    fails(data, index, str(folder / "labels_semantic"), "expected 5 pictures 0.png to 4.png", "2.png missing")
    shutil.rmtree(folder / "labels_semantic")
    fails(data, index, str(folder / "labels_semantic"), "no such folder")


def test_faulty_frames_and_sounds(avss):
    data, index, folder = broken(avss, "test_v2_1")
    shutil.copy(folder / "frames/9.jpg", folder / "frames/10.jpg")
    fails(data, index, str(folder / "frames"), "expected 10 pictures 0.jpg to 9.jpg", "10.jpg unexpected")
    (folder / "frames/10.jpg").unlink()
    (folder / "frames/3.jpg").write_bytes(b"\xff\xd8")
    fails(data, index, str(folder / "frames/3.jpg"), "cannot be read as a picture")
    write_png(folder / "frames/3.jpg", np.zeros((20, 28, 3)))
    (folder / "audio.wav").unlink()
    fails(data, index, str(folder / "audio.wav"), "no such file; expected a wav")
    shutil.rmtree(folder)
    assert len(data.faults(index)) == 3


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("abc,x,0,1,cat,test,v3", ["row 2", "v1s, v1m, v2", "'label'", "'v3'"]),
        ("abc,x,0,1,cat,eval,v2", ["row 2", "'split'", "'eval'"]),
        ("abc,../x,0,1,cat,test,v2", ["row 2", "'../x'"]),
        ("abc,x,0", ["row 2: expected 7 columns, got 3"]),
        ("", ["expected clips of split 'test', found none"]),
    ],
)
def test_faulty_tables(avss, row, words):
    table = avss / "AVSS/metadata.csv"
    table.write_text(f"vid,uid,s_min,s_sec,a_obj,split,label\n{row}\n")
    with pytest.raises(UserError) as caught:
        AVSBenchAVSS(avss, "test")
    assert all(word in str(caught.value) for word in ["metadata.csv", *words]), str(caught.value)


def test_a_table_without_a_column(avss):
    (avss / "AVSS/metadata.csv").write_text("vid,uid,a_obj,split\n")
    with pytest.raises(UserError, match=r"metadata\.csv: expected a column 'label', got vid, uid, a_obj, split"):
        AVSBenchAVSS(avss, "test")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        ("{", "cannot be read as JSON"),
        ("[]", "expected class names"),
        (json.dumps({"background": 0, "cat": "1"}), "expected class names, each with its index"),
        (json.dumps({"background": 0, "cat": 2}), "expected the indices 0 to 1"),
        (json.dumps({"background": 0, "cat": 1, "dog": 1}), "expected the indices 0 to 2"),
    ],
)
def test_faulty_classes(avss, content, words):
    path = avss / "AVSS/label2idx.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=rf"label2idx\.json: {words}"):
        AVSBenchAVSS(avss, "test")


def test_faulty_arguments(avss, tmp_path):
    with pytest.raises(UserError, match="num_frames: expected at least 10 for AVSS, got 5"):
        AVSBenchAVSS(avss, "test", num_frames=5)
    with pytest.raises(UserError, match=r"AVSS/metadata\.csv: no such file; expected AVSS/ "):
        AVSBenchAVSS(tmp_path, "test")
