import pytest
import torch
from torchvision import tv_tensors

from avsmamba.config.load import flat_values
from avsmamba.datasets.transforms import (
    CenterCrop,
    PhotometricDistortion,
    RandomFlip,
    RandomResizedCrop,
    RandomSizeCrop,
    Resize,
)
from avsmamba.registry import TRANSFORMS
from tests import ROOT

DATASETS = ROOT / "configs" / "_base_" / "datasets"
T, H, W = 6, 24, 40


def clip(same=False, masks=True):
    """Random frames, or T times the same one; masks mark where the first channel is above 127."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (1 if same else T, 3, 3, 5), generator=generator, dtype=torch.uint8)
    frames = coarse.repeat_interleave(8, 2).repeat_interleave(8, 3).expand(T, 3, H, W).contiguous()
    values = {"frames": tv_tensors.Video(frames)}
    return values | ({"gt_masks": tv_tensors.Mask((frames[:, 0] > 127).byte())} if masks else {})


def varies(frames):
    return any(not torch.equal(frames[0], f) for f in frames[1:])


def size_crop(size=32, consistent=True, prob=1.0, sides=(24, 32, 40), min_crop=16, max_crop=36):
    return RandomSizeCrop(size, prob, sides, min_crop, max_crop, consistent)


RANDOM = [
    RandomFlip,
    lambda consistent: size_crop(consistent=consistent),
    lambda consistent: RandomResizedCrop(32, consistent=consistent),
    lambda consistent: PhotometricDistortion(consistent=consistent),
]


@pytest.mark.parametrize("make", RANDOM)
def test_one_draw_for_the_clip_or_one_for_each_frame(make):
    consistent, single = make(consistent=True), make(consistent=False)
    varied = drawn = 0
    for seed in range(12):
        torch.manual_seed(seed)
        result = consistent(clip(same=True))
        assert not varies(result["frames"]) and not varies(result["gt_masks"])
        drawn += not torch.equal(result["frames"], clip(same=True)["frames"])
        result = single(clip(same=True))
        varied += varies(result["frames"])
        assert isinstance(result["frames"], tv_tensors.Video) and isinstance(result["gt_masks"], tv_tensors.Mask)
    assert drawn >= 3 and varied >= 8


@pytest.mark.parametrize("consistent", [True, False])
def test_masks_stay_on_their_objects(consistent):
    flip = RandomFlip(0.5, consistent)
    crops = RandomResizedCrop([32, 48], consistent=consistent), size_crop([32, 48], consistent)
    for seed in range(8):
        torch.manual_seed(seed)
        result = flip(clip())
        assert torch.equal(result["gt_masks"], result["frames"][:, 0] > 127)
        for crop in crops:
            result = crop(clip())
            assert result["frames"].shape == (T, 3, 32, 48) and result["gt_masks"].shape == (T, 32, 48)
            assert set(result["gt_masks"].unique().tolist()) <= {0, 1}
            agree = (result["gt_masks"] == (result["frames"][:, 0] > 127)).float().mean((1, 2))
            assert (agree > 0.85).all()  # frames are smoothed at the edges, masks are not


def test_flip_mirrors_left_and_right():
    result = RandomFlip(1.0)(clip())
    assert torch.equal(result["frames"], clip()["frames"].flip(-1))
    assert torch.equal(result["gt_masks"], clip()["gt_masks"].flip(-1))
    assert torch.equal(RandomFlip(0.0)(clip())["frames"], clip()["frames"])


def test_distortion_leaves_masks_and_changes_colours_within_bounds():
    torch.manual_seed(0)
    result = PhotometricDistortion(prob=1.0)(clip())
    assert torch.equal(result["gt_masks"], clip()["gt_masks"])
    assert result["frames"].dtype == torch.uint8 and not torch.equal(result["frames"], clip()["frames"])
    untouched = PhotometricDistortion(0, 0, 0, 0, channel_permutation_prob=0)(clip())
    assert torch.equal(untouched["frames"], clip()["frames"])
    flat = {"frames": tv_tensors.Video(torch.full((2, 3, 4, 4), 100, dtype=torch.uint8))}
    for seed in range(20):
        torch.manual_seed(seed)
        brighter = PhotometricDistortion(0.2, 0, 0, 0, prob=1.0)(flat)["frames"]
        assert brighter.min() >= 79 and brighter.max() <= 120


def test_resize_takes_one_number_for_both_sides():
    assert Resize(32)(clip())["frames"].shape == (T, 3, 32, 32)
    result = Resize([12, 20])(clip(masks=False))
    assert result.keys() == {"frames"} and result["frames"].shape == (T, 3, 12, 20)
    same = Resize([H, W])(clip())
    assert torch.equal(same["frames"], clip()["frames"]) and torch.equal(same["gt_masks"], clip()["gt_masks"])
    for size in (0, [1, 2, 3], []):
        with pytest.raises(ValueError, match="size: expected"):
            Resize(size)


def test_resize_of_the_shorter_side_and_centre_crop():
    assert Resize(12, shorter_side=True)(clip())["frames"].shape == (T, 3, 12, 20)
    tall = {"frames": tv_tensors.Video(torch.zeros(1, 3, 40, 24, dtype=torch.uint8))}
    assert Resize(12, shorter_side=True)(tall)["frames"].shape == (1, 3, 20, 12)
    with pytest.raises(ValueError, match="size: expected one number of pixels with shorter_side"):
        Resize([12, 20], shorter_side=True)
    result = CenterCrop(20)(clip())
    assert torch.equal(result["frames"], clip()["frames"][..., 2:22, 10:30])
    assert torch.equal(result["gt_masks"], clip()["gt_masks"][..., 2:22, 10:30])
    result = CenterCrop([32, 40])(clip())
    assert torch.equal(result["frames"][..., 4:28, :], clip()["frames"])
    assert not result["frames"][..., :4, :].any() and not result["gt_masks"][..., 28:, :].any()


def test_size_crop_cuts_parts_of_the_sizes_that_it_names():
    crop = size_crop(sides=(48,), min_crop=20, max_crop=30)
    sizes = set()
    for seed in range(200):
        torch.manual_seed(seed)
        frames = crop.crop(clip(same=True))["frames"]
        sizes |= {tuple(frames.shape[-2:])}
    for values in zip(*sizes, strict=True):
        assert (min(values), max(values)) == (20, 30)
    shorter = {crop.crop(clip())["frames"].shape[-2:] for crop in [size_crop(min_crop=99, max_crop=99)] * 40}
    assert shorter == {(24, 40), (32, 53), (40, 66)}  # of 24 x 40, a side below min_crop is kept whole


def test_size_crop_is_a_resize_as_often_as_it_says():
    whole = Resize(32)(clip())
    for prob, least, most in ((0.0, 60, 60), (0.5, 20, 40), (1.0, 0, 0)):
        same = 0
        for seed in range(60):
            torch.manual_seed(seed)
            result = size_crop(prob=prob)(clip())
            same += torch.equal(result["frames"], whole["frames"]) and torch.equal(
                result["gt_masks"], whole["gt_masks"]
            )
        assert least <= same <= most


@pytest.mark.parametrize(
    "fault, text",
    [({"prob": 1.5}, "prob: "), ({"sides": ()}, "sides: "), ({"min_crop": 40}, "min_crop, max_crop: ")],
)
def test_size_crop_refuses(fault, text):
    with pytest.raises(ValueError, match=f"{text}expected"):
        size_crop(**fault)


def test_channels_change_places():
    frames = torch.arange(3, dtype=torch.uint8).mul(50).view(1, 3, 1, 1).expand(T, 3, 4, 4).contiguous()
    colours = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0)
    seen = {}
    for consistent in (True, False):
        permute = PhotometricDistortion(**colours, channel_permutation_prob=0.5, consistent=consistent)
        torch.manual_seed(0)
        results = [permute({"frames": tv_tensors.Video(frames)})["frames"] for _ in range(100)]
        assert {tuple(sorted(f.tolist())) for r in results for f in r[:, :, 0, 0]} == {(0, 50, 100)}
        seen[consistent] = [tuple(r[0, :, 0, 0].tolist()) for r in results]
        assert any(varies(r) for r in results) != consistent
    for orders in seen.values():
        assert len(set(orders)) == 6 and 45 <= orders.count((0, 50, 100)) <= 70  # half, and a sixth of the rest


def test_without_permutation_no_number_is_drawn_for_it():
    after = []
    for prob in (0.0, 1e-9):
        torch.manual_seed(0)
        PhotometricDistortion(channel_permutation_prob=prob)(clip())
        after.append(torch.rand(()))
    torch.manual_seed(0)
    PhotometricDistortion(channel_permutation_prob=0.0)(clip())
    assert torch.rand(()) == after[0] != after[1]


@pytest.mark.parametrize("config", sorted(DATASETS.glob("avsbench_*.yaml")), ids=lambda p: p.stem)
def test_the_authors_pipelines(config):
    """Frames have draws of their own, one size in the end, and what is labelled changes no draw."""
    loaders = flat_values(config)
    pipeline = [TRANSFORMS.build(t) for t in loaders["train_dataloader"]["dataset"]["pipeline"]]
    size = 224

    def run(values):
        torch.manual_seed(1)
        for transform in pipeline:
            values = transform(values)
        return values

    result = run(clip(same=True))
    assert result["frames"].shape == (T, 3, size, size) and result["gt_masks"].shape == (T, size, size)
    assert varies(result["frames"])
    other = run(clip(same=True) | {"gt_masks": tv_tensors.Mask(torch.zeros(T, H, W, dtype=torch.uint8))})
    assert torch.equal(other["frames"], result["frames"]) and not other["gt_masks"].any()


def test_frames_alone():
    for make in RANDOM:
        for consistent in (True, False):
            assert make(consistent=consistent)(clip(masks=False)).keys() == {"frames"}


def test_all_are_registered():
    for config in (
        {"type": "Resize", "size": 8},
        {"type": "RandomFlip", "prob": 1, "consistent": False},
        {"type": "RandomResizedCrop", "size": [8, 16], "scale": [0.5, 1.0], "ratio": [1, 1]},
        {"type": "PhotometricDistortion", "hue": 0.1},
        {"type": "RandomSizeCrop", "size": 8, "sides": [24], "min_crop": 4, "max_crop": 9},
        {"type": "CenterCrop", "size": 8},
    ):
        assert TRANSFORMS.build(config)(clip())["frames"].dtype == torch.uint8
