"""The whole command: layouts, sound, splits, the page, and masks.json through annotation tools."""

import csv
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile

from avsmamba.cli import main
from avsmamba.datasets import AVSBenchAVSS, AVSBenchMS3, AVSBenchS4
from avsmamba.own_data.convert import Importer
from avsmamba.utils import UserError
from tests.own_data.clips import (
    HEIGHT,
    NAMES,
    RATE,
    WIDTH,
    code,
    expected,
    mask,
    ms3_masks,
    run,
    save,
    write_video,
    youtube_vis,
)
from tests.video.clips import index_of, tone, write_clip


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return save(tmp_path_factory.mktemp("labels") / "labels.json", youtube_vis())


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def check_page(page, clips):
    """Every link of the page is a file beside it, and the last picture has two rows of frames."""
    text = page.read_text()
    links = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert len(links) == 2 * clips and "http" not in text
    for link in links:
        assert (page.parent / link).is_file(), link
    image = cv2.imread(str(page.parent / links[-1]))
    assert image.shape[1] > 5 * WIDTH and image.shape[0] > 2 * HEIGHT and image.std() > 30


def items(root, dataset, **options):
    return [item for split in ("train", "val", "test") for item in dataset(root, split, **options)]


def test_s4(labels, videos, tmp_path, capsys):
    root = run(labels, videos, tmp_path / "out", to="s4", preview=9)
    check_page(root / "Single-source/preview.html", clips=3)
    assert capsys.readouterr().out.splitlines()[-1] == "3 clips of 3 data sets, 0 faults"
    rows = table(root / "Single-source/s4_meta_data.csv")
    assert sorted((r["name"], r["start"], r["category"]) for r in rows) == [(f"{n}_0", "0", n) for n in NAMES]
    assert sorted(r["split"] for r in rows) == ["test", "train", "val"]
    for item in items(root, AVSBenchS4):
        sample = item["data_samples"]
        count = 1 if sample.split == "train" else 5
        assert sample.gt_temporal_mask_flag.sum() == count
        assert np.array_equal(sample.gt_masks[:count].numpy(), expected()[:count])
    # In training, one labelled second is enough: from the first labelled one on.
    content = youtube_vis(times=[2.0], length=1)
    for annotation in content["annotations"]:
        annotation["segmentations"] = annotation["segmentations"][10:11]
    sparse = save(tmp_path / "sparse.json", content)
    run(sparse, videos, tmp_path / "sparse", to="s4", ratio=(1, 0, 0))
    names = {r["name"] for r in table(tmp_path / "sparse/Single-source/s4_meta_data.csv")}
    assert names == {f"{n}_2" for n in NAMES}
    with pytest.raises(UserError, match=r"sparse\.json: no video has 5 labelled seconds in a row"):
        run(sparse, videos, tmp_path / "no", to="s4", ratio=(0, 0, 1))


def test_categories_of_s4(labels, videos, tmp_path):
    content = youtube_vis()
    content["annotations"].append({**content["annotations"][0], "id": 5, "video_id": 1})
    both = save(tmp_path / "both.json", content)
    with pytest.raises(UserError, match=r"both\.json: videos\[id 1\]: dog_0 has the categories dog\+cat, .*; use --to"):
        run(both, videos, tmp_path / "out", to="s4", ratio=(0, 0, 1))
    splits = tmp_path / "splits.csv"
    splits.write_text("video,split,category\ncat,val,\ndog,test,pair\nowl,train,\n")
    run(both, videos, tmp_path / "out", to="s4", split_file=splits)
    rows = table(tmp_path / "out/Single-source/s4_meta_data.csv")
    assert {(r["name"], r["split"], r["category"]) for r in rows} == {
        ("cat_0", "val", "cat"),
        ("dog_0", "test", "pair"),
        ("owl_0", "train", "owl"),
    }
    content["categories"] = [{**c, "name": f"a/{c['name']}"} for c in content["categories"]]
    with pytest.raises(UserError, match=r"category 'a/cat' cannot be the name of a folder"):
        run(save(both, {**content, "annotations": content["annotations"][:1]}), videos, tmp_path / "no", to="s4")


def test_ms3_and_its_sound(labels, videos, tmp_path):
    root = run(labels, videos, tmp_path / "out", seconds=3)
    found = items(root, AVSBenchMS3, num_frames=3)
    assert sorted(item["data_samples"].clip for item in found) == [f"{n}_{s}" for n in NAMES for s in (0, 3)]
    for item in found:
        start = int(item["data_samples"].clip[-1])
        true = np.stack([mask(RATE * k) for k in range(start, start + 3)])
        assert np.array_equal(item["data_samples"].gt_masks.numpy(), true)
    assert {r["category"] for r in table(root / "Multi-sources/ms3_meta_data.csv")} == set(NAMES)
    wave, rate = soundfile.read(next((root / "Multi-sources/ms3_data/audio_wav").rglob("dog_3.wav")))
    assert rate == 16_000 and wave.shape == (48_000,) and 0.3 < np.sqrt(np.mean(wave**2)) < 0.4


@pytest.fixture(scope="module")
def ten_seconds(tmp_path_factory):
    """A folder with longer videos and `labels.json`."""
    root = tmp_path_factory.mktemp("ten")
    write_video(root / "cat.mp4", count=10 * RATE)
    for name in NAMES[1:]:
        shutil.copy(root / "cat.mp4", root / f"{name}.mp4")
    content = youtube_vis(length=10 * RATE)
    for annotation in content["annotations"]:
        annotation["segmentations"] = [code(number) for number in range(10 * RATE)]
    save(root / "labels.json", content)
    return root


@pytest.mark.parametrize(("seconds", "part"), [(5, "v1m"), (10, "v2")])
def test_avss(seconds, part, ten_seconds, tmp_path):
    root = run(ten_seconds / "labels.json", ten_seconds, tmp_path / "out", to="avss", seconds=seconds, preview=1)
    check_page(root / "AVSS/preview.html", clips=1)
    rows = table(root / "AVSS/metadata.csv")
    assert len(rows) == 30 // seconds and {r["label"] for r in rows} == {part}
    assert {(r["vid"], r["a_obj"]) for r in rows} == {(n, n) for n in NAMES}
    for item in items(root, AVSBenchAVSS):
        sample = item["data_samples"]
        index = 1 + NAMES.index(sample.category)
        assert np.array_equal(sample.gt_masks[0].numpy() == index, mask(RATE * int(sample.clip.split("_")[1])))
        assert sample.vid_temporal_mask_flag.sum() == seconds


def test_unknown_categories_of_avss(labels, videos, tmp_path):
    classes = save(tmp_path / "label2idx.json", {"background": 0, "cat": 1, "owl": 2})
    with pytest.raises(UserError, match=r"videos\[id 1\]: category 'dog' is not in --classes: cat, owl"):
        run(labels, videos, tmp_path / "out", to="avss", classes=classes)
    with pytest.raises(UserError, match="--seconds: a clip of AVSS has 5 or 10, got 4"):
        Importer(labels, videos, "avss", tmp_path / "out", seconds=4)


def test_offset_and_size(labels, videos, tmp_path):
    run(labels, videos, tmp_path / "out", offset=0.4, shorter=24)
    true = expected(picture=lambda second: RATE * second + 2)
    small = np.stack([cv2.resize(m.astype(np.uint8), (32, 24), interpolation=cv2.INTER_NEAREST) for m in true])
    assert np.array_equal(ms3_masks(tmp_path / "out", "dog"), small)
    frame = cv2.imread(str(tmp_path / "out/Multi-sources/ms3_data/visual_frames/dog_0/dog_0.mp4_1.png"))
    assert frame.shape == (24, 32, 3)


def test_a_picture_of_two_clips(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "masks/slides").mkdir(parents=True)
    sound = tone(48_000, 5, 0, 5)
    write_clip(tmp_path / "videos/slides.mp4", (HEIGHT, WIDTH), [0, 3, 4], 1, sound)
    for second in range(4):
        cv2.imwrite(str(tmp_path / f"masks/slides/{second}.png"), mask(second).astype(np.uint8) * 255)
    run(tmp_path / "masks", tmp_path / "videos", tmp_path / "out", seconds=2, ratio=(1, 0, 0))
    folder = tmp_path / "out/Multi-sources/ms3_data/visual_frames"
    paths = [folder / f"slides_{start}/slides_{start}.mp4_{k}.png" for start in (0, 2) for k in (1, 2)]
    assert [index_of(cv2.imread(str(path))[..., ::-1]) for path in paths] == [0, 0, 0, 1]


def test_videos_without_sound(labels, videos, tmp_path, capsys):
    shutil.copytree(videos, tmp_path / "videos")
    write_video(tmp_path / "videos/dog.mp4", sound=False)
    with pytest.raises(UserError, match=r"^1 video without sound: .*/dog\.mp4 \(--no-audio skip or silence\)"):
        run(labels, tmp_path / "videos", tmp_path / "out")
    run(labels, tmp_path / "videos", tmp_path / "skip", no_audio="skip", ratio=(1, 0, 1))
    assert "dog.mp4: has no sound and is skipped" in capsys.readouterr().out
    rows = table(tmp_path / "skip/Multi-sources/ms3_meta_data.csv")
    assert {r["name"] for r in rows} == {"cat_0", "owl_0"}
    run(labels, tmp_path / "videos", tmp_path / "silence", no_audio="silence")
    wave, _ = soundfile.read(next((tmp_path / "silence").rglob("dog_0.wav")))
    assert len(wave) == 80_000 and not wave.any()


def test_an_existing_target_is_refused(labels, videos, tmp_path):
    (tmp_path / "out/Multi-sources").mkdir(parents=True)
    with pytest.raises(UserError, match="Multi-sources: exists already; remove it first"):
        Importer(labels, videos, "ms3", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out/Multi-sources"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("No space left on device")])
def test_an_interrupt_leaves_nothing(error, labels, videos, tmp_path, monkeypatch):
    written = []

    def stop(path, *args, **options):
        written.append(path)
        if len(written) == 2:
            raise error
        Path(path).touch()

    monkeypatch.setattr(soundfile, "write", stop)
    with pytest.raises((KeyboardInterrupt, UserError)):
        run(labels, videos, tmp_path / "new/out")
    assert len(written) >= 2 and list(tmp_path.iterdir()) == []


def test_the_page(labels, videos, tmp_path, capsys):
    assert main(
        ["import", str(labels), "--videos", str(videos), "--to", "ms3", "--out", str(tmp_path), "--preview", "2"]
    ) == 0  # fmt: skip
    out = capsys.readouterr().out
    page = tmp_path / "Multi-sources/preview.html"
    assert f"3 clips in {page.parent}\npreview: {page}\n" in out and "3 data sets, 0 faults" in out
    check_page(page, clips=2)


def test_exit_status_of_an_error(labels, videos, tmp_path, capsys):
    command = ["import", str(labels), "--videos", str(videos), "--to", "ms3", "--out", str(tmp_path / "o")]
    for more, words in (
        (["--seconds", "0"], "seconds: expected at least 1, got 0"),
        (["--offset", "1"], "offset: expected at least 0 and below 1, got 1.0"),
        (["--frame-rate", "0"], "frame_rate: expected a number above 0, got 0.0"),
        (["--videos", "nowhere"], "--videos: no such file or folder: nowhere"),
        (["--classes", "none.json"], "none.json: no such file"),
    ):
        with pytest.raises(SystemExit) as left:
            main([*command, *more])
        err = capsys.readouterr().err.splitlines()
        assert left.value.code == 2 and err[-1].startswith("error: ") and words in err[-1]
    assert not (tmp_path / "o").exists()
    for source, words in (("none.json", "no such file or folder"), (__file__, "expected json, xml, zip")):
        with pytest.raises(UserError, match=words):
            run(source, videos, tmp_path / "o")
