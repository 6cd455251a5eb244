import numpy as np
import pytest

from avsmamba.own_data.label_studio import decode_brush, encode_brush, object_of
from avsmamba.utils import UserError
from tests.own_data.clips import HEIGHT, RATE, SECONDS, WIDTH, expected, mask, ms3_masks, run, save

SIZE = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}


def brush(number):
    value = {"format": "rle", "rle": encode_brush(mask(number)), "brushlabels": ["dog"]}
    return {"id": f"r{number}", "type": "brushlabels", "from_name": "a", "to_name": "b", **SIZE, "value": value}


def tasks(entries=lambda second: [brush(RATE * second)] if mask(RATE * second).any() else []):
    """An export "JSON": what a task was imported with, and what was submitted for it."""
    return [
        {
            "id": 100 + second,
            "data": {"image": f"/data/local-files/?d=x/{second}.jpg", "video": "dog", "time": float(second)},
            "annotations": [{"id": second, "completed_by": 1, "was_cancelled": False, "result": entries(second)}],
            "predictions": [],
        }
        for second in range(SECONDS)
    ]


def test_annotations_come_before_predictions(videos, tmp_path):
    content = tasks()
    content[0]["annotations"].insert(0, {"result": [brush(7)], "was_cancelled": False})  # an earlier one
    content[1]["annotations"].append({"result": [brush(7)], "was_cancelled": True})
    content[2]["predictions"] = [{"result": [brush(7)]}]
    content[3]["predictions"], content[3]["annotations"] = content[3]["annotations"], []
    run(save(tmp_path / "a.json", content), videos, tmp_path / "out", ratio=(1, 0, 0))
    assert np.array_equal(ms3_masks(tmp_path / "out", "dog"), expected())
    content[2]["predictions"], content[2]["annotations"] = [7], []  # an export may have the ids of predictions only
    run(save(tmp_path / "b.json", content), videos, tmp_path / "b", seconds=4, ratio=(1, 0, 0))
    names = [p.name for p in (tmp_path / "b/Multi-sources/ms3_data/visual_frames").iterdir()]
    assert names == ["dog_3"]  # second 2 is not labelled


def test_polygons_and_other_regions():
    points = [[12.5, 25], [50, 25], [50, 75], [12.5, 75]]  # percent
    item = {"type": "polygonlabels", **SIZE, "value": {"points": points, "polygonlabels": ["dog"]}}
    name, found = object_of(item, (HEIGHT, WIDTH), "here")
    true = np.zeros((HEIGHT, WIDTH), bool)
    true[12:36, 8:32] = True
    assert name == "dog" and np.array_equal(found, true)
    for change, words in (
        ({"type": "rectanglelabels", "value": {"rectanglelabels": ["dog"]}}, "expected brushlabels or polygonlabels"),
        ({"original_width": 9}, "expected labels of the video's 64 x 48 pixels, got 9 x 48"),
    ):
        with pytest.raises(UserError, match=f"here: {words}"):
            object_of({**item, **change}, (HEIGHT, WIDTH), "here")


def test_a_code_of_brush_strokes():
    """Both kinds of blocks of the code: equal values, and a series of single ones; sizes of lengths 2, 4, 8 and 16."""
    bits = f"{24:032b}" + "00111" + "0001" + "0011" + "0111" + "1111"
    bits += "1" + "00" + "10" + f"{0:08b}"  # 3 zeros
    bits += "0" + "01" + "0100" + "".join(f"{v:08b}" for v in (255, 9, 0, 0, 255))  # 5 values
    bits += "1" + "10" + f"{15:08b}" + f"{255:08b}"  # 16 ones
    code = [int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8)]
    found = decode_brush(code, (2, 3), "here")
    # The alpha of each pixel: bytes 3, 7, 11, ...
    assert found.tolist() == [[True, True, True], [True, True, True]]
    code[-2:] = []
    with pytest.raises(UserError, match=r"here: value\.rle: cannot be read as brush strokes"):
        decode_brush(code, (2, 3), "here")
    with pytest.raises(UserError, match="it is of 24 bytes, the picture of 28"):
        decode_brush(code, (1, 7), "here")


@pytest.mark.parametrize("share", [0, 0.02, 0.5, 1])
def test_codes_round_trip(share):
    rng = np.random.default_rng(0)
    for size in ((1, 1), (5, 7), (300, 200)):
        found = rng.random(size) < share
        assert np.array_equal(decode_brush(encode_brush(found), size, "here"), found)


def test_faults(videos, tmp_path, capsys):
    content = tasks()
    del content[2]["data"]["time"]
    content[4]["data"]["video"] = "cow"
    with pytest.raises(UserError, match=r"a\.json: 2 faults"):
        run(save(tmp_path / "a.json", content), videos, tmp_path / "out")
    data, video = capsys.readouterr().err.splitlines()
    assert "a.json: tasks[2].data: expected 'video' and 'time'" in data and "one video 'cow'" in video
    content = tasks()
    content[1]["annotations"][0]["result"] = [{**brush(5), "type": "x", "value": {}}]
    with pytest.raises(UserError, match=r"a\.json: tasks\[1\]: result r5: expected brushlabels or polygonlabels"):
        run(save(tmp_path / "a.json", content), videos, tmp_path / "out", ratio=(1, 0, 0))
