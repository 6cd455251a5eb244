"""Packing: the index, interrupted runs, processes, and what is refused."""

import hashlib
import json

import pytest

from avsmamba.datasets.shards.pack import Settings, pack
from avsmamba.datasets.shards.write import jobs_of
from avsmamba.utils import UserError


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_index_describes_the_shards(tmp_path, original):
    index = pack(original, "s4", tmp_path / "out", Settings("jpg", 16, quality=90), per_shard=2)
    values = json.loads(index.read_text())
    assert (values["subset"], values["kind"], values["classes"]) == ("s4", "frames", ["sounding"])
    assert {k: v["clips"] for k, v in values["splits"].items()} == {"train": 3, "val": 1, "test": 2}
    assert values["settings"] == {"frames": "jpg", "size": 16, "shorter_side": False, "quality": 90, "wav": True}
    for split in values["splits"].values():
        for shard in split["shards"]:
            content = (index.parent / shard["name"]).read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (shard["bytes"], shard["sha256"])
    assert {p.name for p in index.parent.iterdir()} == {
        *("index.json", "train.json", "val.json", "test.json"),
        *("train-000000.tar", "train-000001.tar", "val-000000.tar", "test-000000.tar"),
    }


def test_an_interrupted_run_goes_on_and_ends_in_the_same_bytes(tmp_path, avsbench):
    pack(avsbench, "ms3", tmp_path / "whole", per_shard=2)
    picture = next((avsbench / "Multi-sources").rglob("visual_frames/train_2/*_3.png"))
    content = picture.read_bytes()
    picture.write_bytes(b"")
    with pytest.raises(UserError, match=r"train_2.mp4_3.png: cannot be read as a picture"):
        pack(avsbench, "ms3", tmp_path / "out", per_shard=2)
    first = tmp_path / "out" / "train-000000.tar"
    before = first.stat().st_mtime_ns
    assert not (tmp_path / "out" / "train-000001.tar").exists() and not (tmp_path / "out" / "index.json").exists()
    picture.write_bytes(content)
    with pytest.raises(UserError, match="holds an interrupted run with frames 'keep'"):
        pack(avsbench, "ms3", tmp_path / "out", Settings("png"), per_shard=2)
    with pytest.raises(UserError, match="holds an interrupted run with other clips"):
        pack(avsbench, "ms3", tmp_path / "out", per_shard=3)
    pack(avsbench, "ms3", tmp_path / "out", per_shard=2)
    assert first.stat().st_mtime_ns == before
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_processes_write_the_same_bytes(tmp_path, original):
    pack(original, "s4", tmp_path / "one", Settings("png", 16), per_shard=1)
    pack(original, "s4", tmp_path / "two", Settings("png", 16), per_shard=1, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_what_is_refused(tmp_path, original):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("")
    with pytest.raises(UserError, match="expected an empty folder"):
        pack(original, "s4", tmp_path / "other")
    pack(original, "s4", tmp_path / "out")
    with pytest.raises(UserError, match=r"index.json exists: a complete data set"):
        pack(original, "s4", tmp_path / "out")
    with pytest.raises(UserError, match=r"AVSS/metadata.csv: no such file"):
        pack(original, "avss", tmp_path / "new")
    with pytest.raises(UserError, match="--per-shard: expected at least 1, got 0"):
        jobs_of({"train": 1}, 0)
    for words, settings in (("--format png or jpg", {"size": 8}), ("--quality", {"quality": 0})):
        with pytest.raises(UserError, match=words):
            Settings(**settings)
    with pytest.raises(UserError, match="--size: expected at least 1"):
        Settings("png", -1)
    assert not (tmp_path / "new").exists()
