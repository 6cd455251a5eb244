"""Videos and arrays through `load_model` and `predict`, against the data set and the model by themselves."""

import subprocess
import sys
import warnings
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from mmengine.dataset import pseudo_collate

import avsmamba
from avsmamba.config.load import load_config, parse_options
from avsmamba.datasets.readers import read_frame, read_wav
from avsmamba.inference.predictor import quantised
from avsmamba.model_zoo.load import class_names, trained_frames
from avsmamba.reports.clips import build_test_set
from avsmamba.utils import UserError
from avsmamba.video import open_video
from tests import ROOT
from tests.small_model import AVSS, CONFIG, SMALL
from tests.video.clips import tone, write_clip


def clip(seconds, height=40, width=56, rate=16_000, seed=0):
    """Return frames of noise in patches, and a tone that changes each second."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (seconds, height // 8, width // 8, 3), dtype=np.uint8)
    frames = frames.repeat(8, 1).repeat(8, 2)
    times = np.arange(seconds * rate) / rate
    return frames, 0.4 * np.sin(2 * np.pi * (300 + 250 * np.floor(times)) * times), rate


def item_and_arrays(config, root, index):
    dataset = build_test_set(load_config(config, parse_options(SMALL), str(root)))
    frames = np.stack([read_frame(path) for path in dataset.frame_paths(dataset.clips[index])])
    return dataset[index], (frames, *read_wav(dataset.wav_path(dataset.clips[index])))


@torch.no_grad()
def test_arrays_are_predicted_as_the_same_clip_of_a_data_set(model, shapes):
    for index in range(2):
        item, arrays = item_and_arrays(CONFIG, shapes, index)
        found = model.predict(arrays)
        data = model.model.data_preprocessor(pseudo_collate([item]))
        (sample,) = model.model(**data, mode="predict")
        wanted = sample.pred_logits[:, 0].sigmoid()
        difference = found.probabilities.astype(int) - quantised(wanted).astype(int)
        assert found.probabilities.shape == (5, 40, 40) and np.abs(difference).max() <= 1
        assert len(np.unique(found.probabilities)) > 4, "a picture that is all alike shows nothing"
        np.testing.assert_array_equal(found.masks, (wanted > 0.5).numpy())
        assert found.times.tolist() == [0, 1, 2, 3, 4] and found.labels is None


@torch.no_grad()
def test_classes_are_those_that_the_model_finds_best(semantic, shapes):
    assert semantic.num_frames == 10
    item, arrays = item_and_arrays(AVSS, shapes, 0)
    count = int(item["data_samples"].vid_temporal_mask_flag.sum())
    found = semantic.predict(arrays)
    data = semantic.model.data_preprocessor(pseudo_collate([item]))
    (sample,) = semantic.model(**data, mode="predict")
    same = found.labels == sample.pred_labels[:count].numpy()
    assert same.mean() > 0.999, "ties apart"
    assert len(np.unique(found.labels)) > 1
    np.testing.assert_array_equal(found.labels != 0, found.masks)
    assert (found.threshold(0.0).labels != 0).mean() >= (found.threshold(0.99).labels != 0).mean()


def test_a_video_is_predicted_as_its_pictures_and_sound_are(model, tmp_path):
    pictures = [np.full((48, 64, 3), 40 * k, np.uint8) for k in range(6)]
    sound = tone(16_000, 6.0, 1.0, 3.5)
    path = write_clip(
        tmp_path / "a.mkv",
        times=[float(k) for k in range(6)],
        images=pictures,
        sound=sound,
        rate=16_000,
        codecs=("ffv1", "flac"),
    )
    with open_video(path) as video:
        decoded = [picture for _, picture in video.frames()]
    arrays = model.predict((decoded, np.round(sound * 32767) / 32768, 16_000))
    found = model.predict(path)
    assert len(found) == len(arrays) == 6
    assert np.abs(found.probabilities.astype(int) - arrays.probabilities.astype(int)).max() <= 1
    np.testing.assert_allclose(found.levels, arrays.levels, atol=0.1)
    assert found.levels[0] == -90 and found.levels[1] > -10


@pytest.mark.parametrize(("seconds", "overlap"), [(1, None), (3, 0), (5, 4), (13, 0), (13, 3)])
def test_any_length(model, seconds, overlap):
    calls = []
    found = model.predict(clip(seconds), overlap=overlap, progress=lambda *call: calls.append(call))
    assert found.probabilities.shape == (seconds, 40, 56)
    assert calls == [(k, seconds) for k in range(seconds + 1)]


def test_going_on_in_the_middle_gives_the_same(model):
    arrays = clip(17, rate=22_050)
    whole = list(model.stream(arrays, overlap=2))
    for first in (1, 6, 16):
        later = list(model.stream(arrays, overlap=2, first=first))
        assert [frame.index for frame in later] == list(range(first, 17))
        for frame in later:
            np.testing.assert_array_equal(frame.probability, whole[frame.index].probability)


def test_going_on_in_the_middle_of_a_video_gives_the_same_bits(model, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 32, 48, 3), dtype=np.uint8)
    sound = sum(tone(22_050, 40.0, k, k + 2.5, 200 + 60 * k) for k in range(0, 40, 3))
    path = write_clip(tmp_path / "a.mkv", times=[float(k) for k in range(40)], images=images, sound=sound, rate=22_050)
    whole, logits = list(model.stream(path)), []
    finish = model.postprocess
    model.postprocess = lambda *arguments: (logits.append(arguments[0].clone()), finish(*arguments))[1]
    try:
        list(model.stream(path))
        complete = torch.stack(logits)
        for first in (12, 37):
            logits.clear()
            later = list(model.stream(path, first=first))
            assert [frame.time for frame in later] == [frame.time for frame in whole[first:]]
            # To the bit: a sound that is resampled from another place on differs by 1e-5.
            assert torch.equal(torch.stack(logits), complete[first:])
    finally:
        del model.postprocess


def test_other_rates_and_sizes(model):
    frames, wave, rate = clip(7)
    found = model.predict((frames, wave, rate), fps=2.0)
    assert found.times.tolist() == [k / 2 for k in range(7)]
    heard = wave[8_000 : 8_000 + 15_600]
    assert found.levels[1] == pytest.approx(10 * np.log10(np.mean(heard**2)))
    larger = model.predict((frames, wave, rate), size=[64, 96])
    assert larger.probabilities.shape == found.probabilities.shape
    assert (larger.probabilities != model.predict((frames, wave, rate)).probabilities).any()
    assert (larger.probabilities == model.predict((frames, wave, rate), size=(64, 96)).probabilities).all()


def test_another_sound_or_none(model, tmp_path):
    frames, wave, rate = clip(4)
    own = model.predict((frames, wave, rate))
    silent = model.predict((frames, wave, rate), audio="silence")
    assert (silent.levels == -90).all() and (own.levels > -20).all()
    none = model.predict((frames, np.zeros(len(wave)), rate))
    np.testing.assert_array_equal(silent.probabilities, none.probabilities)
    assert (own.probabilities != silent.probabilities).any()
    soundfile.write(tmp_path / "other.wav", wave.astype(np.float32), rate, subtype="FLOAT")
    other = model.predict((frames, None, 0), audio=tmp_path / "other.wav")
    assert np.abs(other.probabilities.astype(int) - own.probabilities.astype(int)).max() <= 1


def test_without_a_sound_track_there_is_a_warning(model, tmp_path):
    path = write_clip(tmp_path / "mute.mp4")
    with pytest.warns(UserWarning, match=r"mute\.mp4: has no sound track: the model gets silence"):
        found = model.predict(path)
    assert len(found) == 2 and (found.levels == -90).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(path, audio="silence")


def test_a_stream_holds_a_window_of_frames(model):
    alive, most = set(), 0

    def pictures(fps, start):
        for k in range(30):
            picture = np.full((40, 56, 3), k, np.uint8)
            alive.add(k)
            weakref.finalize(picture, alive.discard, k)
            yield k / fps, picture
            del picture

    info = SimpleNamespace(width=56, height=40, duration=None, has_audio=True, path="generated")
    source = SimpleNamespace(
        info=info, sampled=pictures, sound=lambda a, b: np.zeros(round(b * 16e3) - round(a * 16e3))
    )
    calls = []
    for frame in model.stream(source, progress=lambda *call: calls.append(call)):
        most = max(most, len(alive))
        assert frame.index in alive
        del frame
    assert most <= model.num_frames + 2, "the window, the yielded frame, the one just read"
    assert calls[-1] == (30, None)


def test_thresholds(model):
    found = model.predict(clip(5))
    for cutoff in (0.0, 0.55, 0.6, 1.0):
        other = found.threshold(cutoff)
        np.testing.assert_array_equal(other.masks, found.probabilities > 255 * cutoff)
        assert other.cutoff == cutoff and found.cutoff == 0.5
        for score, mask, probability in zip(other.scores, other.masks, other.probabilities, strict=True):
            assert score == pytest.approx(probability[mask].mean() / 255 if mask.any() else 0.0)
    with pytest.raises(ValueError, match="threshold: expected a number from 0 to 1"):
        found.threshold(1.5)


def test_rounding_keeps_the_side_of_one_half():
    half = torch.tensor([0.5, np.nextafter(np.float32(0.5), np.float32(1)), 0.0, 1.0, 0.49999])
    assert (quantised(half) > 127.5).tolist() == [False, True, False, True, False]
    assert quantised(half).tolist()[2:4] == [0, 255]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fps": 0}, "fps: expected a positive"),
        ({"overlap": 5}, "overlap: expected 0 to 4 of a window of 5 frames, got 5"),
        ({"size": 8}, "size: expected"),
        ({"size": [64, 64, 3]}, "size: expected"),
        ({"threshold": -1}, "threshold: expected"),
    ],
)
def test_arguments_that_do_not_fit(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.predict(clip(2), **arguments)


@pytest.mark.parametrize(
    ("video", "message"),
    [
        ((np.zeros((2, 4, 4), np.uint8), None, 16_000), r"frames: expected \(T, H, W, 3\)"),
        ((np.zeros((2, 4, 4, 3), np.float32), None, 16_000), "frames: expected uint8"),
        (([], None, 16_000), r"frames: expected \(T, H, W, 3\)"),
        ((np.zeros((2, 4, 4, 3), np.uint8), np.zeros((3, 2, 2)), 16_000), "waveform: expected"),
        ((np.zeros((2, 4, 4, 3), np.uint8), np.full(9, np.nan), 16_000), "waveform: holds"),
        ((np.zeros((2, 4, 4, 3), np.uint8), np.zeros(9), 0), "sample_rate: expected"),
        ((np.zeros((2, 4, 4, 3), np.uint8), np.zeros(9)), "video: expected a path or"),
    ],
)
def test_arrays_that_do_not_fit(model, video, message):
    with pytest.raises(ValueError, match=message):
        model.predict(video)


def test_what_cannot_be_loaded(checkpoint, tmp_path):
    with pytest.raises(UserError, match="a config requires a checkpoint"):
        avsmamba.load_model(CONFIG)
    with pytest.raises(UserError, match=r"none\.pth: no such checkpoint"):
        avsmamba.load_model(CONFIG, tmp_path / "none.pth", options=SMALL)
    with pytest.raises(UserError, match="--device: expected auto, cpu or an available GPU"):
        avsmamba.load_model(CONFIG, checkpoint, device="abacus", options=SMALL)
    with pytest.raises(UserError, match="does not fit"):
        avsmamba.load_model(CONFIG, checkpoint, options=["model.embed_dims=16", *SMALL[1:]])


def test_names_of_classes(shapes, semantic, tmp_path):
    cfg = load_config(AVSS, parse_options(SMALL))
    assert semantic.classes[:2] == ("background", "class 1") and len(semantic.classes) == 13
    names = ["background", *(f"thing {i}" for i in range(12))]
    assert class_names(cfg, {"meta": {"dataset_meta": {"classes": names}}}) == tuple(names)
    found = class_names(load_config(AVSS, parse_options(SMALL), str(shapes)), {})
    assert len(found) == 13 and found[0] == "background" and "class 1" not in found
    assert class_names(load_config(CONFIG, parse_options(SMALL)), {}) == ("sounding",)


def test_windows_are_as_long_as_the_clips_of_the_training():
    assert trained_frames({"type": "AVSBenchMS3"}) == 5 and trained_frames({"type": "AVSBenchAVSS"}) == 10
    assert trained_frames({"type": "AVSBenchAVSS", "num_frames": 12}) == 12


def test_importing_the_package_stays_cheap():
    code = "import avsmamba, sys; print('torch' in sys.modules, hasattr(avsmamba, 'nothing'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False", "False"]
