"""Fusion between the stages of a backbone: the sound changes a map before the next stage reads it."""

from collections.abc import Callable

from torch import Tensor, nn

# After stage i the map `(N, C_i, h_i, w_i)`; what is returned is the next stage's input and the backbone's map i.
Between = Callable[[int, Tensor], Tensor]


def unchanged(stage: int, x: Tensor) -> Tensor:
    """Return a stage's map unchanged."""
    return x


class StageFusion(nn.Module):
    """Base of the parts for the slot `stage_fusion`; each frame and its second of sound are processed independently.

    A subclass sets `out_channels`, the channels of the audio that it returns, and implements `fuse`.
    """

    out_channels: int

    def start(self, audio: Tensor) -> Tensor:
        """Return the audio's state before the first stage, one row for each of the N = B * T frames."""
        return audio.flatten(0, 1)

    def fuse(self, stage: int, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return map `(N, C_i, h_i, w_i)` and audio state after stage 0 to 3."""
        raise NotImplementedError

    def end(self, state: Tensor) -> Tensor:
        """Return audio `(N, out_channels)` from the state after the last stage."""
        return state

    def forward(self, backbone: nn.Module, frames: Tensor, audio: Tensor) -> tuple[list[Tensor], Tensor]:
        """Run a backbone with the fusion between its stages.

        Args:
            backbone: has `has_stages`, and takes (frames, between).
            frames: `(N, 3, H, W)` normalised, N = B * T.
            audio: `(B, T, ...)` of the audio encoder.

        Returns:
            four maps `(N, C_i, h_i, w_i)` and audio `(B, T, out_channels)`.
        """
        state = self.start(audio)

        def between(stage: int, x: Tensor) -> Tensor:
            nonlocal state
            x, state = self.fuse(stage, x, state)
            return x

        maps = backbone(frames, between)
        return maps, self.end(state).unflatten(0, audio.shape[:2])
