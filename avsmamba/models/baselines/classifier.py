"""The last layers of TPAVI and of AVSegFormer: from mask features to logits at the size of the frames."""

from collections.abc import Sequence

from einops import rearrange
from torch import Tensor, nn

from avsmamba.models.layers.upsampled_conv import upsampled_classes


class UpsamplingClassifier(nn.Module):
    """3 x 3 convolution, bilinear upsampling, 3 x 3 convolution, ReLU, 1 x 1 convolution to classes.

    Args:
        channels: C.
        hidden_dims: channels after the two 3 x 3 convolutions.
        num_classes: channels of the logits.
        scale: factor of the upsampling.
        bias: of the last convolution.
    """

    def __init__(self, channels: int, hidden_dims: Sequence[int], num_classes: int, scale: int, bias: bool = True):
        super().__init__()
        first, second = hidden_dims
        self.scale = scale
        self.conv_in = nn.Conv2d(channels, first, 3, padding=1)
        self.conv_out = nn.Conv2d(first, second, 3, padding=1)
        self.classifier = nn.Conv2d(second, num_classes, 1, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        """Map `(B, T, h, w, C)` features to `(B, T, N_class, scale * h, scale * w)` logits."""
        x = self.conv_in(rearrange(features, "b t h w c -> (b t) c h w"))
        conv, last = self.conv_out, self.classifier
        weights = conv.weight, conv.bias, last.weight.flatten(1), last.bias
        return upsampled_classes(x.permute(0, 2, 3, 1), *weights, self.scale).unflatten(0, features.shape[:2])
