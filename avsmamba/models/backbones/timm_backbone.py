"""Any timm model as a backbone, with pretrained weights from a local file."""

import difflib
import importlib
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import FeatureListNet
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from avsmamba.checkpoint.pretrained import Layout
from avsmamba.checkpoint.reading import raise_unless_fits
from avsmamba.limits import RATE, limits
from avsmamba.models.backbones.efficientnet_names import is_efficientnet_pytorch, translate_efficientnet
from avsmamba.models.layers.recompute import maybe_checkpoint
from avsmamba.models.layers.stage_fusion import Between, unchanged
from avsmamba.models.pretrained_part import PretrainedPart
from avsmamba.registry import MODELS

STRIDES = [4, 8, 16, 32]
# A released AVS-Mamba's, TPAVI's (PVT-v2, ResNet-50), torchvision's detectors', then its segmenters', OpenMMLab's and
# AVSegFormer's.
PREFIXES = ("vision_backbone.", "encoder_backbone.", "resnet.", "backbone.body.", "backbone.")
# AVSBench's ResNet-50 has its last two stages twice; TPAVI, AVSegFormer and AVS-Mamba never run the second ones.
_FIRST, _SECOND = re.compile(r"^(layer[34])_1\."), re.compile(r"^layer[34]_2\.")
# Classifiers of foreign files, where timm's model has none or names it otherwise.
HEADS = ("head", "fc", "classifier", "aux_classifier")


@MODELS.register_module()
class TimmBackbone(PretrainedPart):
    """Four maps of a timm model (https://github.com/huggingface/pytorch-image-models, Apache-2.0).

    Nothing is downloaded. `checkpoint` is read by `init_weights`, which mmengine calls when a training starts; testing
    and resuming do not need the file. It may hold timm's own names, those of the original release where
    timm knows them (PVT-v2, Swin, ConvNeXt, …), EfficientNet-PyTorch's, torchvision's ResNets, or torchvision's COCO
    models on a ResNet (DeepLabV3, FCN, Faster and Mask R-CNN), of which the backbone is taken; also what AVS-Mamba's,
    TPAVI's and AVSegFormer's authors release, with AVSBench's ResNet-50 of two heads (`layer3_1`, `layer3_2`, …), of
    which the first one runs and is taken.

    Args:
        model_name: as in `timm.list_models()`.
        checkpoint: local file with pretrained weights, or one in an installed package (`package:NAME/PATH`); None:
            random weights.
        out_indices: which of timm's feature maps to use; None: the last four.
        frozen: no gradients, and always in eval mode.
        norm_eval: batch normalisations keep their statistics (their weights are still trained).
        drop_path_rate: stochastic depth of the last block, linear from 0 at the first; None: timm's default for the
            model, mostly 0. AVS-Mamba, TPAVI and AVSegFormer have 0.1 in PVT-v2 b5 and none in ResNet-50.
        grad_checkpointing: compute activations again in the backward pass instead of keeping them (batch
            normalisations then count each batch twice in their statistics, unless `norm_eval`).
        model_args: further arguments of `timm.create_model`, such as `{img_size: 512}` for Swin.

    Attributes:
        out_channels: channels of the four maps.
        strides: `[4, 8, 16, 32]`.
        has_stages: whether `forward` can act between the stages; so in PVT-v2, ResNet, Swin, ConvNeXt and others.

    Raises:
        ValueError: if timm has no such model, or it has no maps at strides 4, 8, 16 and 32, or does not accept one of
            the arguments.
    """

    expected_strides: Sequence[int] = STRIDES

    @limits(drop_path_rate=RATE)
    def __init__(
        self,
        model_name: str,
        checkpoint: str | None = None,
        out_indices: Sequence[int] | None = None,
        frozen: bool = False,
        norm_eval: bool = False,
        drop_path_rate: float | None = None,
        grad_checkpointing: bool = False,
        model_args: dict[str, Any] | None = None,
    ):
        super().__init__(model_name, checkpoint, frozen)
        if not timm.is_model(model_name):
            near = difflib.get_close_matches(model_name, timm.list_models(), n=4, cutoff=0.5)
            raise ValueError(
                f"model_name: timm has no {model_name!r}" + (f"; nearest: {', '.join(near)}" if near else "")
            )
        self.model_name, self.norm_eval = model_name, norm_eval
        self._model_args = {"drop_path_rate": drop_path_rate} | dict(model_args or {})
        indices = (-4, -3, -2, -1) if out_indices is None else tuple(out_indices)
        self.net = _create(model_name, features_only=True, out_indices=indices, **self._model_args)
        self.strides = list(self.net.feature_info.reduction())
        self.out_channels: list[int] = list(self.net.feature_info.channels())
        if self.strides != [*self.expected_strides]:
            which = "its last four" if out_indices is None else f"out_indices {indices}"
            advice = "use another model" if out_indices is None else "leave out_indices out for the last four"
            raise ValueError(
                f"{model_name}: expected maps at strides 4, 8, 16 and 32, got {self.strides} ({which}); {advice}"
            )
        self.has_stages = isinstance(self.net, FeatureListNet)
        self._channels_last = str(getattr(self.net, "output_fmt", "")).endswith("NHWC")
        if grad_checkpointing:
            _checkpoint_gradients(self.net)
        self.freeze()

    def layout(self) -> Layout:
        """Return how files are read."""
        # timm translates names for its whole models, not for the cut ones; one on the meta device has their shapes.
        with torch.device("meta"):
            whole = _create(self.model_name, **self._model_args)
        translate = partial(translate_features, self.net, whole, _filter_of(self.model_name))
        return Layout(self.net, translate, PREFIXES)

    def train(self, mode: bool = True) -> "TimmBackbone":
        """Set the mode, as in `nn.Module`; what is frozen, and norms with `norm_eval`, stay in eval mode."""
        super().train(mode)
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, x: Tensor, between: Between = unchanged) -> list[Tensor]:
        """Extract.

        Args:
            x: `(N, 3, H, W)` normalised frames, H and W multiples of 32.
            between: changes the map of each stage, where the model `has_stages`.

        Returns:
            four maps `(N, C_i, H / s_i, W / s_i)`, finest first.
        """
        with self.gradients(between is not unchanged):
            maps = self.net(x) if between is unchanged else self._stages(x, between)
        return [self._swap(m) for m in maps]

    def _stages(self, x: Tensor, between: Between) -> list[Tensor]:
        """Run timm's modules one by one; where it would recompute a module in the backward pass, so does this."""
        maps: list[Tensor] = []
        for i, (name, module) in enumerate(self.net.items()):
            recompute = self.net.grad_checkpointing and 0 < i < len(self.net) - 1
            x = maybe_checkpoint(module, x, recompute=recompute)
            if name in self.net.return_layers:
                x = self._swap(between(len(maps), self._swap(x)), back=True)
                maps.append(x)
        return maps

    def _swap(self, x: Tensor, back: bool = False) -> Tensor:
        """Move the channels of a map from the last axis, where the model has them there, to the second, or back."""
        if not self._channels_last:
            return x
        return x.permute(0, 2, 3, 1) if back else x.permute(0, 3, 1, 2)


def translate_features(
    net: nn.Module,
    whole: nn.Module,
    translate: Callable[..., dict[str, Tensor]] | None,
    state: dict[str, Tensor],
    file: str | Path,
) -> tuple[dict[str, Tensor], list[str]]:
    """Translate the weights of a whole timm model to the names of its cut form (`features_only`).

    timm's wrappers join names of the whole model with an underscore (`stages.0` becomes `stages_0`) or prefix them with
    `model.`; so names are compared with underscores for dots.

    Args:
        net: the cut model.
        whole: the same model with its classifier; only names and shapes are used.
        translate: timm's `checkpoint_filter_fn` for the model, from foreign names to those of `whole`.
        state: tensors by name.
        file: named in errors.

    Returns:
        tensors by the cut model's names (those of no known use by their own), and the names of the whole model's rest.

    Raises:
        UserError: if timm cannot read them.
    """
    state, second_head = take_first_head(state)
    if is_efficientnet_pytorch(state):
        state = translate_efficientnet(state, whole)
    if translate is not None:
        try:
            state = translate(dict(state), whole)
        except (KeyError, AttributeError, IndexError, RuntimeError, ValueError) as error:
            raise_unless_fits(file, type(whole).__name__, [f"as timm reads it: {error}"], [], [])
    known = {k.replace(".", "_"): k for k in whole.state_dict()}
    own = {k: known.get(k.removeprefix("model.").replace(".", "_"), k) for k in net.state_dict()}
    needed = set(own.values())
    unused = [k for k in state if k not in needed and (k in known.values() or k.split(".")[0] in HEADS)]
    fitting = {k: state[source] for k, source in own.items() if source in state}
    unexpected = {k: v for k, v in state.items() if k not in needed and k not in unused}
    return fitting | unexpected, [*unused, *second_head]


def take_first_head(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the first head of AVSBench's two-headed ResNet-50 (`layer3_1` to `layer3`); list the second one's tensors.

    Other files are returned unchanged.
    """
    if not any(_FIRST.match(k) for k in state):
        return state, []
    second = [k for k in state if _SECOND.match(k)]
    return {_FIRST.sub(r"\1.", k): v for k, v in state.items() if k not in second}, second


def _create(model_name: str, **arguments: Any) -> nn.Module:
    arguments = {k: v for k, v in arguments.items() if v is not None}
    try:
        return timm.create_model(model_name, pretrained=False, **arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError, IndexError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{model_name}: timm cannot build it with {arguments}: {reason}") from error


def _filter_of(model_name: str) -> Callable[..., dict[str, Tensor]] | None:
    module = importlib.import_module(timm.models.model_entrypoint(model_name).__module__)
    return getattr(module, "checkpoint_filter_fn", None)


def _checkpoint_gradients(net: nn.Module) -> None:
    """Checkpoint block by block where the model's stages can, else stage by stage."""
    stages = [m for m in net.modules() if m is not net and hasattr(m, "grad_checkpointing")]
    if not stages:
        net.set_grad_checkpointing(True)
    for stage in stages:
        stage.grad_checkpointing = True
