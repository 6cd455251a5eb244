"""The input of the audio encoders."""

from torch import Tensor


def per_second(log_mel: Tensor) -> Tensor:
    """Return the patches `(B * T, 1, 96, 64)` of `log_mel` `(B, T, 1, 96, 64)`.

    Raises:
        ValueError: for another shape.
    """
    if log_mel.ndim != 5 or tuple(log_mel.shape[2:]) != (1, 96, 64):
        raise ValueError(f"log_mel: expected (B, T, 1, 96, 64), got {tuple(log_mel.shape)}")
    return log_mel.flatten(0, 1)
