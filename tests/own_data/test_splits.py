from collections import Counter

import pytest

from avsmamba.own_data.splits import Place, split_by_ratio, split_by_table
from avsmamba.utils import UserError

NAMES = [f"video {i}" for i in range(20)]


def test_shares_of_the_videos():
    found = split_by_ratio(NAMES, (0.7, 0.1, 0.2), seed=0)
    assert sorted(found) == sorted(NAMES)
    assert Counter(place.split for place in found.values()) == {"train": 14, "val": 2, "test": 4}
    assert found == split_by_ratio(NAMES[::-1], (7, 1, 2), seed=0) != split_by_ratio(NAMES, (7, 1, 2), seed=1)
    few = split_by_ratio(NAMES[:3], (0.98, 0.01, 0.01), seed=0)
    assert sorted(place.split for place in few.values()) == ["test", "train", "val"]
    assert {place.split for place in split_by_ratio(NAMES, (0, 0, 2), 0).values()} == {"test"}


def test_wrong_shares():
    for ratio in ((1, 1), (1, -1, 1), (0, 0, 0), (1, float("nan"), 1), (1, float("inf"), 1)):
        with pytest.raises(UserError, match="--ratio: expected shares of train, val, test"):
            split_by_ratio(NAMES, ratio, 0)
    with pytest.raises(UserError, match="--ratio: 2 videos cannot fill 3 splits; --ratio 1 0 0"):
        split_by_ratio(NAMES[:2], (1, 1, 1), 0)


def test_a_table(tmp_path):
    path, faults = tmp_path / "splits.csv", []
    path.write_text("split,video,category\ntrain,a.mp4,dog\ntest,b,\n")
    assert split_by_table(["a", "b"], path, faults) == {"a": Place("train", "dog"), "b": Place("test")}
    assert faults == []
    path.write_text("video,split\na,train\nx,test\na,val\nb,dev\n")
    assert split_by_table(["a", "b"], path, faults) == {"a": Place("train")}
    assert [f.partition("splits.csv: ")[2] for f in faults] == [
        "row 3: video: there are no labels of 'x'",
        "row 4: video: a is listed twice",
        "row 5: split: expected one of train, val, test, got 'dev'",
        "has no row for the video b",
    ]
    path.write_text("name,split\n")
    with pytest.raises(UserError, match=r"splits\.csv: expected the columns video and split, got name, split"):
        split_by_table(["a"], path, faults)
