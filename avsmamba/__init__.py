"""avsmamba: audio-visual segmentation with selective scans (AVS-Mamba), as a config-driven model zoo."""

__version__ = "0.1.0"

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avsmamba.inference.load import load_model

__all__ = ["load_model"]


def __getattr__(name: str) -> Any:
    """`load_model` brings torch and the models along, so it is imported when it is asked for."""
    if name == "load_model":
        from avsmamba.inference.load import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
