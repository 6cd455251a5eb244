"""What the benchmarks' numbers rest on: memory, turns, the clock of the parts, bytes, and public code's scan."""

import os
import signal

import part_timer
import pytest
import torch
from common import extra_memory, fresh, spread, take_turns
from outside_scans import mamba_ssm_loop, torch_loop
from scan_shapes import Case, cases, yardstick
from torch import nn

from avsmamba import ops


def sixty_megabytes_for_twenty():
    """A call that needs 60 MB at its peak and gives back 20 of them; before it, 100 MB come and go."""
    torch.ones(25_000_000)

    def run():
        torch.ones(10_000_000)
        return torch.ones(5_000_000) + torch.ones(5_000_000)

    run()  # threads and code pages come first
    return [extra_memory(run)[0] for _ in range(2)]


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def test_memory_is_what_a_call_adds_at_its_peak():
    for grown in fresh(sixty_megabytes_for_twenty):
        assert grown == pytest.approx(60e6, abs=0.6e6)


def test_a_killed_process_is_told():
    with pytest.raises(MemoryError, match="die"):
        fresh(die)


def test_turns_and_spread():
    calls = []

    def runner(name):
        def run():
            calls.append(name)
            return {"all": 1.0, "half": 0.5}

        return run

    times = take_turns({n: runner(n) for n in "ab"}, {"a": 3, "b": 2}, slow="ab")
    assert calls == list("ababa")
    assert times == {"a": {"all": [1.0] * 3, "half": [0.5] * 3}, "b": {"all": [1.0] * 2, "half": [0.5] * 2}}
    assert spread([0.001, 0.003]) == {"median": 2.0, "low": 1.0, "high": 3.0, "runs": 2}
    assert spread([0.001 * i for i in (1, 2, 3, 4, 5)])["high"] < 5


def test_each_part_s_time_is_its_own(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(part_timer.time, "perf_counter", lambda: now[0])

    class Work(torch.autograd.Function):
        @staticmethod
        def forward(ctx, forward, backward, *tensors):
            now[0] += forward
            ctx.backward_time, ctx.count = backward, len(tensors)
            return sum(tensors)

        @staticmethod
        def backward(ctx, dy):
            now[0] += ctx.backward_time
            return None, None, *[dy] * ctx.count

    class Part(nn.Module):
        def __init__(self, forward, backward):
            super().__init__()
            self.weight, self.times = nn.Parameter(torch.ones(2)), (forward, backward)

        def forward(self, maps, audio=None):
            tensors = [*maps, *([] if audio is None else [audio])]
            y = Work.apply(*self.times, *(t * self.weight for t in tensors))
            return [y, y * 3], {"unused": y * 5}

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.audio, self.encoder = Part(1, 2), Part(4, 8), Part(16, 32)
            self.decoder, self.pyramid, self.absent = Part(64, 128), Part(256, 512), None

        def forward(self, x):
            maps, _ = self.backbone([x])
            audio, _ = self.audio([x])
            maps, _ = self.encoder(self.encoder(maps)[0])
            query, _ = self.decoder(maps, audio[0])
            features, _ = self.pyramid(maps, audio[1])
            return Work.apply(1024, 2048, query[0] * features[1])

    model = Model()
    model(torch.ones(2)).sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    clock = part_timer.PartTimer(model, ("backbone", "audio", "encoder", "decoder", "pyramid", "absent", "missing"))
    for _ in range(2):
        clock.reset()
        now[0] = 0.0
        y = clock.time_forward(lambda: model(torch.ones(2)))
        clock.time_backward(y.sum().backward)
        parts = {"backbone": 1, "audio": 4, "encoder": 32, "decoder": 64, "pyramid": 256, "rest": 1024}
        assert clock.forward == parts
        assert clock.backward == {name: 2 * value for name, value in parts.items()}
    model.zero_grad()
    model(torch.ones(2)).sum().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[name])
    with torch.no_grad():
        model(torch.ones(2))


@pytest.mark.parametrize("kind", ["vss", "temporal", "v2a_frame", "v2a_temporal", "a2v"])
def test_public_code_gives_what_ours_gives(kind):
    case = Case(kind, 0, kind, ((3, 2),), 3, channels=4, frames=2)
    tensors = [t.detach() for t in case.inputs()]
    expected = ops.reference_scan(*tensors, case.order, case.out)
    scans = {"torch": torch_loop, "unbound": lambda *a: torch_loop(*a, unbound=True), "mamba_ssm": mamba_ssm_loop()}
    for name, scan in scans.items():
        if scan is not None:
            torch.testing.assert_close(
                scan(*tensors, case.order, case.out), expected, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_bytes_and_updates_of_the_shapes():
    rows = cases(224, 16)
    assert len(rows) == 16 and max(r.length for r in rows) == 15_685
    small = Case("a2v", 0, "a2v", ((3, 2),), 3, channels=4, frames=2)
    x, dt, B, C, *parameters = small.inputs()
    every = [x, dt, B, C, *parameters]
    y = ops.multi_directional_scan(*every, small.order, small.out)
    unread = C[:, :2].nbytes  # the audio tokens' output is not wanted
    forward = sum(t.nbytes for t in every) + small.order.nbytes + y.nbytes - unread
    assert small.input_bytes() == forward - y.nbytes + unread
    assert small.must_move(backward=False) == forward
    assert small.must_move(backward=True) == forward + sum(t.nbytes for t in every)
    assert small.updates == 1 * 14 * 4 * 4 * 3
    yard = yardstick()
    assert (yard.batch, yard.length, yard.directions, yard.channels, yard.states) == (1, 784, 4, 512, 16)
    # 25 borders of 4 x 512 x 16 states; for each thread gradients of x, dt, B, C; of A, D, delta's weight and bias.
    borders, one = 25 * 4 * 512 * 16, 784 * 512 + 784 * 4 * 48 + 4 * 512 * 34
    assert yard.allowed_memory(2, backward=True) == 4 * (borders + 2 * one)
