"""The plot of scores over costs: no label covers another one, or the dots of a method."""

from itertools import combinations

from matplotlib.figure import Figure

from avsmamba.reports.comparison_plot import Point, draw_scores_over_cost


def test_labels_cover_nothing(tmp_path, monkeypatch):
    points = [
        Point("AVS-Mamba", 1.0, [88.2, 88.4, 88.8]),
        Point("encoder-only", 1.05, [83.4, 83.5, 84.4]),
        Point("after AQFormer", 1.17, [81.9, 83.8, 85.4]),
        Point("AVSegFormer", 1.16, [82.7, 87.2, 87.3]),
        Point("COMBO without maskiges", 1.06, [83.0, 86.0, 87.5]),
        Point("SelM", 1.18, [87.6, 87.8, 88.1]),
    ]
    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kw: (figures.append(self), save(self, *args, **kw)))
    draw_scores_over_cost({"MS3": points, "AVSS": points[:1]}, "AVS-Mamba", tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    axes = figures[0].axes[0]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert sorted(text.get_text() for text in axes.texts)[2] == "COMBO without\nmaskiges" and len(boxes) == 6
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    dots = [axes.transData.transform(line.get_xydata()) for line in axes.lines]
    assert not any(box.contains(*dot) for box in boxes for line in dots for dot in line)
    colors = {text.get_text(): text.get_color() for text in axes.texts}
    assert len(set(map(str, colors.values()))) == 6
    assert colors["AVS-Mamba"] == figures[0].axes[1].texts[0].get_color()
