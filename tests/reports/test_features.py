"""Principal components as colours, and the grid they are drawn in."""

import numpy as np
import pytest

from avsmamba.reports.features_plot import overlay, principal_colours
from avsmamba.visualization.clip_picture import masked, panes_of, truths
from avsmamba.visualization.grid import grid, stacked

rng = np.random.default_rng(0)


def test_components_are_those_of_a_decomposition():
    scores = rng.normal(size=(2, 6, 9, 3)) ** 2 * [3.0, 2.0, 1.0]  # each with a long tail upwards
    axes = np.linalg.qr(rng.normal(size=(12, 12)))[0][:3]
    colours, shares = principal_colours((scores @ axes + rng.normal(size=12)).astype(np.float32))
    assert colours.shape == (2, 6, 9, 3) and colours.min() == 0 and colours.max() == 1
    tokens = (scores - scores.mean((0, 1, 2))).reshape(-1, 3)
    values = np.linalg.svd(tokens, compute_uv=False) ** 2
    np.testing.assert_allclose(shares, values / values.sum(), rtol=1e-4)
    # The first component follows the strongest score: same order, and bright where it is high.
    assert np.corrcoef(colours[..., 0].ravel(), scores[..., 0].ravel())[0, 1] > 0.9


def test_one_basis_serves_all_frames():
    frame = rng.normal(size=(1, 5, 4, 6))
    colours, _ = principal_colours(np.concatenate([frame, 2 * frame, frame]))
    assert np.array_equal(colours[0], colours[2]) and not np.allclose(colours[0], colours[1])


def test_a_part_that_stands_out_is_bright():
    features = np.zeros((1, 10, 10, 4)) + 0.01 * rng.normal(size=(1, 10, 10, 4))
    features[0, :2, :2] += rng.normal(size=4)
    for sign in (1, -1):
        colours, shares = principal_colours(sign * features)
        assert colours[0, :2, :2, 0].min() > 0.9 and colours[0, 3:, 3:, 0].max() < 0.2 and shares[0] > 0.9


def test_features_without_variance_are_black():
    colours, shares = principal_colours(np.full((1, 3, 3, 5), 7.0))
    assert not colours.any() and not shares.any()


@pytest.mark.parametrize("shape", [(3, 3, 5), (1, 3, 3, 2), (0, 3, 3, 5)])
def test_shapes_that_do_not_fit(shape):
    with pytest.raises(ValueError, match="features: expected"):
        principal_colours(np.zeros(shape))


def test_values_that_are_not_finite():
    with pytest.raises(ValueError, match="finite"):
        principal_colours(np.full((1, 2, 2, 3), np.nan))


def test_the_overlay_weighs_features_with_0_7():
    pane = np.full((8, 12, 3), 100, np.uint8)
    colours = np.broadcast_to([1.0, 0.5, 0.0], (2, 3, 3))
    assert overlay(pane, colours)[5, 7].tolist() == [208, 119, 30]
    assert np.array_equal(overlay(pane, colours, 0.0), pane)


def test_a_grid_holds_its_panes():
    panes = panes_of(rng.integers(0, 256, (3, 3, 20, 40), dtype=np.uint8))
    assert {p.shape for p in panes} == {(100, 200, 3)}
    masks = np.zeros((3, 10, 20), np.uint8)
    masks[1, 3:7, 5:15] = 1
    rows = {"frame": panes, "a long\nname of a row": masked(panes, masks, True)}
    picture = grid(rows, "a title " * 60, ["1", "2", "3"])
    for row in rows.values():
        for pane in row:
            found = np.lib.stride_tricks.sliding_window_view(picture[..., 1], pane.shape[:2])
            assert any((found[y, x] == pane[..., 1]).all() for y, x in np.argwhere(found[..., 0, 0] == pane[0, 0, 1]))
    assert (picture[0] == 255).all()
    known = truths(panes, masks, np.array([True, True, False]))
    assert all(np.array_equal(*pair) for pair in zip(known[:2], masked(panes, masks, True), strict=False))
    assert not np.array_equal(known[2], masked(panes, masks, True)[2])


def test_rows_that_do_not_fit():
    pane = np.zeros((4, 4, 3), np.uint8)
    for rows in ({"a": [pane], "b": [pane, pane]}, {"a": [pane, pane[:2]]}):
        with pytest.raises(ValueError, match="rows: expected 2 panes of one size"):
            grid(rows, "", ["1", "2"])


def test_stacked_pictures_keep_their_places():
    a, b, c = (np.full((h, w, 3), v, np.uint8) for h, w, v in ((2, 3, 10), (4, 2, 20), (1, 4, 30)))
    picture = stacked([[a, b], [c]])
    assert picture.shape == (5, 5, 3)
    assert picture[..., 0].tolist() == [
        [10, 10, 10, 20, 20],
        [10, 10, 10, 20, 20],
        [255, 255, 255, 20, 20],
        [255, 255, 255, 20, 20],
        [30, 30, 30, 30, 255],
    ]
