"""Every full-size config takes a training step on an imagined GPU; what would stall a real one raises."""

import json
import logging
from io import StringIO

import pytest
import torch
from mmengine.logging import MMLogger
from torch import nn

from avsmamba.config.load import load_config
from avsmamba.engine.dry_run import CUDA, PeakMemory, batch_shape, dry_run, run_backward
from avsmamba.models import AudioQueryHead
from avsmamba.reports.paper_tables import ABLATIONS, Ablations
from avsmamba.reports.zoo import config_files
from avsmamba.utils import UserError
from tests import ROOT

CONFIGS = ROOT / "configs"
TINY = CONFIGS / "avs_mamba" / "avs_mamba_tiny_ms3_shapes.yaml"


def full_size():
    """Return one config of each model, losses and frames; only one of those that differ in size or data.

    `tools/zoo.py --memory` runs every config. The second value says whether the model has parts, or a backbone, that no
    model before it has: those take a step in mixed precision too.
    """
    found, seen = {}, set()
    names = [path.relative_to(CONFIGS).as_posix() for path in config_files(CONFIGS)]
    names += [f"{ABLATIONS}#{name}" for name in Ablations(CONFIGS).variants.names()]
    for name in [name for name in names if "tiny" not in name]:
        cfg = load_config(CONFIGS / name)
        model = cfg.model.to_dict()
        key = json.dumps([model, batch_shape(cfg)[1]], sort_keys=True)
        if key not in found:
            backbone = json.dumps(model.pop("backbone"), sort_keys=True)
            new = {backbone, str(types(model))} - seen
            found[key] = (name, bool(new))
            seen |= new
    return list(found.values())


def types(part):
    """Return the types of a model's parts, in their places."""
    if isinstance(part, dict):
        return [part.get("type"), *((k, types(v)) for k, v in sorted(part.items()) if isinstance(v, dict | list))]
    return [types(v) for v in part] if isinstance(part, list) else None


@pytest.fixture(autouse=True)
def usual_algorithms(poisoned_memory):
    """Deterministic algorithms, which fill memory with NaN, keep more for the backward pass than a training does."""
    torch.use_deterministic_algorithms(False)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mixed"), full_size())
def test_every_full_size_config_takes_a_step_on_an_imagined_gpu(name, mixed):
    estimates = json.loads((ROOT / "docs" / "zoo_memory.json").read_text())
    single = dry_run(load_config(CONFIGS / name))
    assert single.losses
    # torch's releases differ in what an operation keeps for its backward pass.
    if estimate := estimates.get(name.removesuffix(".yaml")):
        assert single.peak_bytes == pytest.approx(estimate, rel=0.1), "run python tools/zoo.py --memory --write"
    if mixed:
        found = dry_run(load_config(CONFIGS / name), amp=True, optimizer=False)
        assert found.losses == single.losses and found.peak_bytes < single.peak_bytes


@pytest.mark.parametrize("amp", [False, True])
def test_a_small_config_takes_a_step(amp):
    found = dry_run(load_config(TINY), amp)
    assert found.losses == ["loss_dice", "aux_loss_bce"] and found.peak_bytes > 20e6


def test_mmengine_writes_no_line_for_each_parameter():
    cfg = load_config(TINY)
    cfg.optim_wrapper.paramwise_cfg = {"custom_keys": {"backbone": {"lr_mult": 0.1}}}
    logger, lines = MMLogger.get_current_instance(), StringIO()
    handler = logging.StreamHandler(lines)
    handler.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        dry_run(cfg)
    finally:
        logger.removeHandler(handler)
    assert not lines.getvalue()


def ask_for_a_number(query):
    """Read a value, which makes a GPU wait for the CPU."""
    return query + 1 if query.sum() > 0 else query


def mix_devices(query):
    return query * torch.ones(query.shape[-1], device="cpu")


@pytest.mark.parametrize(
    ("change", "message"), [(ask_for_a_number, "_local_scalar_dense|data-dependent"), (mix_devices, "device")]
)
def test_what_would_stall_or_stop_a_gpu_raises(change, message, monkeypatch):
    forward = AudioQueryHead.forward
    monkeypatch.setattr(AudioQueryHead, "forward", lambda head, query, features: forward(head, change(query), features))
    with pytest.raises(RuntimeError, match=message):
        dry_run(load_config(TINY))


def test_a_config_without_training_is_refused():
    cfg = load_config(TINY)
    cfg.train_dataloader = None
    with pytest.raises(UserError, match="has no train_dataloader"):
        dry_run(cfg)


def test_the_backward_pass_node_by_node_gives_autograd_s_gradients(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr("avsmamba.engine.dry_run.CUDA", torch.device("cpu"))
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 4))
    x = torch.randn(5, 3)

    def loss():
        first = model(x)
        return (first * model(first[:, :3]).sigmoid()[:, :1] + model[0].bias).square().mean()

    expected = torch.autograd.grad(loss(), list(model.parameters()))
    run_backward([loss().grad_fn])
    for parameter, wanted in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, wanted)


def test_the_backward_pass_frees_what_was_kept_for_it():
    """Ten layers keep ten maps; each is freed when its layer is done, and one gradient is on the way at a time."""
    with torch._subclasses.FakeTensorMode(), PeakMemory() as memory:
        weights = [torch.empty(100, 100, device=CUDA, requires_grad=True) for _ in range(10)]
        x = torch.empty(10_000, 100, device=CUDA)
        for weight in weights:
            x = torch.relu(x @ weight)
        nodes, size = [x.sum().grad_fn], x.untyped_storage().nbytes()
        del x
        before = memory.now
        run_backward(nodes)
    assert before > 10 * size and memory.now < size and memory.peak < before + 2.5 * size


def test_the_peak_counts_what_lives_at_once():
    with torch._subclasses.FakeTensorMode(), PeakMemory() as memory:
        x = torch.empty(1000, device=CUDA)
        for _ in range(3):
            y = x + 1
            del y
        views = x.view(10, 100)[:5]
    assert memory.peak == 8000 and views.shape == (5, 100)
