"""The order tables against tables written by hand; H differs from W, so that a swapped axis shows."""

import pytest
import torch

from avsmamba.ops import a2v, cross_scan_2d, cross_scan_3d, one_way, v2a
from avsmamba.ops.scan_order import ORIENTATIONS


def test_cross_scan_2d_of_one_scale():
    # 0 1 2
    # 3 4 5
    assert cross_scan_2d([(2, 3)]).tolist() == [
        [0, 1, 2, 3, 4, 5],
        [0, 3, 1, 4, 2, 5],
        [5, 4, 3, 2, 1, 0],
        [5, 2, 4, 1, 3, 0],
    ]


def test_cross_scan_2d_of_two_scales_goes_scale_by_scale():
    # 0 1      6
    # 2 3      7
    # 4 5
    assert cross_scan_2d([(3, 2), (2, 1)]).tolist() == [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [0, 2, 4, 1, 3, 5, 6, 7],
        [7, 6, 5, 4, 3, 2, 1, 0],
        [7, 6, 5, 3, 1, 4, 2, 0],
    ]


# Two frames of 2 x 3 pixels:   0 1 2    6  7  8
#                               3 4 5    9 10 11
BY_HAND = {
    "THW": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
    "TWH": [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11],
    "HWT": [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11],
    "WHT": [0, 6, 3, 9, 1, 7, 4, 10, 2, 8, 5, 11],
    "HTW": [0, 1, 2, 6, 7, 8, 3, 4, 5, 9, 10, 11],
    "WTH": [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11],
}
TABLE_VII = {
    2: "THW",
    4: "THW TWH",
    6: "THW TWH HWT",
    8: "THW TWH HWT WHT",
    10: "THW TWH HWT HTW WHT",
    12: "THW TWH HWT WHT HTW WTH",
}


@pytest.mark.parametrize("num_orders", TABLE_VII)
def test_cross_scan_3d_has_the_orders_of_table_vii(num_orders):
    forward = [BY_HAND[name] for name in TABLE_VII[num_orders].split()]
    expected = forward + [row[::-1] for row in forward]
    assert cross_scan_3d(2, [(2, 3)], num_orders).tolist() == expected


def test_cross_scan_3d_of_two_scales():
    # scale 1: two frames of 1 x 2 (0 1 | 2 3); scale 2: two frames of 1 x 1 (4 | 5)
    table = cross_scan_3d(2, [(1, 2), (1, 1)], 8).tolist()
    assert table[:4] == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5], [0, 2, 1, 3, 4, 5], [0, 2, 1, 3, 4, 5]]
    assert table[4:] == [row[::-1] for row in table[:4]]


def test_one_way_and_back():
    assert one_way(4).tolist() == [[0, 1, 2, 3]]
    assert one_way(4, reverse=True).tolist() == [[3, 2, 1, 0]]
    with pytest.raises(ValueError, match="length: expected a positive number, got 0"):
        one_way(0)


def test_v2a_of_one_frame_puts_the_audio_last_in_all_directions():
    order, out = v2a(1, 2, 3)
    assert out == (6, 1)
    assert order.tolist() == [
        [0, 1, 2, 3, 4, 5, 6],
        [0, 3, 1, 4, 2, 5, 6],
        [5, 4, 3, 2, 1, 0, 6],
        [5, 2, 4, 1, 3, 0, 6],
    ]


def test_v2a_puts_the_audio_last_and_reverses_it():
    assert v2a(2, 1, 2)[1] == (4, 2)
    assert v2a(2, 1, 2)[0].tolist() == [
        [0, 1, 2, 3, 4, 5],
        [0, 1, 2, 3, 4, 5],
        [3, 2, 1, 0, 5, 4],
        [3, 2, 1, 0, 5, 4],
    ]
    assert v2a(2, 2, 3)[0][1].tolist() == [*BY_HAND["TWH"], 12, 13]
    assert v2a(2, 2, 3)[0][3].tolist() == [*BY_HAND["TWH"][::-1], 13, 12]


def test_a2v_puts_the_audio_first_and_reverses_it():
    assert a2v(2, 1, 2)[1] == (2, 4)
    assert a2v(2, 1, 2)[0].tolist() == [
        [0, 1, 2, 3, 4, 5],
        [0, 1, 2, 3, 4, 5],
        [1, 0, 5, 4, 3, 2],
        [1, 0, 5, 4, 3, 2],
    ]
    assert a2v(2, 2, 3)[0][1].tolist() == [0, 1] + [2 + i for i in BY_HAND["TWH"]]
    assert a2v(2, 2, 3)[0][3].tolist() == [1, 0] + [2 + i for i in BY_HAND["TWH"][::-1]]


@pytest.mark.parametrize(
    "table",
    [cross_scan_2d([(5, 7), (2, 3)]), *(cross_scan_3d(3, [(4, 5), (2, 3), (1, 1)], n) for n in ORIENTATIONS)]
    + [v2a(1, 4, 5)[0], v2a(3, 4, 5)[0], a2v(3, 4, 5)[0]],
)
def test_every_table_holds_permutations(table):
    assert table.dtype == torch.int32 and table.is_contiguous()
    assert torch.equal(table.sort(dim=1).values, torch.arange(table.shape[1]).int().expand_as(table))


def test_tables_are_cached():
    assert cross_scan_3d(3, [(4, 5)], 8) is cross_scan_3d(3, ((4, 5),), 8)
    assert v2a(3, 4, 5)[0] is v2a(3, 4, 5)[0] is not a2v(3, 4, 5)[0]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: cross_scan_3d(3, [(4, 5)], 7), "num_orders"),
        (lambda: cross_scan_3d(0, [(4, 5)]), "num_frames"),
        (lambda: cross_scan_2d([(4, 0)]), "sizes"),
        (lambda: cross_scan_2d([]), "sizes"),
        (lambda: a2v(0, 1, 1), "num_frames"),
    ],
)
def test_errors_name_the_argument(call, name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        call()
