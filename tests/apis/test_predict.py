"""`avsmamba predict` in one process: each file that it writes, interrupts, `--resume`, broken files among others."""

import argparse
import json
import os
import re
import resource
import signal
import warnings
from contextlib import contextmanager
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

import avsmamba
from avsmamba.apis import outputs
from avsmamba.apis import predict as tool
from avsmamba.apis.predict import Terminated, folders_of, predict_video
from avsmamba.cli import parse_args
from avsmamba.datasets.palette import to_colours
from avsmamba.utils import UserError
from avsmamba.video import open_video
from tests.apis.tiny import CONFIG, SMALL
from tests.video.broken import write_broken
from tests.video.clips import tone, write_clip

FILES = ["masks", "masks.json", "overlay.mp4", "timeline.png"]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """11.4 s of odd size at 5 pictures a second, one of them missing, with sound at 44.1 kHz."""
    rng = np.random.default_rng(0)
    times = [k / 5 for k in range(57) if k != 20]
    images = [cv2.resize(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8), (67, 45)) for _ in times]
    sound = sum(tone(44_100, 11.4, k, k + 1.5, 300 + 170 * k) for k in range(0, 11, 2))
    path = tmp_path_factory.mktemp("video") / "clip one.mp4"
    return write_clip(path, size=(45, 67), times=times, sound=sound, rate=44_100, images=images)


@pytest.fixture(scope="module")
def cutoff(model, video):
    """A threshold at which masks of random weights are neither empty nor full."""
    return float(np.median(model.predict(video).probabilities)) / 255


def pictures(path):
    with open_video(path) as opened:
        return [(time, picture) for time, picture in opened.frames()]


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def same_result(first, second):
    """Every file to the byte."""
    first_files, second_files = tree(first), tree(second)
    assert sorted(first_files) == sorted(second_files) and "overlay.mp4" in first_files
    assert [name for name, content in first_files.items() if content != second_files[name]] == []


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


class Interrupt:
    """A progress that sends this process a signal when so many frames are done."""

    def __init__(self, frames, number=signal.SIGINT):
        self.frames, self.number = frames, number

    def __call__(self, done, _):
        if done == self.frames:
            self.frames = None
            signal.raise_signal(self.number)


@pytest.mark.parametrize("name", ["model", "semantic"])
def test_resume_gives_what_an_uninterrupted_run_does(name, request, video, cutoff, tmp_path):
    predictor, threshold = request.getfixturevalue(name), cutoff if name == "model" else 0.5
    predict_video(predictor, video, tmp_path / "whole", threshold=threshold)
    out = tmp_path / "resumed"
    for done, number, kind in ((2, signal.SIGINT, KeyboardInterrupt), (7, signal.SIGTERM, Terminated)):
        before = signal.getsignal(number)
        with pytest.raises(KeyboardInterrupt) as stopped:
            predict_video(predictor, video, out, threshold=threshold, resume=True, progress=Interrupt(done, number))
        assert stopped.type is kind and signal.getsignal(number) is before
        # What was done is there and whole: masks, the overlay with its sound, masks.json, the timeline.
        assert sorted(os.listdir(out)) == sorted([*FILES, "records.jsonl"])
        assert len(json.loads((out / "masks.json").read_text())["videos"][0]["times"]) == done
        shown = pictures(out / "overlay.mp4")
        assert shown[-1][0] < done <= shown[-1][0] + 0.21
        with av.open(str(out / "overlay.mp4")) as container:
            assert len(container.streams.audio) == 1 and abs(container.duration / av.time_base - done) < 0.1
    predict_video(predictor, video, out, threshold=threshold, resume=True)
    assert sorted(os.listdir(out)) == FILES
    same_result(tmp_path / "whole", out)


def test_resume_with_another_setting(model, video, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        predict_video(model, video, tmp_path / "o", progress=Interrupt(3))
    before = tree(tmp_path / "o")
    for more, words in (
        ({"threshold": 0.7}, "threshold 0.5, now it is 0.7"),
        ({"overlap": 0}, "overlap 1, now it is 0"),
        ({"audio": "silence"}, "audio real, now it is silence"),
        ({"size": 64}, "size None, now it is"),
        ({"formats": ["masks"]}, "format .*, now it is"),
    ):
        with pytest.raises(UserError, match=f"o: was begun with {words}"):
            predict_video(model, video, tmp_path / "o", resume=True, **more)
    assert tree(tmp_path / "o") == before
    predict_video(model, video, tmp_path / "o", threshold=0.7)
    assert sorted(os.listdir(tmp_path / "o")) == FILES


def test_an_interrupt_of_the_second_pass(model, video, cutoff, tmp_path, monkeypatch):
    predict_video(model, video, tmp_path / "whole", threshold=cutoff)
    join, calls = avsmamba.video.join, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            signal.raise_signal(signal.SIGINT)
        join(*arguments)

    monkeypatch.setattr("avsmamba.video.join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict_video(model, video, tmp_path / "o", threshold=cutoff)
    assert os.listdir(tmp_path / "o") == ["records.jsonl"]
    monkeypatch.setattr(model, "run", None)  # the model does not run again
    predict_video(model, video, tmp_path / "o", threshold=cutoff, resume=True)
    assert len(calls) == 2
    same_result(tmp_path / "whole", tmp_path / "o")


@pytest.mark.parametrize("name", ["model", "semantic"])
def test_resume_after_any_byte_of_the_records(name, request, video, cutoff, tmp_path):
    """A process that is killed leaves the records up to any byte, and perhaps what it was rendering."""
    predictor, threshold = request.getfixturevalue(name), cutoff if name == "model" else 0.5
    more = {"threshold": threshold, "formats": ["json"]}
    predict_video(predictor, video, tmp_path / "whole", **more, keep_records=True)
    content = (tmp_path / "whole" / "records.jsonl").read_bytes()
    (tmp_path / "whole" / "records.jsonl").unlink()
    lines = content.splitlines(keepends=True)
    assert len(lines) == 15 and json.loads(lines[12])["index"] == 11
    assert [json.loads(line) for line in lines[13:]] == [{"done": "predicted"}, {"done": "rendered"}]
    head, last = len(lines[0]), len(content) - len(lines[14])
    ends = [0, 5, head - 1, head, head + 1, last - len(lines[13]), last - 1, last]
    for end in (*ends, *np.random.default_rng(0).integers(head, last, 4).tolist()):
        out = tmp_path / f"to {end}"
        (out / ".rendering" / "masks").mkdir(parents=True)
        (out / ".rendering" / "overlay.mp4").write_bytes(b"half")
        (out / "records.jsonl").write_bytes(content[:end])
        predict_video(predictor, video, out, **more, resume=True)
        assert tree(out) == tree(tmp_path / "whole") and os.listdir(out) == ["masks.json"]
    # What is damaged in the middle is predicted again from there.
    (tmp_path / "to 0" / "records.jsonl").write_bytes(b"".join([*lines[:4], bytes(9), b"\n", *lines[5:]]))
    predict_video(predictor, video, tmp_path / "to 0", **more, resume=True)
    assert tree(tmp_path / "to 0") == tree(tmp_path / "whole")
    (tmp_path / "records.jsonl").write_text('{"of": "another program"}\n')
    with pytest.raises(UserError, match=r"records\.jsonl: cannot be read; leave --resume out to start over"):
        predict_video(predictor, video, tmp_path, **more, resume=True)
    assert (tmp_path / "records.jsonl").is_file()


@contextmanager
def largest_file(size):
    """Writing more than so many bytes to a file fails, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_leaves_nothing_half_written(model, video, cutoff, tmp_path):
    predict_video(model, video, tmp_path / "whole", threshold=cutoff)
    out = tmp_path / "new" / "o"
    # Too small for the first line, for the records, for the overlay.
    for size, frames in ((9, ()), (1200, range(1, 12)), (9000, (12,))):
        with largest_file(size), pytest.raises(UserError, match="cannot be written") as error:
            predict_video(model, video, out, threshold=cutoff, resume=True)
        assert "\n" not in str(error.value)
        if not frames:
            assert not out.parent.exists()
            continue
        assert os.listdir(out) == ["records.jsonl"]
        content = (out / "records.jsonl").read_bytes()
        assert content.count(b'\n{"index"') in frames and content.endswith(b"}\n")
    predict_video(model, video, out, threshold=cutoff, resume=True)
    same_result(tmp_path / "whole", out)
    prediction = model.predict(video, threshold=cutoff)
    with largest_file(9000), pytest.raises(UserError, match=r"cannot be written"):
        prediction.save(tmp_path / "saved" / "o")
    assert not (tmp_path / "saved").exists()


def test_before_the_first_frame_is_done_nothing_is_left(model, video, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        predict_video(model, video, tmp_path / "new" / "o", progress=Interrupt(0))
    assert not (tmp_path / "new").exists()


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
    assert "interrupted: what was done is in" in capsys.readouterr().err
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
    assert f"warning: {mute}: has no sound track: the model hears silence" in capsys.readouterr().err
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as container:
        assert [s.type for s in container.streams] == ["video"]
    with pytest.raises(UserError, match=r"mute\.mp4: has no sound that can be decoded, which --require-audio"):
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
    with pytest.raises(UserError, match="file: expected a folder to write to, found a file"):
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
