"""Write and run ONNX and torch.export programs."""
