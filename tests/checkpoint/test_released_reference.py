"""The float64 reference of the released model has the properties that its description states."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision

from tests.checkpoint import released_reference as reference
from tests.checkpoint.released_backbones import pvt, resnet, resnet_lines, vggish
from tests.checkpoint.released_reference import BACKBONES, key_lines, random_state

LISTS = [f"avs_mamba_released_{kind}" for kind in ("pvt_object", "pvt_semantic", "r50_object", "r50_semantic")]
SIZES = [(6, 10), (3, 5), (2, 3), (1, 2)]
SMALL = [(3, 4), (2, 2), (1, 2), (1, 1)]
PVT, R50 = (64, 128, 320, 512), (256, 512, 1024, 2048)
FRAMES = 2


class Watched(dict):
    """A state dict that remembers which of its tensors were read."""

    def __init__(self, state):
        super().__init__(state)
        self.read = set()

    def __getitem__(self, name):
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name, default=None):
        self.read.add(name)
        return super().get(name, default)

    def unread(self):
        return self.keys() - self.read


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def state():
    return random_state(key_lines("avs_mamba_released_pvt_object", without=BACKBONES), seed=0)


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def draw_maps(sizes=SIZES[1:]):
    return [draw(FRAMES, 256, *size) for size in sizes]


def draw_inputs(channels=PVT, clips=1, sizes=SIZES):
    maps = [draw(clips, FRAMES, c, *size) for c, size in zip(channels, sizes, strict=True)]
    return maps, draw(clips, FRAMES, 128).relu()


def changed(state, *prefixes):
    """Copy the state with every tensor of these prefixes replaced."""
    return {k: v * 0.5 + 0.3 if k.startswith(prefixes) else v for k, v in state.items()}


def differ(a, b):
    """Return the largest difference, relative to the size of b."""
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("name", LISTS)
def test_random_state_has_the_listed_names_and_shapes(name):
    lines = key_lines(name, without=BACKBONES)
    state = random_state(lines, seed=3)
    assert {f"{k} {tuple(v.shape)}" for k, v in state.items()} == set(lines)
    assert all(v.dtype == torch.float64 for v in state.values())
    for key in (k for k in state if k.startswith("mamba_decoder_block.")):
        original = key.replace("mamba_decoder_block.", "mamba_decoder.1.")
        assert torch.equal(state[key], state[original]) and state[key] is not state[original]
    step = F.softplus(state["mamba_encoder.0.mamba_block.dt_projs_bias"])
    assert 0.0009 < step.min() < 0.002 and 0.05 < step.max() < 0.11


def test_random_state_depends_on_seed_and_name_alone():
    lines = key_lines("avs_mamba_released_r50_semantic")
    few = [line for line in lines if line.startswith("cmfpn.adapter")]
    one, again, other = random_state(few, 1), random_state([few[-1]], 1), random_state(few, 2)
    name = few[-1].split()[0]
    assert torch.equal(one[name], again[name]) and not torch.equal(one[name], other[name])
    assert random_state(reference.KEYS / "vim_tiny.txt").keys() == random_state(key_lines("vim_tiny")).keys()


@pytest.mark.parametrize(("kind", "classes", "channels"), [("pvt_object", 1, PVT), ("r50_semantic", 71, R50)])
def test_what_the_model_reads_and_what_it_gives(kind, classes, channels):
    state = Watched(random_state(key_lines(f"avs_mamba_released_{kind}", without=BACKBONES)))
    flags = torch.tensor([[1, 1], [1, 0]])
    logits = reference.neck_and_head(state, *draw_inputs(channels, clips=2), flags)
    assert [tuple(x.shape) for x in logits] == [(2, FRAMES, classes, 24, 40)] * 2
    assert all(x[1, 1].eq(0).all() and x[0].ne(0).any() and 0.05 < x[0].std() < 5 for x in logits)
    never = ("mamba_decoder_block.", "cmfpn.self_attns.3.", "query_embed", "audio_feature_projection", "audio_recons")
    mixffn_norms = {f"mamba_encoder.{i}.mixffn.norm.{part}" for i in (0, 1) for part in ("weight", "bias")}
    assert state.unread() == {k for k in state if k.startswith(never)} | mixffn_norms


def test_clips_of_a_batch_do_not_meet_and_padding_hides_its_maps(state):
    maps, audio = draw_inputs(clips=2, sizes=SMALL)
    both = reference.neck_and_head(state, maps, audio)
    second = reference.neck_and_head(state, [m[1:] for m in maps], audio[1:], torch.ones(1, FRAMES))
    for x, y in zip(both, second, strict=True):
        torch.testing.assert_close(x[1:], y, rtol=1e-12, atol=1e-12)
    flags = torch.tensor([[1, 0]])
    padded = reference.neck_and_head(state, [m[:1] for m in maps], audio[:1], flags)
    for m in maps:
        m[0, 1] = 7.0
    again = reference.neck_and_head(state, [m[:1] for m in maps], audio[:1], flags)
    assert all(torch.equal(x, y) for x, y in zip(padded, again, strict=True))
    assert differ(padded[1][0, 0], both[1][0, 0]) > 1e-6  # the empty frame takes part in the scans


def test_scan_of_three_tokens_by_hand():
    """One channel, one state, rank 1: the recurrence with Python's numbers."""
    a_log, d, (w_dt, w_b, w_c), dt_weight, dt_bias = 0.3, 0.8, (0.5, -1.1, 0.7), 1.3, -0.4
    h, expected = 0.0, []
    for x in (1.0, -2.0, 0.5):
        delta = math.log1p(math.exp(dt_weight * w_dt * x + dt_bias))
        h = math.exp(-math.exp(a_log) * delta) * h + delta * (w_b * x) * x
        expected.append(w_c * x * h + d * x)
    y = reference.scan(
        torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64),
        *(torch.tensor(v, dtype=torch.float64) for v in ([[a_log]], [d], [[w_dt], [w_b], [w_c]], [[dt_weight]])),
        torch.tensor([dt_bias], dtype=torch.float64),
    )
    torch.testing.assert_close(y[:, 0], torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=1e-14)


def test_scan_and_causal_convolution_do_not_look_ahead(state):
    block = "mamba_decoder.0.0.1.vision_to_audio_layer"
    x = draw(6, 512)
    later = x.clone()
    later[4] += 1
    order = [[0, 1, 2, 3, 4, 5]]
    for run in (
        lambda v: reference.causal(state, f"{block}.conv1d", v),
        lambda v: reference.scan_sum(state, block, v, order),
    ):
        y, moved = run(x), run(later)
        assert torch.equal(y[:4], moved[:4]) and (y[4:] != moved[4:]).any(1).all()
    padded = F.conv1d(F.pad(x.T, (3, 0)), state[f"{block}.conv1d.weight"], state[f"{block}.conv1d.bias"], groups=512).T
    torch.testing.assert_close(reference.causal(state, f"{block}.conv1d", x), F.silu(padded), rtol=1e-12, atol=1e-12)


def test_orders_of_tokens():
    """Two frames of 2 x 3 and a second scale of 1 x 1: tokens 0 to 11, 12 and 13."""
    shapes = [(2, 2, 3), (2, 1, 1)]
    orders = {d: reference.visual_order(d, shapes) for d in reference.TEMPORAL_DIRECTIONS}
    assert orders["THW"] == list(range(14)) and orders["THW-"] == list(range(13, -1, -1))
    assert orders["TWH"] == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11, 12, 13]
    assert orders["HWT"] == [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11, 12, 13]
    assert orders["WHT-"] == [13, 12, 11, 5, 8, 2, 10, 4, 7, 1, 9, 3, 6, 0]
    assert reference.visual_order("WH", [(1, 2, 3)]) == [0, 3, 1, 4, 2, 5]
    assert reference.audio_order("TWH-", 3, first=12) == [14, 13, 12]


def test_vss_and_mix_ffn_stay_in_their_frame_and_temporal_mamba_does_not(state):
    maps = draw_maps()
    moved = [m.clone() for m in maps]
    moved[2][1] += draw(*moved[2][1].shape)  # the coarsest map of the second frame
    layer = "mamba_encoder.1"
    vss = [reference.vss_block(state, layer, m) for m in (maps, moved)]
    assert [x.shape for x in vss[0]] == [m.shape for m in maps]
    assert all(torch.equal(x[0], y[0]) and differ(y[1], x[1]) > 1e-8 for x, y in zip(*vss, strict=True))
    ffn = [reference.mix_ffn(state, layer, m[2]) for m in (maps, moved)]
    assert torch.equal(ffn[0][0], ffn[1][0]) and differ(ffn[0][1], ffn[1][1]) > 1e-3
    norm, block = f"{layer}.norm3", f"{layer}.temporal_mamba"
    clips = [reference.temporal_mamba(state, norm, block, m) for m in (maps, moved)]
    assert all(differ(y[t], x[t]) > 1e-8 for x, y in zip(*clips, strict=True) for t in (0, 1))


def test_frame_level_is_blind_to_the_order_of_frames_and_temporal_level_is_not(state):
    visual, audio = draw(3, 256, 3, 5), draw(3, 256)
    order = torch.tensor([2, 0, 1])
    for level, blind in (("frame", True), ("temporal", False)):
        prefix = f"mamba_decoder.0.1.{0 if blind else 1}"
        y = reference.v2a_block(state, prefix, visual, audio, level)
        shuffled = reference.v2a_block(state, prefix, visual[order], audio[order], level)
        assert y.shape == audio.shape and torch.equal(shuffled, y[order]) is blind
        taps = {**state, f"{prefix}.vision_to_audio_layer.conv1d.weight": draw(512, 1, 4)}
        kept = taps[f"{prefix}.vision_to_audio_layer.conv1d.weight"]
        kept[..., 3] = state[f"{prefix}.vision_to_audio_layer.conv1d.weight"][..., 3]
        assert torch.equal(reference.v2a_block(taps, prefix, visual, audio, level), y) is blind
        assert differ(reference.v2a_block(state, prefix, visual.flip(-1), audio, level), y) > 1e-6


def test_audio_to_vision_reaches_every_pixel_of_the_clip(state):
    visual, audio = draw(FRAMES, 256, 3, 5), draw(FRAMES, 256)
    y = reference.a2v_block(state, "cmfpn.cross_attns.1", visual, audio)
    audio[1] += draw(256)
    moved = reference.a2v_block(state, "cmfpn.cross_attns.1", visual, audio)
    assert y.shape == visual.shape and (y != moved).any(1).all()


def test_slip_of_the_pyramid_and_the_audio_it_takes(state):
    maps, audio = draw_maps(SMALL), draw(FRAMES, 256)
    y = reference.cip(state, maps, audio)
    assert y.shape == maps[0].shape
    assert torch.equal(reference.cip(changed(state, "cmfpn.self_attns.3."), maps, audio), y)
    never_coarser = [torch.zeros_like(m) for m in maps[1:]]
    alone = {**state, "cmfpn.layer_2.weight": torch.zeros(256, 256, 3, 3, dtype=torch.float64)}
    finest = reference.cip(alone, [maps[0], *never_coarser], audio)  # nothing from stride 8 arrives at stride 4
    for index, matters in ((0, False), (1, False), (2, True)):
        moved = reference.cip(changed(alone, f"cmfpn.self_attns.{index}."), [maps[0], *never_coarser], audio)
        assert torch.equal(moved, finest) is not matters
    for index in range(4):
        assert differ(reference.cip(changed(state, f"cmfpn.cross_attns.{index}."), maps, audio), y) > 1e-6
    assert differ(reference.cip(state, maps, audio.flip(0)), y) > 1e-6


def test_copy_of_the_decoder_layer_is_ignored_and_layers_follow_one_another(state):
    maps, audio = draw_maps(), draw(FRAMES, 256)
    first, second = reference.mad(state, maps, audio)
    again = reference.mad(changed(state, "mamba_decoder_block."), maps, audio)
    assert torch.equal(again[0], first) and torch.equal(again[1], second)
    swapped = {k.replace("mamba_decoder.1.", "mamba_decoder.0."): v for k, v in state.items() if "_decoder.1." in k}
    torch.testing.assert_close(reference.mad({**state, **swapped}, maps, first)[0], second, rtol=1e-12, atol=1e-12)


def test_head_maps_one_number_a_pixel(state):
    query, features = draw(1, 256), draw(1, 256, 2, 3)
    w, b = ([state[f"mlp.layers.{i}.{part}"].squeeze() for i in range(3)] for part in ("weight", "bias"))
    x = torch.empty_like(features)
    for i in range(2):
        for j in range(3):
            number = query[0] @ features[0, :, i, j]
            hidden = F.relu(w[1] @ F.relu(w[0] * number + b[0]) + b[1])
            x[0, :, i, j] = w[2] @ hidden + b[2] + features[0, :, i, j]
    x = F.conv2d(x, state["fc.0.weight"], state["fc.0.bias"], padding=1)
    rows = []
    for out, size in ((8, 2), (12, 3)):  # weights of bilinear interpolation, pixel centres at half numbers
        at = ((torch.arange(out, dtype=torch.float64) + 0.5) / 4 - 0.5).clamp(0, size - 1)
        rows.append((1 - (at[:, None] - torch.arange(size)).abs()).clamp(min=0))
    x = rows[0] @ x @ rows[1].T
    x = F.relu(F.conv2d(x, state["fc.2.weight"], state["fc.2.bias"], padding=1))
    expected = F.conv2d(x, state["fc.4.weight"])
    torch.testing.assert_close(reference.head(state, query, features), expected, rtol=1e-10, atol=1e-10)


def first_blocks(lines, stages):
    """Keep the first block of each stage."""
    return [x for x in lines if not x.split(".")[1].startswith(stages) or x.split(".")[2] == "0"]


@pytest.mark.parametrize("size", [(64, 96), (75, 101)])
def test_pvt_is_the_public_one(size):
    lines = [x for x in key_lines(LISTS[0]) if x.startswith("vision_backbone.")]
    state = Watched(random_state(first_blocks(lines, "block")))
    public = timm.models.pvt_v2.PyramidVisionTransformerV2(
        depths=(1, 1, 1, 1), embed_dims=PVT, num_heads=(1, 2, 5, 8), mlp_ratios=(4, 4, 4, 4), num_classes=0
    ).double()
    plain = {k.removeprefix("vision_backbone."): v for k, v in state.items()}
    plain["head.weight"] = plain["head.bias"] = torch.zeros(1)
    filtered = timm.models.pvt_v2.checkpoint_filter_fn(plain, public)
    public.load_state_dict({k: v for k, v in filtered.items() if not k.startswith("head.")})
    pictures = draw(2, 3, *size)
    maps = pvt(state, pictures)
    assert [m.shape[1:] for m in maps] == [
        (c, *(-(-n // s) for n in size)) for c, s in zip(PVT, (4, 8, 16, 32), strict=True)
    ]
    assert not state.unread()
    torch.testing.assert_close(maps[3], public.eval().forward_features(pictures), rtol=1e-10, atol=1e-10)


def test_depths_of_pvt():
    stages = [x.split(".")[1:3] for x in key_lines(LISTS[0]) if ".block" in x]
    assert [len({i for s, i in stages if s == f"block{n}"}) for n in (1, 2, 3, 4)] == [3, 6, 40, 3]


def test_resnet_is_the_public_one_and_its_second_head_never_runs():
    lines = resnet_lines()
    plain = torchvision.models.resnet50()
    listed = {k.partition(" ")[0].removeprefix("vision_backbone."): k.partition(" ")[2] for k in lines}
    for head in ("_1", "_2"):
        shapes = {
            k.replace(f"{head}.", "."): s for k, s in listed.items() if f"{'_2' if head == '_1' else '_1'}." not in k
        }
        expected = {k: str(tuple(v.shape)) for k, v in plain.state_dict().items() if not k.startswith("fc.")}
        assert shapes == expected
    state = Watched(random_state(resnet_lines((1, 2, 1, 1))))
    assert state["vision_backbone.bn1.num_batches_tracked"].dtype == torch.int64
    assert state["vision_backbone.bn1.running_var"].min() > 0
    public = torchvision.models.resnet.ResNet(torchvision.models.resnet.Bottleneck, [1, 2, 1, 1]).double()
    heads = {k.removeprefix("vision_backbone.").replace("_1.", "."): v for k, v in state.items() if "_2." not in k}
    public.load_state_dict(heads, strict=False)
    taken = torchvision.models._utils.IntermediateLayerGetter(
        public.eval(), {f"layer{n}": str(n - 1) for n in (1, 2, 3, 4)}
    )
    pictures = draw(2, 3, 75, 101)
    maps = resnet(state, pictures)
    for m, expected in zip(maps, taken(pictures).values(), strict=True):
        torch.testing.assert_close(m, expected, rtol=1e-10, atol=1e-10)
    assert [m.shape[1] for m in maps] == list(R50)
    assert {x for x in state.unread() if "num_batches" not in x} == {
        x for x in state if "_2." in x and "num_batches" not in x
    }


def narrow_vggish():
    """List VGGish with linear layers of 8 rather than 4096 units."""
    lines = [x for x in key_lines(LISTS[0]) if x.startswith("audio_backbone.")]
    assert "audio_backbone.embeddings.0.weight (4096, 12288)" in lines
    return [x.replace("4096", "8") for x in lines]


def test_vggish_flattens_channels_last():
    state = Watched(random_state(narrow_vggish()))
    y = vggish(state, draw(2, 1, 96, 64))
    assert y.shape == (2, 128) and (y >= 0).all() and (y > 0).any() and not state.unread()
    layers = []
    for i in (0, 3, 6, 8, 11, 13):
        w = state[f"audio_backbone.features.{i}.weight"]
        conv = torch.nn.Conv2d(w.shape[1], w.shape[0], 3, padding=1)
        layers += [conv, torch.nn.ReLU()] + ([torch.nn.MaxPool2d(2)] if i in (0, 3, 8, 13) else [])
    features = torch.nn.Sequential(*layers).double()
    features.load_state_dict(
        {k.removeprefix("audio_backbone.features."): v for k, v in state.items() if "features" in k}
    )
    patch = draw(1, 1, 96, 64)
    rows = torch.stack([x for row in features(patch)[0].unbind(1) for x in row.unbind(1)])  # (6 x 4, 512)
    z = rows.flatten()
    for i in (0, 2, 4):
        z = F.relu(state[f"audio_backbone.embeddings.{i}.weight"] @ z + state[f"audio_backbone.embeddings.{i}.bias"])
    torch.testing.assert_close(vggish(state, patch)[0], z, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backbone", ["pvt", "r50"])
def test_whole_model_gives_logits_of_the_pictures_size_and_hears_nothing_in_padded_frames(backbone):
    keys = f"avs_mamba_released_{backbone}_object"
    pvt_lines = [x for x in key_lines(LISTS[0]) if x.startswith("vision_backbone.")]
    vision = first_blocks(pvt_lines, "block") if backbone == "pvt" else resnet_lines((1, 1, 1, 1))
    state = random_state([*key_lines(keys, without=BACKBONES), *vision, *narrow_vggish()])
    pictures, log_mel, flags = draw(1, FRAMES, 3, 32, 32), draw(1, FRAMES, 1, 96, 64), torch.tensor([[1, 0]])
    logits = reference.segment(state, pictures, log_mel, flags)
    assert [tuple(x.shape) for x in logits] == [(1, FRAMES, 1, 32, 32)] * 2
    maps = [m[None] for m in (pvt if backbone == "pvt" else resnet)(state, pictures[0])]
    log_mel[0, 1] = 0
    expected = reference.neck_and_head(state, maps, vggish(state, log_mel[0])[None], flags)
    assert all(torch.equal(x, y) for x, y in zip(logits, expected, strict=True))
