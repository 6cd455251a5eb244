"""Without the extension the package runs on plain torch, with one warning."""

import subprocess
import sys

PROBE = """
import sys, warnings
sys.modules["avsmamba._cpu"] = sys.modules["avsmamba._cuda"] = None
from avsmamba.ops import available_backends, multi_directional_scan
from tests.ops.conftest import scan_inputs
assert available_backends() == ["torch"]
inputs, order = scan_inputs()
inputs = [t.detach().clone().requires_grad_() for t in inputs]
for _ in range(3):
    multi_directional_scan(*inputs, order).sum().backward()
assert all(t.grad is not None for t in inputs)
for backend in ("cpu", "cuda"):
    try:
        multi_directional_scan(*inputs, order, backend=backend)
    except RuntimeError as error:
        print(error)
"""


def test_torch_backend_serves_without_the_extension():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the C++ scan was not built") == 1
    assert done.stdout.count("was not built") == 2
