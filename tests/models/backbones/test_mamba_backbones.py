"""VMamba and Vim: the public models' numbers from the public files' keys, and what a backbone must do."""

import pytest
import torch
import torch.nn.functional as F

from avsmamba.checkpoint.reading import load_into
from avsmamba.models.backbones import Vim, VMamba
from avsmamba.models.backbones.feature_pyramid import SimpleFeaturePyramid
from avsmamba.registry import MODELS
from avsmamba.utils import UserError
from tests.models.conftest import assert_every_parameter_learns
from tests.models.public_models import LISTS, random_state, shapes, vim, vmamba
from tests.models.test_segmentor import build, sample

pytest_plugins = ["tests.models.log_lines"]

STRIDES = [4, 8, 16, 32]
SMALL = {
    "v0": lambda **more: VMamba("v0_tiny", dims=[8, 16, 24, 32], depths=[1, 1, 2, 1], **more),
    "v05": lambda **more: VMamba("v05_tiny_s1l8", dims=[8, 16, 24, 32], depths=[1, 1, 2, 1], **more),
    "vim": lambda **more: Vim("tiny", dim=16, depth=3, img_size=64, **more),
    "vim_pyramid": lambda **more: Vim("tiny", dim=16, depth=3, img_size=64, pyramid=True, pyramid_channels=8, **more),
}


def make(name, **arguments):
    family, _, arch = name.partition("_")
    return VMamba(arch, **arguments) if family == "vmamba" else Vim(arch, **arguments)


def from_file(tmp_path, backbone, state):
    backbone.checkpoint = str(tmp_path / "public.pth")
    torch.save({"model": state}, backbone.checkpoint)
    backbone.init_weights()
    return backbone.double().eval()


def heads_of(name):
    if name.startswith("vim"):
        return ["head.weight", "head.bias"]
    return [f"classifier.{layer}.{kind}" for layer in ("norm", "head") for kind in ("weight", "bias")]


def test_there_is_a_list_of_every_model():
    assert len(LISTS) == 8


@pytest.mark.parametrize("name", LISTS)
def test_every_key_of_a_public_file_is_taken(name):
    """On the meta device: names and shapes of the whole model; the numbers are compared below."""
    with torch.device("meta"):
        backbone = make(name)
        state = {k: torch.empty(s) for k, s in shapes(name).items()}
    ours, unused, kept = backbone.layout().read(state, name)
    load_into(backbone, ours, file=name)
    assert unused == heads_of(name)
    new = "no part is new" if name.startswith("vim") else "out_norms."
    assert kept == [k for k in backbone.state_dict() if k.startswith(new)]
    assert len(ours) == len(state) - len(unused) + len(kept)


@pytest.mark.parametrize("name", ["vmamba_v0_tiny", "vmamba_v05_tiny_s1l8", "vmamba_v05_base_s2l15"])
@torch.no_grad()
def test_vmamba_s_numbers(tmp_path, name):
    depths = [1, 1, 2, 1] if "tiny" in name else [2, 1, 0, 0]
    state = random_state(shapes(name, depths))
    backbone = from_file(tmp_path, make(name, depths=depths), state)
    x = torch.randn(2, 3, 32, 64, dtype=torch.float64)
    expected = vmamba({k: v.double() for k, v in state.items()}, depths, x)
    for ours, theirs, channels in zip(backbone(x), expected, backbone.out_channels, strict=True):
        torch.testing.assert_close(ours, F.layer_norm(theirs.movedim(1, -1), [channels]).movedim(-1, 1))
        assert theirs.std() > 0.1


@pytest.mark.parametrize("size", [(224, 224), (64, 96), (256, 32)], ids=str)
@torch.no_grad()
def test_vim_s_numbers(tmp_path, size):
    state = random_state(shapes("vim_tiny", 2))
    state64 = {k: v.double() for k, v in state.items()}
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    first, last = vim(state64, 1, x), vim(state64, 2, x)
    backbone = from_file(tmp_path, Vim("tiny", depth=2, img_size=224), state)
    torch.testing.assert_close(backbone(x), [first, first, last, last])
    backbone = from_file(tmp_path, Vim("tiny", depth=2, img_size=224, map_blocks=[2, 1, 2, 2]), state)
    torch.testing.assert_close(backbone(x), [last, first, last, last])
    backbone = from_file(tmp_path, Vim("tiny", depth=2, img_size=224, pyramid=True, pyramid_channels=8), state)
    torch.testing.assert_close(backbone(x), backbone.pyramid(last))


def base(shapes):
    """Return Vim-B's shapes by Vim-S: 768 channels, 1536 inside, rank 48; its names are not published."""
    wider = {384: 768, 768: 1536, 1536: 3072, 24: 48, 56: 80}
    return {k: tuple(wider.get(n, n) for n in shape) for k, shape in shapes.items()}


def test_every_key_of_a_vim_base_file_is_taken():
    wide = base(shapes("vim_small"))
    assert wide["layers.3.mixer.x_proj_b.weight"] == (80, 1536) and wide["layers.3.mixer.dt_proj.weight"] == (1536, 48)
    assert wide["layers.3.mixer.in_proj.weight"] == (3072, 768) and wide["layers.3.mixer.A_log"] == (1536, 16)
    with torch.device("meta"):
        backbone = Vim("base")
        state = {k: torch.empty(s) for k, s in wide.items()}
    ours, unused, kept = backbone.layout().read(state, "vim_base")
    load_into(backbone, ours, file="vim_base")
    assert unused == ["head.weight", "head.bias"] and not kept
    assert backbone.map_blocks == [6, 12, 18, 24] and backbone.out_channels == [768] * 4
    assert round(sum(p.numel() for p in backbone.parameters()) / 1e6, 1) == 97.5


@torch.no_grad()
def test_vim_s_position_embedding_is_fitted_to_the_model(tmp_path):
    """A file for 224 pixels into a model for 128: the embedding is what the same file gives for frames of 128."""
    state = random_state(shapes("vim_tiny", 1))
    small = from_file(tmp_path, Vim("tiny", depth=1, img_size=128), state)
    public = from_file(tmp_path, Vim("tiny", depth=1, img_size=224), state)
    assert small.pos_embed.shape == (1, 65, 192)
    x = torch.randn(1, 3, 128, 128, dtype=torch.float64)
    torch.testing.assert_close(small(x), public(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(small.pos_embed[:, 32], public.pos_embed[:, 98])


@torch.no_grad()
def test_odd_maps_are_merged_with_zeros(tmp_path):
    state = random_state(shapes("vmamba_v0_tiny", [0, 0, 0, 0]))
    backbone = from_file(tmp_path, VMamba("v0_tiny", depths=[0, 0, 0, 0]), state)
    x = torch.randn(1, 3, 36, 44, dtype=torch.float64)
    expected = vmamba({k: v.double() for k, v in state.items()}, [0, 0, 0, 0], x)
    for ours, theirs in zip(backbone(x), expected, strict=True):
        torch.testing.assert_close(ours, F.layer_norm(theirs.movedim(1, -1), theirs.shape[1:2]).movedim(-1, 1))


def public_v05_in_a_segmenter(depths):
    state = random_state(shapes("vmamba_v05_tiny_s1l8", depths))
    kept = {k: v for k, v in state.items() if not k.startswith("classifier.")}
    for i, channels in enumerate((96, 192, 384, 768)):
        kept |= {f"outnorm{i}.weight": torch.full((channels,), 2.0 + i), f"outnorm{i}.bias": torch.ones(channels)}
    return {f"backbone.{k}": v for k, v in kept.items()} | {"decode_head.conv_seg.weight": torch.ones(2)}


def test_a_segmenter_s_file_brings_its_norms(tmp_path, log_lines):
    depths = [1, 0, 0, 0]
    backbone = from_file(tmp_path, VMamba("v05_tiny_s1l8", depths=depths), public_v05_in_a_segmenter(depths))
    assert [norm.weight[3].item() for norm in backbone.out_norms] == [2, 3, 4, 5]
    assert any("not under 'backbone.', not used: decode_head.conv_seg.weight" in line for line in log_lines)


def test_first_release_and_one_by_one_kernels(tmp_path):
    """`ln_1` and `self_attention`, patch_embed.proj; linear weights stored as 1 x 1 convolutions."""
    state = random_state(shapes("vmamba_v0_tiny", [1, 0, 0, 0]))
    old = {}
    for name, value in state.items():
        for new, former in (("patch_embed.0", "patch_embed.proj"), ("patch_embed.2", "patch_embed.norm"),
                            ("op.", "self_attention."), ("blocks.0.norm", "blocks.0.ln_1"),
                            ("classifier.", "")):  # fmt: skip
            name = name.replace(new, former)
        old[name] = value[..., None, None] if name.endswith(("in_proj.weight", "out_proj.weight")) else value
    assert {"head.bias", "norm.weight", "layers.0.blocks.0.self_attention.A_logs"} <= old.keys()
    results = []
    for layout in (state, old):
        backbone = VMamba("v0_tiny", depths=[1, 0, 0, 0])
        from_file(tmp_path, backbone, layout)
        results.append(backbone.state_dict())
    assert all(torch.equal(v, results[1][k]) for k, v in results[0].items())


@pytest.mark.parametrize("family", SMALL)
def test_its_own_names_load_too(tmp_path, family):
    first, second = SMALL[family](), SMALL[family]()
    from_file(tmp_path, second, {f"backbone.{k}": v + 1 for k, v in first.state_dict().items()})
    assert all(torch.equal((v + 1).double(), second.state_dict()[k]) for k, v in first.state_dict().items())


def test_files_that_do_not_fit(tmp_path, log_lines):
    state = random_state(shapes("vim_tiny", 1))
    with pytest.raises(UserError, match=r"of another shape \(cls_token is \(1, 1, 192\), the model's \(1, 1, 384\)"):
        from_file(tmp_path, Vim("small", depth=1), state)
    with pytest.raises(
        UserError,
        match=r"public\.pth: does not fit VMamba: tensors .* missing \(stem\.norm\.weight.* unexpected \(cls_token",
    ):
        from_file(tmp_path, VMamba("v05_tiny_s1l8", depths=[1, 0, 0, 0]), state)
    del state["layers.0.mixer.D_b"]
    with pytest.raises(UserError, match=r"1 missing \(blocks\.0\.ssms\.1\.D\)"):
        from_file(tmp_path, Vim("tiny", depth=1), state)
    assert not any("pretrained weights" in line for line in log_lines)


@pytest.mark.parametrize("family", SMALL)
def test_maps(family):
    backbone = SMALL[family]()
    x = torch.randn(2, 3, 64, 96)
    maps = backbone(x)
    assert backbone.strides == ([16] * 4 if family == "vim" else STRIDES)
    expected = [(2, c, 64 // s, 96 // s) for c, s in zip(backbone.out_channels, backbone.strides, strict=True)]
    assert [tuple(m.shape) for m in maps] == expected
    assert_every_parameter_learns(backbone, maps)
    backbone.eval()
    for one, both in zip(backbone(x[1:]), backbone(x), strict=True):
        torch.testing.assert_close(one, both[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", SMALL)
def test_frozen_but_for_what_no_classifier_has(family):
    backbone = SMALL[family](frozen=True, drop_path_rate=0.5)
    backbone.train()
    new = {"vim": (), "vim_pyramid": "pyramid."}.get(family, "out_norms.")
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad == name.startswith(new), name
    assert not any(m.training for m in backbone.modules() if type(m).__name__ == "DropPath")
    maps = backbone(torch.randn(1, 3, 32, 64, requires_grad=True))
    assert all(m.requires_grad == bool(new) for m in maps)
    if new:
        sum(m.sum() for m in maps).backward()
    assert all((p.grad is not None) == p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize("family", SMALL)
def test_stochastic_depth(family):
    drops = [m.drop_prob for m in SMALL[family](drop_path_rate=0.4).modules() if type(m).__name__ == "DropPath"]
    assert drops[0] == 0 and drops[-1] == pytest.approx(0.4) and drops == sorted(drops)


@pytest.mark.parametrize("family", SMALL)
def test_checkpointing_changes_no_number_and_keeps_less(family):
    x, results, kept = torch.randn(2, 3, 64, 96), [], []
    for on in (False, True):
        torch.manual_seed(1)
        backbone = SMALL[family](grad_checkpointing=on, drop_path_rate=0.3)
        count = [0]

        def pack(t, count=count):
            count[0] += t.numel() * (t.grad_fn is not None)
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            maps = backbone(x)
        sum(m.square().mean() for m in maps).backward()
        results.append([*maps, *(p.grad for p in backbone.parameters())])
        kept.append(count[0])
    assert all(torch.equal(plain, again) for plain, again in zip(*results, strict=True))
    assert kept[1] < 0.6 * kept[0]


GRAPHS = {
    "v0": lambda: VMamba("v0_tiny", dims=[8, 16, 16, 16], depths=[1, 1, 0, 0]),
    "v05": lambda: VMamba("v05_tiny_s1l8", dims=[8, 16, 16, 16], depths=[1, 1, 0, 0]),
    "vim": lambda: Vim("tiny", dim=16, depth=1, pyramid=True, pyramid_channels=8, img_size=32),
}


@pytest.mark.parametrize("family", ["v05", "vim"])  # v0 has no step that these have not
def test_one_graph(family):
    backbone, x = GRAPHS[family]().double(), torch.randn(2, 3, 64, 32, dtype=torch.float64)
    expected = backbone(x)
    torch._dynamo.reset()
    maps = torch.compile(backbone, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(maps, expected)
    parameters = list(backbone.parameters())
    for ours, theirs in zip(*(torch.autograd.grad(sum(m.square().sum() for m in y), parameters)
                              for y in (maps, expected)), strict=True):  # fmt: skip
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("family", GRAPHS)
def test_a_model_on_it_is_exported_for_any_batch_and_number_of_frames(family):
    kind = GRAPHS[family]()
    model = build(dict.fromkeys(("model.encoder", "model.decoder", "model.pyramid")))
    model.backbone, model.projection = (
        kind,
        MODELS.build({"type": "Projection", "in_channels": kind.out_channels, "audio_channels": 128, "embed_dims": 32}),
    )
    batch, frames = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("frames", min=1, max=80)
    dynamic = {"frames": {0: batch, 1: frames}, "log_mel": {0: batch, 1: frames}}
    clip = {"frames": torch.randn(2, 3, 3, 64, 32), "log_mel": torch.randn(2, 3, 1, 96, 64)}
    program = torch.export.export(model.eval(), (), clip, dynamic_shapes=dynamic)
    scans = [n for n in program.graph.nodes if n.target is torch.ops.avsmamba.multi_directional_scan.default]
    assert len(scans) == 2
    clip = {"frames": torch.randn(1, 5, 3, 64, 32), "log_mel": torch.randn(1, 5, 1, 96, 64)}
    with torch.no_grad():
        torch.testing.assert_close(program.module()(**clip), model(**clip))


def test_vim_s_residual_stays_float32_under_autocast():
    backbone = SMALL["vim"]().eval()
    seen = []
    backbone.norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        backbone(torch.randn(1, 3, 64, 64))
    assert seen == [torch.float32] * 3  # the maps after blocks 1, 2 and 3


def test_the_whole_model_takes_four_maps_of_one_size():
    backbone = {"_delete_": True, "type": "Vim", "arch": "tiny", "dim": 16, "depth": 4, "img_size": 64}
    model = build({"model.backbone": backbone})
    batch = torch.randn(1, 2, 3, 64, 96), torch.randn(1, 2, 1, 96, 64)
    maps, _ = model.features(*batch)
    assert [tuple(m.shape[2:4]) for m in maps] == [(4, 6)] * 4
    losses = model(*batch, [sample(2, 64, 96)], mode="loss")
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.backbone.parameters())
    assert all(p.grad.abs().sum() > 0 for p in model.projection.visual.parameters())
    (predicted,) = model.eval()(*batch, [sample(2, 64, 96)], mode="predict")
    assert predicted.pred_logits.shape == (2, 1, 64, 96)


def test_the_pyramid_s_scales_see_their_own_place():
    """A lone pixel at stride 16 reaches its own cell of each map and, by the 3 x 3 convolutions, the next ones only."""
    pyramid = SimpleFeaturePyramid(8, 4).double()
    plain = torch.zeros(1, 8, 8, 8, dtype=torch.float64)
    lit = plain.clone()
    lit[0, :, 2, 4] = 3
    for scale, (a, b) in zip((4, 2, 1, 0.5), zip(pyramid(plain), pyramid(lit), strict=True), strict=True):
        changed = (a - b).abs().sum(1)[0].nonzero()
        low, high = changed.min(0).values.tolist(), changed.max(0).values.tolist()
        reach = max(1, int(scale))
        assert low == [int(2 * scale) - 1, int(4 * scale) - 1]
        assert high == [int(2 * scale) + reach, int(4 * scale) + reach]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: VMamba("tiny"), r"arch: expected one of \['v05_base_s2l15'.*got 'tiny'"),
        (lambda: VMamba(dims=[8, 16]), "dims: expected one for each of four stages"),
        (lambda: VMamba(depths=[1] * 5), "depths: expected one"),
        (lambda: Vim("large"), r"arch: expected one of \['base', 'small', 'tiny'\], got 'large'"),
        (lambda: Vim("tiny", depth=0), "depth: expected at least 1, got 0"),
        (
            lambda: Vim("tiny", map_blocks=[1, 2, 3]),
            r"four of the blocks 1 to 24, got \[1, 2, 3\]",
        ),
        (lambda: Vim("tiny", map_blocks=[0, 8, 16, 24]), "map_blocks: expected four of the blocks 1 to 24"),
        (lambda: Vim(img_size=100), "img_size: expected a multiple of 16 pixels, got 100"),
        (lambda: Vim(dim=18, depth=1, pyramid=True), "in_channels: expected a multiple of 4, got 18"),
    ],
)
def test_errors(make, said):
    with pytest.raises(ValueError, match=said):
        make()
