"""Audio encoders: log-mel patches `(B, T, 1, 96, 64)`, one a second, to features `(B, T, C_a)`."""

from avsmamba.models.audio.audio_cnn import AudioCNN
from avsmamba.models.audio.vggish import VGGish

__all__ = ["AudioCNN", "VGGish"]
