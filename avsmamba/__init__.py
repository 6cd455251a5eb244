"""avsmamba: audio-visual segmentation with selective scans (AVS-Mamba), as a config-driven model zoo."""

__version__ = "0.1.0"
