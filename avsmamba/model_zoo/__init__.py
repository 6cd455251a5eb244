"""Shipped models, and recognition of public checkpoints."""
