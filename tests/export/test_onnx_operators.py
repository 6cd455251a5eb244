"""The operators as ONNX: the same numbers as torch's for shapes that the trace has not seen."""

import numpy as np
import pytest
import torch
from torch import nn

from avsmamba.ops import cross_scan_3d, depthwise_conv, multi_directional_scan

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")
from avsmamba.export import onnx_operators  # noqa: E402

E, N, R = 6, 3, 2


class Block(nn.Module):
    """Every kind of convolution, then a scan in `directions` orders of which some tokens are wanted."""

    def __init__(self, directions: int, part: bool):
        super().__init__()
        k, self.part = directions, part
        shapes = {"c3": (E, 1, 3, 3, 3), "c2": (E, 1, 3, 5), "c1": (E, 1, 4), "bias": (E,), "D": (k, E),
                  "A": (k, E, N), "dt_weight": (k, E, R), "dt_bias": (k, E)}  # fmt: skip
        for name, shape in shapes.items():
            self.register_buffer(name, torch.randn(shape) * 0.5)
        self.A = -self.A.exp()

    def forward(self, x, projected):
        t, h, w = x.shape[1:4]
        x = depthwise_conv(depthwise_conv(x, self.c3, self.bias, "silu"), self.c2)
        x = depthwise_conv(x.flatten(1, 3), self.c1, None, "silu", causal=True)
        dt, b, c = projected.flatten(1, 3).split([R, N, N], -1)
        order = cross_scan_3d(t, [(h, w)], len(self.A), device=x.device)
        out = (t, t * h * w - t - 1) if self.part else None
        return multi_directional_scan(x, dt, b, c, self.A, self.D, self.dt_weight, self.dt_bias, order, out)


def inputs(k, b, h, w):
    return torch.randn(b, 3, h, w, E), torch.randn(b, 3, h, w, k, R + 2 * N)


@pytest.mark.parametrize(("directions", "part", "few"), [(8, True, 0), (2, False, 1 << 14)])
def test_operators_for_free_shapes(monkeypatch, tmp_path, directions, part, few):
    monkeypatch.setattr(onnx_operators, "FEW_STATES", few)
    torch.manual_seed(0)
    block = Block(directions, part).eval()
    free = {0: torch.export.Dim("batch"), 2: torch.export.Dim("h", min=2), 3: torch.export.Dim("w", min=2)}
    program = torch.onnx.export(
        block,
        inputs(directions, 2, 5, 4),
        dynamo=True,
        opset_version=18,
        dynamic_shapes={"x": free, "projected": free},
        custom_translation_table=onnx_operators.translations(),
        verbose=False,
    )
    program.save(tmp_path / "block.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "block.onnx")
    for b, h, w in ((1, 2, 7), (3, 6, 3)):
        x, projected = inputs(directions, b, h, w)
        # Raw steps from about -90, where exp(-|v|) is lost beside 1, to 90.
        projected[:, 0, 0, 0, :, :R] *= 40
        (y,) = session.run(None, {"x": x.numpy(), "projected": projected.numpy()})
        np.testing.assert_allclose(y, block(x, projected).numpy(), rtol=1e-4, atol=1e-4)
