"""`avsmamba predict` in one process: each file that it writes, interrupts, `--resume`, broken files among others."""

import argparse
import json
import os
import re
import warnings
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

from avsmamba.cli import parse_args
from avsmamba.datasets.palette import to_colours
from avsmamba.inference import outputs
from avsmamba.inference import predict_video as tool
from avsmamba.inference.predict_video import folders_of, predict_video
from avsmamba.utils import UserError
from tests.output_files import FILES, Interrupt, pictures, same_result
from tests.small_model import CONFIG, SMALL
from tests.video.broken import write_broken
from tests.video.clips import tone, write_clip


def test_every_file(model, video, cutoff, tmp_path):
    predict_video(model, video, tmp_path, threshold=cutoff)
    assert sorted(os.listdir(tmp_path)) == FILES
    found = model.predict(video, threshold=cutoff)
    assert 0.1 < found.masks.mean() < 0.9 and len(found) == 12

    masks = sorted((tmp_path / "masks").iterdir(), key=lambda p: int(re.findall(r"\d+", p.stem)[-1]))
    assert [p.name for p in masks] == [f"clip one_{k}.png" for k in range(1, 13)]
    for path, mask in zip(masks, found.masks, strict=True):
        with Image.open(path) as image:
            assert image.mode == "L"
            np.testing.assert_array_equal(np.asarray(image), mask * np.uint8(255))

    content = json.loads((tmp_path / "masks.json").read_text())
    (clip,), (annotation,) = content["videos"], content["annotations"]
    assert (clip["width"], clip["height"], clip["length"]) == (67, 45, 12) and clip["times"] == list(range(12))
    assert content["categories"] == [{"id": 1, "name": "sounding", "supercategory": "sounding"}]
    for k, mask in enumerate(found.masks):
        segmentation, area, box, score = (annotation[key][k] for key in ("segmentations", "areas", "bboxes", "scores"))
        if not mask.any():
            assert segmentation is area is box is score is None
            continue
        np.testing.assert_array_equal(coco.decode(segmentation), mask)
        assert area == mask.sum() == coco.area(segmentation) and box == list(coco.toBbox(segmentation))
        assert score == pytest.approx(found.probabilities[k][mask].mean() / 255, abs=1e-4)
    read = COCO(str(tmp_path / "masks.json"))
    assert read.getAnnIds(catIds=[1]) == [1] and read.loadCats([1])[0]["name"] == "sounding"

    own, overlay = pictures(video), pictures(tmp_path / "overlay.mp4")
    assert len(own) == len(overlay) == 56
    for (time, picture), (other_time, drawn) in zip(own, overlay, strict=True):
        assert abs(time - other_time) < 1e-3 and drawn.shape == (46, 68, 3), "even sizes for yuv420p"
        mask = found.masks[int(time + 1e-6)]
        outside = ~cv2.dilate(mask.astype(np.uint8), np.ones((13, 13))).astype(bool)
        change = np.abs(drawn[:45, :67].astype(int) - picture).mean(2)
        assert not outside.any() or change[outside].mean() < 12
        assert not mask.any() or change[mask].mean() > 15
    with av.open(str(tmp_path / "overlay.mp4")) as container:
        kinds = [(s.type, s.codec_context.name) for s in container.streams]
        assert kinds == [("video", "h264"), ("audio", "aac")]
        assert abs(container.duration / av.time_base - 11.4) < 0.1
    with Image.open(tmp_path / "timeline.png") as image:
        assert image.width > 1000 and len(set(image.convert("L").tobytes())) > 20


def test_classes(semantic, video, tmp_path):
    predict_video(semantic, video, tmp_path)
    found = semantic.predict(video)
    assert sorted(os.listdir(tmp_path / "masks")) == ["labels_rgb", "labels_semantic"]
    for k, labels in enumerate(found.labels):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"masks/labels_semantic/{k}.png")), labels)
        colours = np.asarray(Image.open(tmp_path / f"masks/labels_rgb/{k}.png"))
        np.testing.assert_array_equal(colours, to_colours(labels))
    content = json.loads((tmp_path / "masks.json").read_text())
    assert [c["id"] for c in content["categories"]] == list(range(1, 13))
    present = sorted(set(np.unique(found.labels).tolist()) - {0})
    assert [a["category_id"] for a in content["annotations"]] == present and len(present) > 1
    for annotation in content["annotations"]:
        for segmentation, labels in zip(annotation["segmentations"], found.labels, strict=True):
            mask = labels == annotation["category_id"]
            assert (segmentation is None) == (not mask.any())
            if segmentation:
                np.testing.assert_array_equal(coco.decode(segmentation), mask)
    assert json.loads((tmp_path / "masks.json").read_text()) == content


@pytest.mark.parametrize(
    ("chosen", "expected"),
    list(zip(outputs.FORMATS, (["overlay.mp4"], ["masks"], ["masks.json"], ["timeline.png"]), strict=True)),
)
def test_one_format_alone(model, video, tmp_path, chosen, expected):
    predict_video(model, video, tmp_path, formats=[chosen])
    assert sorted(os.listdir(tmp_path)) == expected


def test_a_prediction_is_saved_as_the_command_writes_it(model, video, cutoff, tmp_path):
    predict_video(model, video, tmp_path / "a", threshold=cutoff)
    model.predict(video).threshold(cutoff).save(tmp_path / "b")
    same_result(tmp_path / "a", tmp_path / "b")


def test_arrays_are_saved_with_their_sound(model, tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (4, 40, 48, 3), dtype=np.uint8)
    found = model.predict((frames, 0.1 * np.ones((48_000 * 4, 2)), 48_000))
    found.save(tmp_path / "new")
    assert sorted(os.listdir(tmp_path / "new")) == FILES
    with av.open(str(tmp_path / "new" / "overlay.mp4")) as container:
        assert [s.type for s in container.streams] == ["video", "audio"] and container.streams.video[0].frames == 4
    found.save(tmp_path / "some", ["json"])
    assert os.listdir(tmp_path / "some") == ["masks.json"]
    with pytest.raises(UserError, match="--format: expected some of overlay"):
        found.save(tmp_path / "wrong", ["gif"])
    assert not (tmp_path / "wrong").exists()
    figure = found.plot(most=3)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["0 s", "1 s", "2 s"]


def test_a_shorter_run_leaves_no_old_masks(model, video, tmp_path):
    predict_video(model, video, tmp_path, fps=2.0, formats=["masks"])
    (tmp_path / "masks" / "of_the_user.png").write_bytes(b"")
    predict_video(model, video, tmp_path, formats=["masks"])
    assert len(os.listdir(tmp_path / "masks")) == 13


def run(videos, out, *more, checkpoint):
    words = ["predict", *map(str, videos), "--model", str(CONFIG), "--checkpoint", str(checkpoint), "--out", str(out)]
    return tool.run(parse_args([*words, "--device", "cpu", *more, "--cfg-options", *SMALL]))


def test_fifty_broken_files_in_one_call(checkpoint, tmp_path, capsys):
    cases = write_broken(tmp_path / "in")
    paths = [case.path for case in cases]
    folders = dict(zip(paths, folders_of([str(path) for path in paths], tmp_path / "out"), strict=True))
    with pytest.raises(SystemExit) as ended:
        run(paths, tmp_path / "out", checkpoint=checkpoint)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in printed.err
    valid = 0
    for case in cases:
        named = [line for line in errors if line.startswith(f"error: {case.path}")]
        if folders[case.path].exists():
            assert case.expected != "error" and not named, case
            assert sorted(os.listdir(folders[case.path])) == FILES
            assert pictures(folders[case.path] / "overlay.mp4")
            valid += 1
        else:
            assert case.expected != "valid" and len(named) == 1, (case, named)
    assert len(errors) == 50 - valid and valid > 10
    assert f"{len(errors)} of 50 videos could not be predicted" in printed.err


def test_several_videos_and_resume(video, checkpoint, tmp_path, capsys, monkeypatch):
    again = tmp_path / video.name
    again.write_bytes(video.read_bytes())
    videos, out = [video, tmp_path / "none.mp4", again], tmp_path / "out"
    real, calls = tool.predict_video, []

    def predict(model, path, folder, **more):
        calls.append(Path(path))
        if len(calls) == 3:
            more["progress"] = Interrupt(5)
        return real(model, path, folder, **more)

    monkeypatch.setattr(tool, "predict_video", predict)
    with pytest.raises(KeyboardInterrupt):
        run(videos, out, checkpoint=checkpoint)
    assert "interrupted: finished frames are in" in capsys.readouterr().err
    first = (out / "clip one" / "overlay.mp4").stat().st_mtime_ns
    with pytest.raises(SystemExit):
        run(videos, out, "--resume", checkpoint=checkpoint)
    assert (out / "clip one" / "overlay.mp4").stat().st_mtime_ns == first, "it was finished"
    assert sorted(os.listdir(out)) == ["clip one", "clip one_2"]
    assert all(sorted(os.listdir(out / name)) == FILES for name in os.listdir(out))
    same_result(out / "clip one", out / "clip one_2")


def test_a_video_without_sound(checkpoint, tmp_path, capsys):
    mute = write_clip(tmp_path / "mute.mp4")
    run([mute], tmp_path / "out", checkpoint=checkpoint)
    assert f"warning: {mute}: has no sound track: the model gets silence" in capsys.readouterr().err
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as container:
        assert [s.type for s in container.streams] == ["video"]
    with pytest.raises(UserError, match=r"mute\.mp4: has no sound that can be decoded, but --require-audio"):
        run([mute], tmp_path / "other", "--require-audio", checkpoint=checkpoint)
    assert not (tmp_path / "other").exists()


def test_another_sound_is_heard_and_laid_beside(model, video, tmp_path):
    other = write_clip(tmp_path / "other.mp4", sound=tone(16_000, 3.0, 0, 3.0), rate=16_000)
    predict_video(model, video, tmp_path / "o", audio=other, formats=["json", "overlay"])
    levels = json.loads((tmp_path / "o" / "masks.json").read_text())["videos"][0]["levels"]
    assert levels[0] > -10 and levels[5] == -90
    with pytest.raises(UserError, match=r"none\.wav: no such file"):
        predict_video(model, video, tmp_path / "p", audio=tmp_path / "none.wav")
    assert not (tmp_path / "p").exists()
    predict_video(model, video, tmp_path / "q", audio="silence", formats=["overlay"])
    with av.open(str(tmp_path / "q" / "overlay.mp4")) as container:
        assert not container.streams.audio


def test_a_folder_of_pictures(model, tmp_path):
    folder = tmp_path / "pictures.d"
    folder.mkdir()
    for k in range(7):
        Image.fromarray(np.full((40, 50, 3), 30 * k, np.uint8)).save(folder / f"{k}.png")
    predict_video(model, folder, tmp_path / "o", fps=2.0, audio="silence")
    assert json.loads((tmp_path / "o" / "masks.json").read_text())["videos"][0]["times"] == [k / 2 for k in range(7)]
    assert len(pictures(tmp_path / "o" / "overlay.mp4")) == 7


def test_where_it_must_not_write(model, video, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: expected an output folder, found a file"):
        predict_video(model, video, tmp_path / "file")
    with pytest.raises(UserError, match=r"file.*: cannot be written to"):
        predict_video(model, video, tmp_path / "file" / "below")
    own = tmp_path / "overlay.mp4"
    own.write_bytes(video.read_bytes())
    with pytest.raises(UserError, match="would be overwritten by its own overlay"):
        predict_video(model, own, tmp_path)
    assert own.read_bytes() == video.read_bytes()


def test_names_of_folders():
    assert folders_of(["a/x.mp4"], Path("o")) == [Path("o")]
    found = folders_of(["a/x.mp4", "b/x.mkv", "c/x_2.avi", "d/x.mp4"], Path("o"))
    assert len(set(found)) == 4 and found[0] == Path("o/x")


def test_warnings_are_one_line_each(capsys):
    with tool.one_line_warnings():
        warnings.warn("a\nb", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "warning: a b\n"


def test_arguments():
    args = parse_args(["predict", "a", "b", "--size", "64", "96", "--format", "masks", "json"])
    assert (args.videos, args.size, args.format, args.model, args.fps) == (
        ["a", "b"],
        [64, 96],
        ["masks", "json"],
        "shapes",
        1.0,
    )
    with pytest.raises(SystemExit):
        parse_args(["predict", "a", "--format", "gif"])
    assert isinstance(args, argparse.Namespace)
