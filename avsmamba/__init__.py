"""avsmamba: audio-visual segmentation with selective scans (AVS-Mamba), as a config-driven model zoo."""

from typing import TYPE_CHECKING, Any

from avsmamba.version import __version__

if TYPE_CHECKING:
    from avsmamba.inference.load import load_model

__all__ = ["__version__", "load_model"]


def __getattr__(name: str) -> Any:
    """Import `load_model`, and torch with it, at first use."""
    if name == "load_model":
        from avsmamba.inference.load import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
