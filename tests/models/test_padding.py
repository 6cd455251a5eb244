"""Clips padded at their end to a common number of frames: the padding has no effect, forward or backward."""

import pytest
import torch

from avsmamba.models.batch import existing_frames
from avsmamba.utils import UserError
from tests.models.test_segmentor import SEMANTIC, build, sample

AVSS = {"model.head.num_classes": 4, "model.losses": [{"type": "BCELoss"}, {"type": "CrossEntropyLoss"}], **SEMANTIC}
SMALL = {f"model.{part}.num_layers": 1 for part in ("encoder", "decoder")} | {
    f"model.{part}.orders": 2 for part in ("encoder", "pyramid")
}
T, SIZE = 4, (64, 32)


def clips(counts, labelled=None, size=SIZE):
    """Return a batch of clips with these numbers of frames, padded to T with noise, masks of class indices."""
    generator = torch.Generator().manual_seed(1)
    frames = torch.randn(len(counts), T, 3, *size, generator=generator)
    log_mel = torch.randn(len(counts), T, 1, 96, 64, generator=generator)
    samples = []
    for i, count in enumerate(counts):
        s = sample(T, *size)
        s.vid_temporal_mask_flag = torch.arange(T) < count
        s.gt_temporal_mask_flag = torch.arange(T) < (count if labelled is None else labelled[i])
        s.gt_masks = torch.randint(0, 4, (T, *size), generator=generator, dtype=torch.uint8)
        samples.append(s)
    return frames, log_mel, samples


def refilled(frames, log_mel, samples, value):
    """Return the same clips with other values in their padding."""
    frames, log_mel = frames.clone(), log_mel.clone()
    for i, s in enumerate(samples):
        for x in (frames, log_mel):
            x[i, ~s.vid_temporal_mask_flag] = value
        s.gt_masks = torch.where(s.vid_temporal_mask_flag[:, None, None], s.gt_masks, 3)
    return frames, log_mel, samples


def gradients(model, batch):
    model.zero_grad()
    losses = model(*batch, mode="loss")
    sum(losses.values()).backward()
    return losses, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("value", [float("nan"), 1e4])
def test_what_lies_in_the_padding_changes_no_real_frame_and_no_gradient(value):
    """In training mode, batch normalisation included; NaN reaches whatever touches it."""
    first, second = build(SMALL | AVSS), build(SMALL | AVSS)
    second.load_state_dict(first.state_dict())
    batch = clips([2, 4, 2])
    other = refilled(*clips([2, 4, 2]), value)
    before, after = gradients(first, batch), gradients(second, other)
    for a, b in zip(before, after, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert torch.equal(a[name], b[name]), name
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name  # running means and variances
    first.eval()
    with torch.no_grad():
        logits, again = first(*batch), first(*other)
    assert torch.equal(logits, again) and not logits[0, 2:].any() and logits[0, :2].any() and logits[1].any()


def test_a_mixed_batch_equals_clips_alone():
    model = build(SMALL | AVSS).eval()
    counts = [2, 4, 3, 2]
    frames, log_mel, samples = clips(counts)
    with torch.no_grad():
        mixed = model(frames, log_mel, samples)
        predicted = model(frames, log_mel, samples, mode="predict")
        for i, count in enumerate(counts):
            alone = model(frames[i : i + 1, :count], log_mel[i : i + 1, :count])
            torch.testing.assert_close(mixed[i, :count], alone[0], rtol=1e-4, atol=1e-4)
            assert not mixed[i, count:].any()
            labels = predicted[i].pred_labels
            assert labels.shape == (T, *SIZE) and labels.dtype == torch.uint8 and not labels[count:].any()
            whole = torch.nn.functional.interpolate(mixed[i], SIZE, mode="bilinear").argmax(1)
            assert torch.equal(labels, whole.to(torch.uint8)) and torch.equal(predicted[i].frame_labels, labels)


def test_all_frames_exist_or_no_samples_is_the_path_as_ever(monkeypatch):
    model = build(SMALL | AVSS).eval()
    frames, log_mel, samples = clips([T, T])
    with torch.no_grad():
        plain, flagged = model(frames, log_mel), model(frames, log_mel, samples)
        short = model(frames[:, :2], log_mel[:, :2])
        _, _, halves = clips([2, 2])
        padded = model(frames, log_mel, halves)
    assert torch.equal(plain, flagged)
    torch.testing.assert_close(padded[:, :2], short, rtol=1e-4, atol=1e-4)


def test_padded_frames_do_not_supervise_even_if_they_are_flagged_as_labelled():
    model = build(SMALL | AVSS).eval()
    batch = clips([2, 4])
    expected = model(*batch, mode="loss")
    batch[2][0].gt_temporal_mask_flag[:] = True
    got = model(*batch, mode="loss")
    assert set(got) == {"loss_bce", "loss_crossentropy", "aux_loss_bce"}
    assert all(torch.equal(got[name], expected[name]) for name in got)


def test_padded_frames_as_zeros_run_through_the_neck():
    """The authors' reading: zero maps and log-mel for padded frames, which the scans over the clip see."""
    model = build(SMALL | AVSS | {"model.padded_frames": "zeros"}).eval()
    skipping = build(SMALL | AVSS).eval()
    skipping.load_state_dict(model.state_dict())
    batch = clips([2, 4])
    other = refilled(*clips([2, 4]), float("nan"))
    with torch.no_grad():
        found, again, without = model(*batch), model(*other), skipping(*batch)
        maps = [m.unflatten(0, (2, T)) for m in model.backbone(batch[0].flatten(0, 1))]
        for m in maps:
            m[0, 2:] = 0
        log_mel = batch[1].clone()
        log_mel[0, 2:] = 0
        queries, features = model.neck(*model.projection([m.flatten(0, 1) for m in maps], model.audio_encoder(log_mel)))
        expected = model.head(queries[-1], features).logits
    assert torch.equal(found, again) and not found[0, 2:].any()
    torch.testing.assert_close(found[0, :2], expected[0, :2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[0, :2], without[0, :2], rtol=1e-3, atol=1e-3)
    losses = model(*other, mode="loss")
    assert all(torch.isfinite(v) for v in losses.values())
    with pytest.raises(UserError, match=r"model\.padded_frames: expected one of \['skip', 'zeros'\], got 'drop'"):
        build(SMALL | AVSS | {"model.padded_frames": "drop"})


def test_the_loss_of_a_mixed_batch_is_the_mean_over_labelled_frames():
    model = build(SMALL | AVSS).eval()
    frames, log_mel, samples = clips([2, 4], labelled=[1, 4])
    whole = model(frames, log_mel, samples, mode="loss")
    first = model(frames[:1, :2], log_mel[:1, :2], [_cut(samples[0], 2)], mode="loss")
    second = model(frames[1:], log_mel[1:], samples[1:], mode="loss")
    for name in whole:
        torch.testing.assert_close(whole[name], (first[name] + 4 * second[name]) / 5, rtol=1e-4, atol=1e-4)


def _cut(s, count):
    short = sample(count, *SIZE)
    for name in ("gt_masks", "gt_temporal_mask_flag", "vid_temporal_mask_flag"):
        setattr(short, name, s.get(name)[:count])
    return short


@pytest.mark.parametrize("flag", [[1, 0, 1, 0], [0, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1]])
def test_flags_that_are_no_prefix(flag):
    s = sample(T)
    s.vid_temporal_mask_flag = torch.tensor(flag, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"clip 1 of the batch: vid_temporal_mask_flag: expected 4 flags, padding beh"):
        existing_frames([sample(T), s], (2, T))
    s.set_metainfo({"clip": "abc"})
    with pytest.raises(ValueError, match="^abc: vid_temporal_mask_flag"):
        existing_frames([s], (1, T))


def test_counts():
    with pytest.raises(ValueError, match="data_samples: expected 2"):
        existing_frames([sample(T)], (2, T))
    assert existing_frames(None, (2, T)) is None and existing_frames([sample(T)] * 2, (2, T)) is None
    bare = sample(T)
    del bare.vid_temporal_mask_flag
    short = sample(T)
    short.vid_temporal_mask_flag = torch.arange(T) < 3
    assert existing_frames([bare, short], (2, T)) == [4, 3]
