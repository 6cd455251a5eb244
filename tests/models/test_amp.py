"""bfloat16 inference scores as float32 does: a small model, trained for some steps so that its masks mean something."""

import pytest
import torch
from torch import nn

from avsmamba.evaluation.scores import clip_scores, frame_protocol
from avsmamba.models.layers.conv import CausalConv1d, DepthwiseConv3d
from avsmamba.models.layers.ssm import MultiDirectionalSSM
from tests.models.test_compile import SMALL
from tests.models.test_segmentor import build, sample

HEIGHT, WIDTH, SIDE = 32, 64, 14


def clips(count, seed):
    """Return two squares a frame, a red one on the left and a green one on the right; the sound's pitch selects one."""
    g = torch.Generator().manual_seed(seed)
    frames = torch.randn(count, 2, 3, HEIGHT, WIDTH, generator=g) * 0.3
    log_mel = torch.randn(count, 2, 1, 96, 64, generator=g) * 0.3
    samples = [sample(2, HEIGHT, WIDTH) for _ in range(count)]
    for clip, s in enumerate(samples):
        s.gt_masks.zero_()
        for t, sounding in enumerate(torch.randint(0, 2, (2,), generator=g).tolist()):
            log_mel[clip, t, 0, 48 * sounding :][:48] += 2
            for colour in (0, 1):
                y = int(torch.randint(0, HEIGHT - SIDE, (), generator=g))
                x = int(torch.randint(0, WIDTH // 2 - SIDE, (), generator=g)) + colour * WIDTH // 2
                square = (slice(y, y + SIDE), slice(x, x + SIDE))
                frames[clip, t, colour][square] += 2
                if colour == sounding:
                    s.gt_masks[t][square] = 1
    return frames, log_mel, samples


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    model = build(SMALL)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for step in range(40):
        optimizer.zero_grad()
        sum(model(*clips(2, step), mode="loss").values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


@torch.no_grad()
def predicted(model, low):
    """Return logits of all clips and M_J."""
    frames, log_mel, samples = clips(8, 999)
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        samples = model(frames, log_mel, samples, mode="predict")
    scored = [clip_scores(s.pred_logits[:, 0], s.gt_masks, s.gt_temporal_mask_flag) for s in samples]
    return torch.stack([s.pred_logits for s in samples]), frame_protocol(scored)[0]


def test_bfloat16_keeps_the_score(trained):
    logits, score = predicted(trained, False)
    low_logits, low_score = predicted(trained, True)
    assert score > 0.6, "the model has not learned: nothing is compared"
    assert abs(low_score - score) < 0.005
    assert logits.dtype == low_logits.dtype == torch.float32
    assert 0 < (low_logits - logits).norm() < 0.02 * logits.norm()
    assert ((low_logits > 0) == (logits > 0)).float().mean() > 0.998


def first(y):
    return y if isinstance(y, torch.Tensor) else y[0]


def test_no_layer_falls_back_to_float32(trained):
    """Of a MultiDirectionalSSM delta is looked at; A, D and the weights of delta stay float32."""
    dtypes = {}
    hooks = [
        module.register_forward_hook(lambda module, args, y: dtypes.setdefault(type(module), set()).add(first(y).dtype))
        for module in trained.modules()
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.LayerNorm, CausalConv1d, DepthwiseConv3d, MultiDirectionalSSM))
    ]
    predicted(trained, True)
    for hook in hooks:
        hook.remove()
    assert len(dtypes) >= 6 and set().union(*dtypes.values()) == {torch.bfloat16}
