"""The timeline: the heights of what is drawn, and the file."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from avsmamba.utils import UserError
from avsmamba.visualization.timeline import _clock, draw_timeline, fill_timeline

TIMES, LEVELS = [0.0, 1.0, 2.0], [-20.0, -90.0, -6.0]


def heights(axes, x):
    """Upper and lower edge of each band at x."""
    found = []
    for band in axes.collections:
        ys = [path.vertices[:, 1][np.abs(path.vertices[:, 0] - x) < 0.5] for path in band.get_paths()]
        values = np.concatenate(ys)
        found.append((values.min(), values.max()))
    return found


def test_levels_and_stacked_shares():
    sound, shares = Figure().subplots(2, 1)
    fill_timeline((sound, shares), TIMES, LEVELS, {2: [0.1, 0.0, 0.0], 5: [0.3, 0.0, 0.5]}, ["b"] * 6, 1.0)
    assert shares.get_xlim() == (0, 3), "the last frame is shown for its second too"
    assert heights(sound, 0)[0] == (-80, -20) and heights(sound, 3)[0] == (-80, -6)
    # The greatest share stands below.
    first, second = heights(shares, 0)
    assert first == pytest.approx((0, 30)) and second == pytest.approx((30, 40))
    first, second = heights(shares, 3)
    assert first == pytest.approx((0, 50)) and second == pytest.approx((50, 50))


def test_many_classes_are_summed():
    sound, axes = Figure().subplots(2, 1)
    shares = {i: [0.01 * i] * 3 for i in range(1, 15)}
    fill_timeline((sound, axes), TIMES, LEVELS, shares, [f"c{i}" for i in range(15)], 1.0)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[:2] == ["c14", "c13"] and labels[-1] == "5 more" and len(labels) == 10
    assert heights(axes, 1)[-1][1] == pytest.approx(sum(range(1, 15)))


@pytest.mark.parametrize("count", [1, 3600])
def test_the_file(tmp_path, count):
    times, levels = np.arange(count) / 2.0, np.full(count, -30.0)
    draw_timeline(tmp_path / "a" / "t.png", times, levels, {}, ["sounding"], 2.0, "a clip")
    with Image.open(tmp_path / "a" / "t.png") as image:
        assert image.format == "PNG" and image.width > 1000
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["t.png"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        draw_timeline(tmp_path / "file" / "t.png", times, levels, {}, ["sounding"], 2.0)


def test_the_clock():
    assert [_clock(t) for t in (0, 5, 65, 3600, 3725.5, 0.25)] == [
        "0:00",
        "0:05",
        "1:05",
        "1:00:00",
        "1:02:05.5",
        "0:00.25",
    ]
