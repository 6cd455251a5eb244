"""Sounds of nothing visible: in testing by --audio swap, in training as negatives."""

import csv
import logging

import pytest
import torch

from avsmamba.datasets import AVSBenchMS3, AVSBenchS4
from avsmamba.datasets.clip_table import Clip
from avsmamba.datasets.log_mel import silent_patches
from avsmamba.datasets.replaced_sound import (
    derangement,
    known_kinds,
    mismatch_summary,
    mismatched_clips,
    pick_mismatched,
)
from avsmamba.engine.seeding import SeededDataset, seed_everything
from avsmamba.sounding_shapes.generate import make_sounding_shapes
from avsmamba.utils import UserError
from tests.datasets.trees import write_avsbench


def clip(heard="", visible=""):
    kinds = frozenset(heard.split())
    all_kinds = kinds | frozenset(visible.split())
    return Clip("a", "test", sounding=kinds, visible=all_kinds, lists_visible=bool(visible))


CLIPS = [clip("dog", "dog cat"), clip("cat", "dog cat"), clip("man", "man"), clip("bus dog", "bus dog man")]


def test_what_sounds_elsewhere_is_not_seen_here():
    assert [mismatched_clips(CLIPS, i) for i in range(4)] == [[2], [2], [0, 1, 3], [1]]
    assert mismatch_summary(CLIPS) == {"known": "visible", "clips_without": 0}
    # Without a list of what is seen, the silent cat of the first clip is not known.
    heard = [c._replace(visible=c.sounding, lists_visible=False) for c in CLIPS]
    assert mismatched_clips(heard, 0) == [1, 2] and known_kinds(heard) == "category"


def test_where_nothing_is_known_any_other_clip_serves():
    for clips in ([clip()] * 4, [clip("dog")] * 4, [clip("dog"), clip(), clip("dog")]):
        assert mismatch_summary(clips)["clips_without"] == len(clips)
        assert {pick_mismatched(clips, 1, seed) for seed in range(40)} == set(range(len(clips))) - {1}
    assert known_kinds([clip()] * 2) == known_kinds([clip("dog"), clip()]) == "nothing"


def test_a_pick_depends_on_the_seed_alone():
    assert {pick_mismatched(CLIPS, 2, seed) for seed in range(40)} == {0, 1, 3}
    assert [pick_mismatched(CLIPS, 2, 7)] * 3 == [pick_mismatched(CLIPS, 2, 7) for _ in range(3)]


@pytest.mark.parametrize("size", [2, 3, 7, 64])
def test_a_derangement_leaves_nothing_in_its_place(size):
    for seed in range(20):
        order = derangement(size, seed)
        assert sorted(order) == list(range(size)) and all(i != j for i, j in enumerate(order))
    assert derangement(size, 3) == derangement(size, 3)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    for subset in ("ms3", "s4"):
        make_sounding_shapes(root, subset, {"train": 8, "test": 8}, size=32, seed=5)
    return root


@pytest.mark.parametrize("cls", [AVSBenchMS3, AVSBenchS4])
def test_a_swapped_sound_is_of_nothing_in_the_picture(shapes, cls):
    real, swapped = cls(shapes, "test"), cls(shapes, "test", audio="swap")
    sounds = [real[i]["log_mel"] for i in range(len(real))]
    folder = {AVSBenchMS3: "Multi-sources/ms3", AVSBenchS4: "Single-source/s4"}[cls]
    rows = {row["name"]: row for row in csv.DictReader((shapes / f"{folder}_meta_data.csv").open())}
    for i, own in enumerate(swapped.clips):
        item = swapped[i]
        heard = next(j for j, s in enumerate(sounds) if torch.equal(s, item["log_mel"]))
        seen, sounding = rows[own.name]["visible"].split("+"), rows[real.clips[heard].name]["category"].split("+")
        assert set(rows[own.name]["category"].split("+")) < set(seen)
        assert not set(seen) & set(sounding) and item["data_samples"].audio == "swap"
        assert torch.equal(item["log_mel"], swapped[i]["log_mel"])
        assert torch.equal(item["data_samples"].gt_masks, real[i]["data_samples"].gt_masks)


# Negatives in training


@pytest.mark.parametrize("cls", [AVSBenchMS3, AVSBenchS4])
def test_a_negative_has_empty_masks_and_counts_the_same_frames(shapes, cls):
    plain = cls(shapes, "train")
    for kind in ("silence", "noise", "swap"):
        data = cls(shapes, "train", negative_audio_prob=1.0, negative_audio=[kind])
        for i in range(len(data)):
            item, own = data[i], plain[i]
            sample = item["data_samples"]
            assert not sample.gt_masks.any() and own["data_samples"].gt_masks.any()
            assert torch.equal(sample.gt_temporal_mask_flag, own["data_samples"].gt_temporal_mask_flag)
            assert torch.equal(item["frames"], own["frames"]) and sample.audio == kind
            assert not torch.equal(item["log_mel"], own["log_mel"])
            assert torch.equal(item["log_mel"], silent_patches(5)) == (kind == "silence")


def test_swapped_negatives_are_mismatched_and_differ_from_draw_to_draw(shapes):
    data = AVSBenchMS3(shapes, "train", negative_audio_prob=1.0, negative_audio=["swap"])
    sounds = [AVSBenchMS3(shapes, "train")[i]["log_mel"] for i in range(8)]
    drawn = [data[0]["log_mel"] for _ in range(40)]
    heard = {next(j for j, s in enumerate(sounds) if torch.equal(s, log_mel)) for log_mel in drawn}
    assert heard == set(mismatched_clips(data.clips, 0)) and len(heard) > 1


def test_the_level_of_noise_varies_in_training_and_not_in_tests(shapes):
    data = AVSBenchMS3(shapes, "train", negative_audio_prob=1.0, negative_audio=["noise"])
    levels = torch.stack([data[0]["log_mel"].mean() for _ in range(20)])
    assert levels.std() > 0.5
    fixed = AVSBenchMS3(shapes, "test", audio="noise")
    assert torch.stack([fixed[i]["log_mel"].mean() for i in range(8)]).std() < 0.02


def test_draws_follow_the_probability_and_the_seed(shapes):
    data = SeededDataset(AVSBenchMS3(shapes, "train", negative_audio_prob=0.25, negative_audio=["silence", "swap"]))
    drawn = [data[0, seed]["data_samples"].audio for seed in range(80)]
    assert set(drawn) == {"real", "silence", "swap"}
    assert 45 < drawn.count("real") < 75
    seed_everything(1)
    assert [data[0, seed]["data_samples"].audio for seed in range(80)] == drawn
    negative = drawn.index("swap")
    assert torch.equal(data[0, negative]["log_mel"], data[0, negative]["log_mel"])


def test_without_negatives_no_random_number_is_drawn(shapes):
    seed_everything(3)
    before = torch.get_rng_state()
    AVSBenchMS3(shapes, "train")[0]
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"negative_audio_prob": 1.5}, "negative_audio_prob: expected a number from 0 to 1, got 1.5"),
        ({"negative_audio": ["quiet"]}, "negative_audio: expected some of silence, noise, swap, got"),
        ({"negative_audio": []}, "negative_audio: expected some of"),
        ({"negative_audio_prob": 0.5, "split": "test"}, "is for training only; split 'test'"),
    ],
)
def test_faulty_arguments(shapes, arguments, words):
    with pytest.raises(UserError, match=words):
        AVSBenchMS3(**{"data_root": shapes, "split": "train", **arguments})


def test_one_clip_has_no_other_to_swap_with(tmp_path):
    write_avsbench(tmp_path, "ms3", {"train": 1, "test": 1}, size=(6, 8))
    for arguments in ({"split": "test", "audio": "swap"}, {"split": "train", "negative_audio_prob": 0.5}):
        with pytest.raises(UserError, match="'swap' needs two clips"):
            AVSBenchMS3(tmp_path, **arguments)


def test_a_warning_where_a_swapped_sound_may_be_of_something_seen(tmp_path, shapes, monkeypatch):
    said = []
    monkeypatch.setattr("avsmamba.datasets.avsbench.print_log", lambda *words: said.append(words))
    AVSBenchMS3(shapes, "train", negative_audio_prob=0.5)
    write_avsbench(tmp_path, "ms3", {"train": 2}, size=(6, 8))
    AVSBenchMS3(tmp_path, "train", negative_audio_prob=0.5, negative_audio=["silence"])
    AVSBenchMS3(tmp_path, "train")
    assert said == []
    AVSBenchMS3(tmp_path, "train", negative_audio_prob=0.5)
    ((text, _, level),) = said
    assert "ms3_meta_data.csv does not list the kinds of objects of a clip" in text and level == logging.WARNING
