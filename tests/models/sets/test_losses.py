"""Matching and losses of sets against brute force over permutations, in float64 and without sampled points."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from avsmamba.models.sets import HungarianMatcher, SetLoss
from avsmamba.models.sets.matcher import assign
from avsmamba.models.sets.points import sample, uncertain_points
from avsmamba.models.sets.targets import frame_targets

GRID = {"num_points": None, "matcher": {"type": "HungarianMatcher", "num_points": None}}
SIZE = (8, 6)


def layers(num_classes, queries=4, count=2, shape=(2, 2), size=(4, 3)):
    """Class and mask logits of `count` layers in float64."""
    return [
        (
            torch.randn(*shape, queries, num_classes + 1, dtype=torch.float64),
            3 * torch.randn(*shape, queries, *size, dtype=torch.float64),
        )
        for _ in range(count)
    ]


def labels(num_classes, clips=2, frames=2, size=SIZE):
    return [torch.randint(0, max(2, num_classes), (frames, *size), dtype=torch.uint8) for _ in range(clips)]


def frame_sets(masks, labelled, num_classes, background):
    """Targets of each labelled frame: pairs of class and mask."""
    for mask, places in zip(masks, labelled, strict=True):
        for frame in mask[list(places)]:
            if num_classes == 1:
                yield [(0, frame > 0)] if frame.any() else []
            else:
                yield [(c, frame == c) for c in frame.unique().tolist() if c or background]


def pair_losses(logits, truth, smooth=1.0):
    """BCE, dice and focal loss of one mask, pixel by pixel."""
    bce = focal = overlap = sizes = 0.0
    for x, g in zip(logits.flatten(), truth.flatten().tolist(), strict=True):
        p = 1 / (1 + torch.exp(-x))
        value = -torch.log(p) if g else -torch.log(1 - p)
        bce = bce + value
        focal = focal + (0.25 * (1 - p) ** 2 if g else 0.75 * p**2) * value
        overlap, sizes = overlap + 2 * p * g, sizes + p + g
    return bce / truth.numel(), 1 - (overlap + smooth) / (sizes + smooth), focal / truth.numel()


def reference(sets, masks, labelled, num_classes, background=True):
    """Losses (class, mask, dice, focal) of one layer, by trying every assignment."""
    places = [(b, t) for b, frames in enumerate(labelled) for t in frames]
    weighted = weights = bce = dice = focal = 0.0
    total = 0
    for (b, t), targets in zip(places, frame_sets(masks, labelled, num_classes, background), strict=True):
        logits = F.interpolate(sets[1][b, t][None], size=SIZE, mode="bilinear")[0]
        probability = sets[0][b, t].softmax(-1)
        pairs = {(q, n): pair_losses(logits[q], m) for q in range(len(logits)) for n, (_, m) in enumerate(targets)}
        cost = {
            (q, n): float(-2 * probability[q, targets[n][0]] + 5 * value[0] + 5 * value[1])
            for (q, n), value in pairs.items()
        }
        best = min(
            itertools.permutations(range(len(logits)), len(targets)),
            key=lambda queries: sum(cost[q, n] for n, q in enumerate(queries)),
        )
        classes = [num_classes] * len(logits)
        for n, q in enumerate(best):
            classes[q] = targets[n][0]
            bce, dice, focal = (a + b for a, b in zip((bce, dice, focal), pairs[q, n], strict=True))
        total += len(targets)
        for q, c in enumerate(classes):
            weight = 0.1 if c == num_classes else 1.0
            weighted, weights = weighted - weight * torch.log(probability[q, c]), weights + weight
    return weighted / weights, bce / max(1, total), dice / max(1, total), focal / max(1, total)


@pytest.mark.parametrize("num_classes, background", [(1, True), (3, True), (3, False)])
@pytest.mark.parametrize("labelled", [[[0, 1], [0, 1]], [[0], [0]], [[1], []]], ids=["all", "first", "one clip"])
def test_losses_equal_brute_force(num_classes, background, labelled):
    found = layers(num_classes)
    masks = labels(num_classes)
    masks[0][1] = 0
    loss = SetLoss(focal_weight=1.0, background=background, **GRID)
    values = loss(found, masks, labelled, SIZE)
    assert len(values) == len(found)
    for value, sets in zip(values, found, strict=True):
        expected = reference(sets, masks, labelled, num_classes, background)
        for name, weight, one in zip(("class", "mask", "dice", "focal"), (2, 5, 5, 1), expected, strict=True):
            wanted = weight * torch.as_tensor(one, dtype=torch.float64)
            torch.testing.assert_close(value[f"loss_set_{name}"], wanted, rtol=1e-5, atol=1e-6, msg=name)


def test_gradients_equal_finite_differences():
    masks = labels(3, clips=1)
    ((classes, logits),) = layers(3, count=1, shape=(1, 2))
    loss = SetLoss(focal_weight=1.0, **GRID)

    def run(c, m):
        return tuple(loss([(c, m)], masks, [[0, 1]], SIZE)[0].values())

    assert torch.autograd.gradcheck(run, (classes.requires_grad_(), logits.requires_grad_()))


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 2**31), st.sampled_from([1, 3]), st.integers(1, 6))
def test_order_does_not_matter(random, seed, num_classes, queries):
    """The same losses for any order of the queries, of the clips and, with the logits, of the classes."""
    torch.manual_seed(seed)
    found, masks = layers(num_classes, queries), labels(num_classes)
    loss = SetLoss(**GRID)
    expected = loss(found, masks, [[0, 1], [1]], SIZE)
    order = random.sample(range(queries), queries)
    classes = random.sample(range(num_classes), num_classes)
    moved = [(c[..., [*classes, num_classes]][:, :, order].flip(0), m[:, :, order].flip(0)) for c, m in found]
    if num_classes > 1:
        renamed = torch.tensor([classes.index(c) for c in range(num_classes)], dtype=torch.uint8)
        masks = [renamed[m.long()] for m in masks]
    values = loss(moved, masks[::-1], [[1], [0, 1]], SIZE)
    for a, b in zip(values, expected, strict=True):
        for name in b:
            torch.testing.assert_close(a[name], b[name])


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 5), st.integers(0, 4), st.integers(0, 2**31))
def test_assignment_is_the_cheapest(random, queries, count, seed):
    torch.manual_seed(seed)
    costs = torch.randn(1, 1, queries, count, dtype=torch.float64)
    match = assign(costs, [count])
    assert match.counts == [min(queries, count)]
    assert len(set(match.query.tolist())) == len(set(match.target.tolist())) == match.counts[0]
    small, large = sorted((queries, count))
    table = costs[0, 0] if count == small else costs[0, 0].T
    best = min(sum(table[p[i], i] for i in range(small)) for p in itertools.permutations(range(large), small))
    torch.testing.assert_close(costs[0, 0, match.query, match.target].sum(), torch.as_tensor(best).double())
    order = random.sample(range(count), count)
    moved = assign(costs[..., order], [count])
    assert sorted(zip(moved.query.tolist(), (order[n] for n in moved.target.tolist()), strict=True)) == sorted(
        zip(match.query.tolist(), match.target.tolist(), strict=True)
    )


def test_silence_teaches_no_object_alone():
    ((classes, logits),) = layers(1, count=1)
    logits.requires_grad_()
    (value,) = SetLoss(**GRID)([(classes, logits)], [torch.zeros(2, *SIZE, dtype=torch.uint8)] * 2, [[0, 1]] * 2, SIZE)
    assert value["loss_set_mask"] == value["loss_set_dice"] == 0
    torch.testing.assert_close(value["loss_set_class"], -2 * classes.log_softmax(-1)[..., 1].mean())
    assert not torch.autograd.grad(value["loss_set_mask"], logits)[0].any()


def test_a_batch_without_labels_keeps_the_graph():
    found = [(c.requires_grad_(), m.requires_grad_()) for c, m in layers(3)]
    values = SetLoss()(found, labels(3), [[], []], SIZE)
    assert all(v == 0 for value in values for v in value.values())
    for gradient in torch.autograd.grad(sum(v for value in values for v in value.values()), sum(found, ())):
        assert not gradient.any()


@pytest.mark.parametrize("options", [{}, GRID], ids=["points", "grid"])
def test_unlabelled_frames_get_no_gradient(options):
    found = [(c.requires_grad_(), m.requires_grad_()) for c, m in layers(1)]
    masks = labels(1)
    loss = SetLoss(**options)
    total = sum(v for value in loss(found, masks, [[0], [0]], SIZE) for v in value.values())
    for gradient in torch.autograd.grad(total, sum(found, ())):
        assert gradient[:, 0].any() and not gradient[:, 1].any()


@pytest.mark.parametrize("options", [{}, GRID], ids=["points", "grid"])
def test_padding_is_not_read(options):
    """Labels of 4 x 3 pixels in frames of 8 x 6: nothing further right or below counts."""
    ((classes, logits),) = layers(2, count=1, size=SIZE)
    logits[..., 5:, :] = logits[..., :, 4:] = float("nan")
    masks = [labels(2, 1, size=(4, 3))[0], labels(2, 1, size=(4, 2))[0]]
    (value,) = SetLoss(**options)([(classes, logits)], masks, [[0, 1]] * 2, SIZE)
    assert all(v.isfinite() for v in value.values())
    if options:
        cut = [(classes, logits[..., :5, :4])]
        with_less = SetLoss(**options)(cut, masks, [[0, 1]] * 2, (5, 4))
        for name in value:
            torch.testing.assert_close(value[name], with_less[0][name], rtol=1e-5, atol=1e-6)


def test_more_targets_than_queries():
    found = layers(5, queries=2)
    masks = [m % 5 for m in labels(5)]
    for value in SetLoss(**GRID)(found, masks, [[0, 1]] * 2, SIZE):
        assert all(v.isfinite() for v in value.values())


def test_a_model_that_diverged_has_a_loss_of_nan():
    found = [(c * float("nan"), m) for c, m in layers(3)]
    assert all(value["loss_set_class"].isnan() for value in SetLoss()(found, labels(3), [[0, 1]] * 2, SIZE))


def test_class_indices_are_checked():
    with pytest.raises(ValueError, match="gt_masks: class index 4, but the model has 3 classes"):
        SetLoss()(layers(3), [m + 3 for m in labels(1)], [[0, 1]] * 2, SIZE)


def test_random_points_give_nearly_the_losses_of_all_pixels():
    found, masks = layers(1, queries=1, count=1), labels(1)  # one query: no choice between matchings of nearly one cost
    options = {"num_points": 20_000, "importance": 0.0, "matcher": {"type": "HungarianMatcher", "num_points": 20_000}}
    sampled = SetLoss(**options)(found, masks, [[0, 1]] * 2, SIZE)[0]
    grid = [
        (c, F.interpolate(m.flatten(0, 1), scale_factor=20, mode="bilinear").unflatten(0, (2, 2))) for c, m in found
    ]
    fine = [m.repeat_interleave(10, 1).repeat_interleave(10, 2) for m in masks]
    expected = SetLoss(**GRID)(grid, fine, [[0, 1]] * 2, (80, 60))[0]
    for name in expected:
        torch.testing.assert_close(sampled[name], expected[name], rtol=0.03, atol=0.0)


def test_uncertain_points():
    logits, extent = torch.linspace(-4, 4, 64).expand(3, 64, 64), torch.tensor([[1.0, 1.0], [0.5, 1.0], [1.0, 0.25]])
    points = uncertain_points(logits, extent, 200, oversample=3.0, importance=0.75)
    assert points.shape == (3, 200, 2) and points.min() >= 0 and points.max() < 1
    values = sample(logits.unsqueeze(1), points * extent.unsqueeze(1)).squeeze(1).abs()
    assert values[:, :150].mean(1).lt(0.6 * values[:, 150:].mean(1)).all()
    assert values[0, :150].max() < 1.5 and values[1, :150].max() < 1.5
    assert uncertain_points(logits, extent, 7, 1.0, 0.0).shape == (3, 7, 2)
    few = uncertain_points(logits, extent, 200, 3.0, 0.75, limit=1)
    assert sample(logits.unsqueeze(1), few * extent.unsqueeze(1)).abs()[0, 0, :150].max() < 1.5


def test_samples_are_bilinear_and_stop_at_the_edge():
    image = torch.randn(1, 2, 3, 5, dtype=torch.float64)
    points = torch.tensor([[[0.5 / 5, 0.5 / 3], [1 / 5, 0.5 / 3], [0.0, 0.0], [1.0, 1.0]]])
    found = sample(image, points)[0]
    wanted = [image[0, :, 0, 0], image[0, :, 0, :2].mean(1), image[0, :, 0, 0], image[0, :, 2, 4]]
    torch.testing.assert_close(found, torch.stack(wanted, 1), rtol=1e-5, atol=1e-6)


def test_targets_of_one_and_of_several_classes():
    masks = [torch.tensor([[[0, 2], [0, 2]], [[0, 0], [0, 0]]], dtype=torch.uint8), torch.ones(2, 1, 2).byte()]
    one = frame_targets(masks, [[0, 1], [0]], (2, 2), 1, background=True)
    assert one.counts == [1, 0, 1] and one.classes.tolist() == [[0], [0], [0]]
    several = frame_targets(masks, [[0, 1], [0]], (2, 4), 3, background=True)
    assert several.counts == [2, 1, 1] and several.classes.tolist() == [[0, 2], [0, 0], [1, 0]]
    assert several.extent.tolist() == [[0.5, 1.0], [0.5, 1.0], [0.5, 0.5]]
    assert frame_targets(masks, [[0, 1], [0]], (2, 4), 3, background=False).counts == [1, 0, 1]
    centres = torch.tensor([[[0.25, 0.25], [0.75, 0.25], [0.25, 0.99], [0.99, 0.99]]]).expand(3, -1, -1)
    assert several.labels_at(torch.arange(3), centres).tolist() == [[0, 2, 0, 2], [0, 0, 0, 0], [1, 1, 1, 1]]


def test_connected_regions_are_targets():
    """Diagonal neighbours are one region; the padding of a smaller frame belongs to none."""
    mask = torch.tensor([[[2, 0, 0, 2], [0, 2, 0, 2], [0, 0, 0, 0]], [[0] * 4] * 3], dtype=torch.uint8)
    small = torch.tensor([[[1, 0, 2]]], dtype=torch.uint8)
    one = frame_targets([mask, small], [[0, 1], [0]], (3, 4), 1, background=True, components=True)
    assert one.counts == [2, 0, 2] and one.values.tolist() == [[1, 2], [-1, -1], [1, 2]]
    assert one.classes.tolist() == [[0, 0]] * 3
    assert one.labels[0].tolist() == [[1, 0, 0, 2], [0, 1, 0, 2], [0, 0, 0, 0]] and not one.labels[1].any()
    assert one.labels[2].tolist() == [[1, 0, 2, 0], [0] * 4, [0] * 4]
    several = frame_targets([mask, small], [[0], [0]], (3, 4), 3, background=True, components=True)
    assert several.counts == [3, 3] and several.classes.tolist() == [[0, 2, 2], [0, 1, 2]]
    assert several.values.tolist() == [[1, 2, 3], [1, 2, 3]]
    assert frame_targets([mask], [[0]], (3, 4), 3, False, components=True).classes.tolist() == [[2, 2]]


def test_a_query_for_each_region_costs_nothing():
    """Two regions, each marked by a query; with all pixels as one target the same sets are wrong."""
    mask = torch.zeros(1, 8, 8, dtype=torch.uint8)
    mask[0, 1:4, 1:4] = mask[0, 5:, 4:] = 1
    halves = torch.stack([mask[0] * (torch.arange(8) < 4)[:, None], mask[0] * (torch.arange(8) >= 4)[:, None]])
    masks = torch.cat([halves, torch.zeros(1, 8, 8)]).sub(0.5).mul(60).view(1, 1, 3, 8, 8)
    classes = 30 * torch.tensor([[[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]]])
    regions, whole = (
        sum(SetLoss(num_points=None, components=on)([(classes, masks)], [mask], [[0]], (8, 8))[0].values()).item()
        for on in (True, False)
    )
    assert regions < 1e-6 and whole > 1


@pytest.mark.parametrize("num_classes", [1, 5])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_fake_tensors_have_targets_and_matches(num_classes, device):
    """A dry run on an imagined GPU passes through all of the loss."""
    with FakeTensorMode():
        found = [
            tuple(torch.empty(2, 3, 4, *end, device=device, requires_grad=True) for end in ((num_classes + 1,), (8, 8)))
        ]
        masks = [torch.empty(3, 16, 16, dtype=torch.uint8, device=device) for _ in range(2)]
        (value,) = SetLoss(num_points=64, components=device == "cpu")(found, masks, [[0, 2], [0, 1, 2]], (16, 16))
        assert {v.device.type for v in value.values()} == {device}
        assert all(v.requires_grad for v in value.values())


def test_matcher_alone():
    """With the class alone as cost, the queries of the greatest probabilities are taken."""
    masks = [torch.tensor([[[0, 1], [2, 2]]], dtype=torch.uint8)]
    targets = frame_targets(masks, [[0]], (2, 2), 3, background=True)
    logits = 9.0 * torch.eye(4)[[3, 2, 0, 1]].unsqueeze(0)
    matcher = HungarianMatcher(mask_weight=0.0, dice_weight=0.0, num_points=5)
    match = matcher([(logits, torch.randn(1, 4, 2, 2))], targets)
    assert sorted(zip(match.query.tolist(), match.target.tolist(), strict=True)) == [(1, 2), (2, 0), (3, 1)]
