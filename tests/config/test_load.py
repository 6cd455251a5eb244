"""YAML configs: values, bases, options and one-line errors."""

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mmengine.config import Config

from avsmamba.config import yaml_io
from avsmamba.config.load import load_config, merge, parse_options
from avsmamba.utils import UserError
from tests import ROOT
from tests.engine.standins import config


def fails(match, function, *args, **kwargs):
    """`function` raises a UserError of one line that holds every word of `match`."""
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    for word in [match] if isinstance(match, str) else match:
        assert word in text
    return text


@pytest.mark.parametrize(
    "text, value",
    [
        ("2e-5", 2e-5),
        ("1e5", 1e5),
        ("3E+4", 3e4),
        ("-1.5e-3", -1.5e-3),
        (".5", 0.5),
        ("1.", 1.0),
        ("1_000", 1000),
        ("010", 10),
        ("0x1f", 31),
        ("-7", -7),
        ("1:30", "1:30"),
        ("2024-01-02", "2024-01-02"),
        ("yes", True),
        ("off", False),
        ("null", None),
        ("None", None),
        ("", None),
        (".inf", math.inf),
        ("'2e-5'", "2e-5"),
        ("e5", "e5"),
        ("[1, 2.5, x]", [1, 2.5, "x"]),
        ("{a: {b: 1e-3}}", {"a": {"b": 1e-3}}),
    ],
)
def test_values(text, value):
    got = yaml_io.parse(text, "test")
    assert got == value
    assert type(got) is type(value)


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
trees = st.recursive(scalars, lambda t: st.lists(t, max_size=3) | st.dictionaries(st.text(max_size=6), t, max_size=3))


@settings(deadline=None)
@given(trees)
@example({"\x85": "a\u2028b"})
def test_a_dump_reads_back(value):
    assert yaml_io.parse(yaml_io.dump(value), "test") == value


@pytest.mark.parametrize("value", ["2e-5", "yes", "010", "None", "1:30", "2024-01-02", "~", "0x1f", "1.", ".inf"])
def test_text_that_looks_like_a_number_stays_text(value):
    assert yaml_io.parse(yaml_io.dump({"a": value}), "test") == {"a": value}


def test_mmengine_dumps_with_the_same_rules(tmp_path):
    cfg = Config({"b": (1, 2), "a": {"lr": 2e-5, "text": "2e-5"}})
    cfg.dump(str(tmp_path / "x.yaml"))
    text = (tmp_path / "x.yaml").read_text()
    assert text.index("b:") < text.index("a:")
    again = Config.fromfile(tmp_path / "x.yaml")
    assert again.a == {"lr": 2e-5, "text": "2e-5"}
    assert again.b == [1, 2]


@pytest.mark.parametrize(
    "text, words",
    [
        ("a: 1\nb: 2\na: 3\n", ["line 3", "'a'", "twice"]),
        ("m:\n  x: 1\n  x: 2\n", ["line 3", "'x'", "twice"]),
        ("a: 1\n2: x\n", ["line 2", "string", "'2'"]),
        ("a: [1\nb: 2\n", ["line 2"]),
        ("- 1\n", ["mapping", "list"]),
        ("5\n", ["mapping", "int"]),
        ("a: &x {b: *x}\n", []),
        ("a: {{ x }}\n", ["line 1", "string"]),
        ("a: !thing 1\n", ["line 1", "!thing"]),
    ],
)
def test_faults_name_file_and_line(tmp_path, text, words):
    path = tmp_path / "faulty.yaml"
    path.write_text(text)
    fails(["faulty.yaml", *words], load_config, path)


def test_no_code_runs(tmp_path):
    path, trace = tmp_path / "evil.yaml", tmp_path / "trace"
    for value in (f"!!python/object/apply:os.system ['touch {trace}']", "!!python/name:os.system"):
        path.write_text(f"model: {value}\n")
        fails(["evil.yaml, line 1", "python"], load_config, path)
    evil = {"type": "os.system", "command": f"touch {trace}"}
    for where, name in (("model", "model"), ("custom_hooks.0", "hook"), ("visualizer", "visualizer")):
        key, _, in_list = where.partition(".")
        path = config(tmp_path, **{key: [evil] if in_list else evil})
        fails([f"{where}.type", f"no {name} 'os.system'"], load_config, path)
    for key in ("worker_init_fn", "collate_fn"):
        path = config(tmp_path)
        options = {f"train_dataloader.{key}": {"type": "os.system"}}
        fails(f"train_dataloader.{key}.type", load_config, path, options)
    fails("optim_wrapper.constructor", load_config, path, {"optim_wrapper.constructor": "os.system"})
    fails("custom_imports", load_config, path, {"custom_imports": {"imports": ["os"]}})
    assert not trace.exists()


def test_variables_are_not_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("LR", "1")
    cfg = load_config(config(tmp_path, work_dir="{{$LR:2}}/{{ fileBasename }}"))
    assert cfg.work_dir == "{{$LR:2}}/{{ fileBasename }}"


def test_missing_files(tmp_path):
    fails("none.yaml: no such file", load_config, tmp_path / "none.yaml")
    fails("x.py", load_config, tmp_path / "x.py")
    (tmp_path / "a.yaml").write_text("_base_: b.yaml\n")
    fails(["a.yaml", "b.yaml", "no such file"], load_config, tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("_base_: a.yaml\n")
    fails("base of itself", load_config, tmp_path / "a.yaml")
    (tmp_path / "c.yaml").write_text("_base_: {x: 1}\n")
    fails("_base_", load_config, tmp_path / "c.yaml")
    (tmp_path / "d.yaml").write_bytes(b"\xff\xfe\x00")
    fails("d.yaml", load_config, tmp_path / "d.yaml")
    fails("cannot be read", load_config, _folder(tmp_path / "e.yaml"))


def _folder(path):
    path.mkdir()
    return path


def test_an_empty_file_lacks_a_model(tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    fails("model", load_config, tmp_path / "empty.yaml")


def test_bases(tmp_path):
    path = config(tmp_path)
    (tmp_path / "mid.yaml").write_text(f"_base_: {path.name}\nmodel: {{embed_dims: 4, head: {{num_classes: 1}}}}\n")
    child = tmp_path / "sub" / "child.yaml"
    child.parent.mkdir()
    child.write_text("_base_: [../mid.yaml]\nmodel:\n  head: {_delete_: true, type: StandInHead, dropout: 0.1}\n")
    cfg = load_config(child)
    assert cfg.model.head == {"type": "StandInHead", "dropout": 0.1}
    assert cfg.model.embed_dims == 4
    assert cfg.default_hooks.checkpoint.save_best == "M_J"
    assert cfg.filename == str(child)


def test_two_bases_must_not_share_a_key(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.yaml").write_text("model: {x: 1}\n")
    (tmp_path / "c.yaml").write_text("_base_: [a.yaml, b.yaml]\n")
    fails(["c.yaml", "'model'", "a.yaml", "b.yaml"], load_config, tmp_path / "c.yaml")


def test_merge():
    base = {"a": {"x": 1, "y": [1, 2]}, "n": None, "s": 3}
    assert merge(base, {"a": {"y": [5]}, "n": {"k": 1}}, "f") == {"a": {"x": 1, "y": [5]}, "n": {"k": 1}, "s": 3}
    assert merge(base, {"a": None}, "f")["a"] is None
    assert base == {"a": {"x": 1, "y": [1, 2]}, "n": None, "s": 3}
    fails(["f:", "a is 5", "mapping"], merge, base, {"a": 5}, "f")
    fails(["f:", "a.y", "list"], merge, base, {"a": {"y": {"0": 1}}}, "f")


def test_a_left_over_delete_goes(tmp_path):
    cfg = load_config(config(tmp_path, param_scheduler=None, optim_wrapper={
        "_delete_": True, "type": "OptimWrapper", "optimizer": {"_delete_": True, "type": "SGD", "lr": 0.1}
    }))  # fmt: skip
    assert cfg.optim_wrapper == {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.1}}


def test_options(tmp_path):
    words = [
        "optim_wrapper.optimizer.lr=2e-5",
        "model.head={type: StandInHead, dropout: 0}",
        "param_scheduler.0.power=1",
    ]
    words += ["train_dataloader.dataset.noise=1e-1", "load_from=null", "default_hooks.timer=None", "work_dir='1.10'"]
    cfg = load_config(config(tmp_path), parse_options(words))
    assert cfg.optim_wrapper.optimizer.lr == 2e-5
    assert cfg.model.head == {"type": "StandInHead", "dropout": 0}
    assert cfg.param_scheduler[0].power == 1
    assert cfg.train_dataloader.dataset.noise == 0.1
    assert cfg.load_from is None and cfg.default_hooks.timer is None
    assert cfg.work_dir == "1.10"
    replaced = parse_options(["model.head.type=StandInHead", "model.head._delete_=true"])
    assert load_config(config(tmp_path, model={"type": "StandInModel", "head": {"x": 1}}), replaced).model.head == {
        "type": "StandInHead"
    }


@pytest.mark.parametrize(
    "word, match",
    [
        ("nokey", ["--cfg-options", "key=value", "nokey"]),
        ("=3", ["key=value"]),
        ("a..b=3", ["key=value"]),
        ("model=[1", ["--cfg-options model"]),
        ("model=5", ["model is 5"]),
        ("param_scheduler.7.power=1", ["'7'", "list of 1"]),
        ("param_scheduler.x=1", ["'x'", "list of 1"]),
        ("resume.x=1", ["resume", "not a mapping"]),
        ("resume.x.y=1", ["no keys"]),
    ],
)
def test_malformed_options(tmp_path, word, match):
    path = config(tmp_path)
    fails(match, lambda: load_config(path, parse_options([word])))


def test_the_same_option_twice():
    fails("set twice", parse_options, ["a=1", "a=2"])


def test_data_root(tmp_path, monkeypatch):
    path = config(tmp_path)
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    assert load_config(path).train_dataloader.dataset.data_root == "nowhere"
    monkeypatch.setenv("AVSBENCH_ROOT", str(one))
    assert load_config(path).val_dataloader.dataset.data_root == str(one)
    cfg = load_config(path, data_root=str(two))
    assert {cfg[f"{m}_dataloader"].dataset.data_root for m in ("train", "val", "test")} == {str(two)}
    fails(["--data-root", "nix"], load_config, path, data_root=str(tmp_path / "nix"))
    monkeypatch.setenv("AVSBENCH_ROOT", "/nix")
    fails(["AVSBENCH_ROOT", "/nix"], load_config, path)


def test_data_root_may_be_remote_and_the_variable_leaves_shards_alone(tmp_path, monkeypatch):
    path, root = config(tmp_path), "https://host/shards"
    assert load_config(path, data_root=root).train_dataloader.dataset.data_root == root
    monkeypatch.setenv("AVSBENCH_ROOT", str(tmp_path))
    options = {"train_dataloader.dataset": {"_delete_": True, "type": "ShardedS4", "data_root": "x", "split": "train"}}
    cfg = load_config(path, options)
    assert cfg.train_dataloader.dataset.data_root == "x" and cfg.val_dataloader.dataset.data_root == str(tmp_path)
    assert load_config(path, options, root).train_dataloader.dataset.data_root == root


def test_data_root_reaches_nested_sets(tmp_path):
    inner = {"type": "StandInDataset", "data_root": "x", "split": "train"}
    options = {"train_dataloader.dataset": {"_delete_": True, "type": "ConcatDataset", "datasets": [inner, inner]}}
    cfg = load_config(config(tmp_path), options, data_root=str(tmp_path))
    assert [d.data_root for d in cfg.train_dataloader.dataset.datasets] == [str(tmp_path)] * 2


CONFIGS = sorted(p for folder in ("avs_mamba", "baselines") for p in (ROOT / "configs" / folder).glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_passes_the_check(path):
    assert load_config(path).model.type == ("ECMVAESegmentor" if "ecmvae" in path.stem else "AVSSegmentor")


def test_the_configs_are_all_there():
    sizes = [f"{b}_{s}_512" for b in ("pvtv2b5", "r50") for s in ("ms3", "s4")]
    tiny = [f"tiny_{name}" for name in ("ms3_shapes", "s4_shapes", "ms3_shapes_negatives", "ms3_shapes_hard")]
    names = {f"avs_mamba_{name}" for name in [*sizes, *tiny]}
    assert names <= {p.stem for p in CONFIGS}
