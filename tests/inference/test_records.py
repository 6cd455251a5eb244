"""`records.jsonl`: interrupts, `--resume` after any byte of it, a full disk; no file is left incomplete."""

import json
import os
import resource
import signal
from contextlib import contextmanager

import av
import numpy as np
import pytest

import avsmamba
from avsmamba.inference.predict_video import Terminated, predict_video
from avsmamba.utils import UserError
from tests.output_files import FILES, Interrupt, pictures, same_result, tree


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
        with pytest.raises(UserError, match=f"o: was started with {words}"):
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
    """Limit the size of files: writing more bytes fails, as on a full disk."""
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
    before = tree(out)
    with largest_file(9000), pytest.raises(UserError, match="cannot be written"):
        predict_video(model, video, out, fps=0.5)
    after = tree(out)
    assert after.pop("records.jsonl") and after == before, "an earlier result stays"
    prediction = model.predict(video, threshold=cutoff)
    with largest_file(9000), pytest.raises(UserError, match=r"cannot be written"):
        prediction.save(tmp_path / "saved" / "o")
    assert not (tmp_path / "saved").exists()


def test_before_the_first_frame_is_done_nothing_is_left(model, video, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        predict_video(model, video, tmp_path / "new" / "o", progress=Interrupt(0))
    assert not (tmp_path / "new").exists()
