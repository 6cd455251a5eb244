"""ONNX and torch.export programs: write them, run them."""
