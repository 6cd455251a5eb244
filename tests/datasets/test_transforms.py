import pytest
import torch
from torchvision import tv_tensors

from avsmamba.datasets.transforms import PhotometricDistortion, RandomFlip, RandomResizedCrop, Resize
from avsmamba.registry import TRANSFORMS

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


RANDOM = [
    RandomFlip,
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
    flip, crop = RandomFlip(0.5, consistent), RandomResizedCrop([32, 48], consistent=consistent)
    for seed in range(8):
        torch.manual_seed(seed)
        result = flip(clip())
        assert torch.equal(result["gt_masks"], result["frames"][:, 0] > 127)
        result = crop(clip())
        assert result["frames"].shape == (T, 3, 32, 48) and result["gt_masks"].shape == (T, 32, 48)
        assert set(result["gt_masks"].unique().tolist()) <= {0, 1}
        agree = (result["gt_masks"] == (result["frames"][:, 0] > 127)).float().mean()
        assert agree > 0.9  # frames are smoothed at the edges, masks are not


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
    untouched = PhotometricDistortion(brightness=0, contrast=0, saturation=0, hue=0)(clip())
    assert torch.equal(untouched["frames"], clip()["frames"])
    flat = {"frames": tv_tensors.Video(torch.full((2, 3, 4, 4), 100, dtype=torch.uint8))}
    for seed in range(20):
        torch.manual_seed(seed)
        brighter = PhotometricDistortion(brightness=0.2, contrast=0, saturation=0, hue=0, prob=1.0)(flat)["frames"]
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
    ):
        assert TRANSFORMS.build(config)(clip())["frames"].dtype == torch.uint8
