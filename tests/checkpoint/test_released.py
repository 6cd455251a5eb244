"""Checkpoints of the authors' code: all four kinds load whole, and the model gives what the float64 reference gives."""

import ast
import gc

import pytest
import torch

from avsmamba.checkpoint.load import load_weights
from avsmamba.checkpoint.released import is_released, translate
from avsmamba.config.load import load_config
from avsmamba.model_zoo.public_models import recognise
from avsmamba.registry import MODELS
from avsmamba.utils import UserError
from tests.checkpoint import released_reference as reference
from tests.checkpoint.released_backbones import resnet_lines
from tests.models.test_segmentor import ROOT, SEMANTIC, TINY

CONFIGS = {
    "pvt_object": "avs_mamba_pvtv2b5_s4_512",
    "pvt_semantic": "avs_mamba_pvtv2b5_avss_224",
    "r50_object": "avs_mamba_r50_ms3_512",
    "r50_semantic": "avs_mamba_r50_avss_224",
}
IDLE = {
    "mamba_decoder_block",
    "mamba_encoder.0.mixffn.norm",
    "mamba_encoder.1.mixffn.norm",
    "query_embed",
    "audio_feature_projection",
    "audio_recons_proj",
    "vision_backbone.layer3_2",
    "vision_backbone.layer4_2",
}


def released_state(kind, without=()):
    lines = reference.key_lines(f"avs_mamba_released_{kind}", without)
    if kind.startswith("r50") and not without:
        lines = [*lines, *resnet_lines((3, 4, 6, 3))]
    return reference.random_state(lines, seed=3)


def released_shapes(kind):
    """Return the names and shapes of a file, on the meta device."""
    lines = reference.key_lines(f"avs_mamba_released_{kind}")
    if kind.startswith("r50"):
        lines = [*lines, *resnet_lines((3, 4, 6, 3))]
    named = (line.partition(" ") for line in lines)
    return {name: torch.empty(ast.literal_eval(shape), device="meta") for name, _, shape in named}


def loaded_model(kind, state):
    """Return the full-size model of a config with a released state dict in float32, and the lines of the loading."""
    model = MODELS.build(load_config(str(ROOT / f"configs/avs_mamba/{CONFIGS[kind]}.yaml")).model)
    lines: list[str] = []
    single = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    load_weights(model, single, "S4_best.pth", True, lines.append)
    return model.eval(), lines


def greatest_difference(found, expected):
    return float((found.double() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_kind_of_file_loads_with_nothing_missing_or_unexpected(kind):
    shapes = released_shapes(kind)
    assert is_released(shapes)
    backbone, classes = "ResNet-50" if "r50" in kind else "PVT-v2", "71 classes" if "semantic" in kind else "1 class"
    assert recognise(shapes).around == f"AVS-Mamba as its authors released it: {backbone}, {classes}"
    with torch.device("meta"):
        model = MODELS.build(load_config(str(ROOT / f"configs/avs_mamba/{CONFIGS[kind]}.yaml")).model)
    found = translate(shapes, model, "file")
    own = {k: v.shape for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert {k: v.shape for k, v in found.state.items() if not k.endswith("num_batches_tracked")} == own
    assert all(any(name.startswith(part) for part in IDLE) for name in found.idle)
    assert any(name.startswith("mamba_decoder_block.") for name in found.idle)
    assert (
        any(name.startswith("query_embed") for name in found.idle)
        == (found.reading == "semantic")
        == ("semantic" in kind)
    )
    assert any("layer4_2" in name for name in found.idle) == ("r50" in kind)
    gone = len(shapes) - len(found.idle) - len(found.state)
    assert gone == 0, f"{gone} tensors were neither used nor named"


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=pytest.mark.slow if k in ("pvt_object", "r50_semantic") else ()) for k in CONFIGS]
)
@torch.no_grad()
def test_the_model_gives_what_the_reference_gives(kind):
    """Both decoder layers, two clips, odd sizes of the maps; padding in the files of AVSS."""
    torch.manual_seed(0)
    state = released_state(kind)
    model, lines = loaded_model(kind, state)
    text = " ".join(lines)
    assert "model.pyramid.repeat_stride_8: true, model.pyramid.upsampling: nearest" in text
    assert ("model.padded_frames: zeros" in text) == ("semantic" in kind)
    assert "mamba_decoder_block" in text and "tensors in it are not used" not in text
    frames, log_mel = torch.randn(2, 2, 3, 96, 32), torch.randn(2, 2, 1, 96, 64)
    counts, flags = None, None
    if "semantic" in kind:
        counts, flags = [2, 1], torch.tensor([[1, 1], [1, 0]])
        frames[1, 1], log_mel[1, 1] = float("nan"), 7.0  # the padding is not used
    found = [output.logits for output in model.layer_outputs(frames, log_mel, counts, every_layer=True)]
    del model
    gc.collect()
    clean = torch.nan_to_num(frames, nan=0.0).double()
    expected = reference.segment(state, clean, log_mel.double(), flags)
    assert len(found) == 2 and found[0].shape == (2, 2, 71 if "semantic" in kind else 1, 96, 32)
    for layer, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert greatest_difference(ours, theirs) < 1e-4, f"layer {layer}"


@pytest.fixture(scope="module")
def neck():
    """Return the model with the neck's and the head's weights of an AVSS file, and the file's tensors in float64."""
    state = released_state("pvt_semantic")
    model, _ = loaded_model("pvt_semantic", state)
    return model, {k: v for k, v in state.items() if not k.startswith(reference.BACKBONES)}


SIZES = ((10, 6), (5, 3), (3, 2), (1, 2))


@pytest.fixture
def clip():
    """Return four maps (T, C, H, W) and audio (T, C) of a clip in float64."""
    generator = torch.Generator().manual_seed(5)
    maps = [torch.randn(3, 256, *size, generator=generator, dtype=torch.float64) for size in SIZES]
    return maps, torch.randn(3, 256, generator=generator, dtype=torch.float64)


def tokens(x):
    """Convert (T, C, H, W) float64 to our (1, T, H, W, C) float32."""
    return x.movedim(1, -1).unsqueeze(0).float()


def close(found, expected):
    assert greatest_difference(found[0], expected) < 1e-5


@pytest.mark.parametrize("layer", [0, 1])
@torch.no_grad()
def test_blocks_of_the_encoder(neck, clip, layer):
    (model, state), (maps, _) = neck, clip
    vss, ffn, temporal = model.encoder.blocks[3 * layer : 3 * layer + 3]
    prefix, ours = f"mamba_encoder.{layer}", [tokens(m) for m in maps[1:]]
    for block, expected in (
        (vss, reference.vss_block(state, prefix, maps[1:])),
        (ffn, [reference.mix_ffn(state, prefix, m) for m in maps[1:]]),
        (temporal, reference.temporal_mamba(state, f"{prefix}.norm3", f"{prefix}.temporal_mamba", maps[1:])),
    ):
        for found, wanted in zip(block(ours), expected, strict=True):
            close(found, wanted.movedim(1, -1))


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize(("level", "name"), [(0, "frame"), (1, "temporal")])
@torch.no_grad()
def test_blocks_of_the_decoder(neck, clip, layer, level, name):
    (model, state), (maps, audio) = neck, clip
    for scale, visual in enumerate(maps[1:]):
        block = model.decoder.stages[2 * layer + level][scale]
        expected = reference.v2a_block(state, f"mamba_decoder.{layer}.{scale}.{level}", visual, audio, name)
        close(block(tokens(visual), audio.float().unsqueeze(0)), expected)


@torch.no_grad()
def test_blocks_of_the_pyramid_and_the_whole_of_it(neck, clip):
    (model, state), (maps, audio) = neck, clip
    sound = audio.float().unsqueeze(0)
    for scale, visual in enumerate(maps):
        block, theirs = model.pyramid.fusion[scale], 3 - scale
        expected = reference.a2v_block(state, f"cmfpn.cross_attns.{theirs}", visual, audio)
        close(block.a2v(tokens(visual), sound), expected.movedim(1, -1))
        prefix = f"cmfpn.self_attns.{theirs}"
        (expected,) = reference.temporal_mamba(state, f"{prefix}.ln_l", f"{prefix}.mamba_block", [visual])
        close(block.temporal_mamba([tokens(visual)])[0], expected.movedim(1, -1))
    found = model.pyramid([tokens(m) for m in maps], sound)
    assert greatest_difference(found[0], reference.cip(state, maps, audio).movedim(1, -1)) < 2e-5


@torch.no_grad()
def test_the_head(neck, clip):
    (model, state), (maps, audio) = neck, clip
    found = model.head(audio.float()[None, :, None], tokens(maps[0])).logits
    close(found, reference.head(state, audio, maps[0]))


def test_what_is_trained_from_such_a_file_is_read_in_the_same_way(neck):
    """The runner writes the reading into a checkpoint's meta; here with a part of the weights."""
    model, _ = neck
    assert model.authors_reading == "semantic"
    fresh = MODELS.build(load_config(TINY, {"model.head.num_classes": 4, **SEMANTIC}).model)
    content = {"meta": {"authors_reading": "semantic"}, "state_dict": fresh.state_dict()}
    lines: list[str] = []
    assert fresh.padded_frames == "skip" and not fresh.pyramid.repeat_stride_8
    load_weights(fresh, content, "epoch_1.pth", True, lines.append)
    assert fresh.padded_frames == "zeros" and fresh.pyramid.repeat_stride_8
    assert fresh.pyramid.pyramid.upsampling == "nearest"
    assert lines == [
        "epoch_1.pth: trained from a checkpoint of the authors' code; it needs model.pyramid.repeat_stride_8: true, "
        "model.pyramid.upsampling: nearest, model.padded_frames: zeros"
    ]


def test_a_model_of_another_reading_is_refused():
    state = released_shapes("pvt_object")
    options = {
        "model.decoder.scale_by_scale": False,
        "model.decoder.frame_audio_context": "clip",
        "model.encoder.norm_eps": 1e-5,
    }
    for option, value in options.items():
        with torch.device("meta"):
            path = str(ROOT / f"configs/avs_mamba/{CONFIGS['pvt_object']}.yaml")
            model = MODELS.build(load_config(path, {option: value}).model)
        with pytest.raises(UserError, match=rf"^S4_best.pth: a checkpoint of the authors' code needs {option}: "):
            load_weights(model, state, "S4_best.pth", True, print)


def test_tensors_that_the_authors_code_does_not_know_are_named():
    state = released_shapes("pvt_object")
    state["cmfpn.adapter_5.weight"] = state["cmfpn.adapter_4.weight"]
    with torch.device("meta"):
        model = MODELS.build(load_config(str(ROOT / f"configs/avs_mamba/{CONFIGS['pvt_object']}.yaml")).model)
    assert "cmfpn.adapter_5.weight" in translate(state, model, "file").state
    del state["cmfpn.adapter_1.weight"]
    with pytest.raises(UserError, match=r"1 missing \(pyramid\.pyramid\.laterals\.0\.weight\)"):
        load_weights(model, state, "S4_best.pth", True, print)


@pytest.mark.slow
def test_every_door_takes_such_a_file(tmp_path, capsys):
    """`avsmamba inspect`, `load_model` and the runner's `load_from`, with a file of the authors' form on the disk."""
    from avsmamba.engine.runner import AVSRunner
    from avsmamba.inference.load import load_model
    from avsmamba.model_zoo.inspect import inspect_checkpoint

    config = ROOT / f"configs/avs_mamba/{CONFIGS['pvt_object']}.yaml"
    state = {k: v.float() if v.is_floating_point() else v for k, v in released_state("pvt_object").items()}
    path = tmp_path / "S4_best.pth"
    torch.save(state, path)
    assert inspect_checkpoint(path, config)
    out = capsys.readouterr().out
    assert "AVS-Mamba as its authors released it: PVT-v2, 1 class" in out and "missing: 0" in out
    assert "idle, not used: 112" in out and "it fits" in out
    with pytest.warns(UserWarning, match="a checkpoint of the authors' code"):
        predictor = load_model(config, path, device="cpu")
    own = predictor.model.state_dict()
    assert torch.equal(own["head.mlp.1.weight"], state["mlp.layers.1.weight"].flatten(1))
    assert predictor.model.pyramid.repeat_stride_8
    cfg = load_config(str(config))
    cfg.work_dir, cfg.load_from = str(tmp_path / "run"), str(path)
    for key in ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler", "custom_hooks"):
        cfg[key] = None
    for key in ("val", "test"):
        cfg[f"{key}_dataloader"] = cfg[f"{key}_cfg"] = cfg[f"{key}_evaluator"] = None
    del own, predictor
    runner = AVSRunner.from_cfg(cfg)
    runner.load_checkpoint(cfg.load_from, strict=True)
    assert runner.model.authors_reading == "object"
    assert torch.equal(runner.model.head.mlp[0].bias, state["mlp.layers.0.bias"])
