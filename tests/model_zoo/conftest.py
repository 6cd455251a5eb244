import json

import pytest
import torch

from avsmamba.checkpoint.reading import read_file
from avsmamba.config.load import load_config, parse_options
from avsmamba.config.yaml_io import dump
from avsmamba.model_zoo.publish import publish_model
from tests.datasets.conftest import avsbench, original  # noqa: F401
from tests.engine.conftest import one_thread, same_environment, short  # noqa: F401
from tests.small_model import CONFIG, SMALL, write_checkpoint

METRICS = {
    "audio": "real",
    "clips": 2,
    "frames": 10,
    "frame": {"M_J": 0.123456, "M_F": 0.2},
    "convention": {"name": "avs_mamba", "key": "batch_1/512_soft", "M_J": 0.3, "M_F": 0.4},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Write a small config with a base, and the files of its training, with random weights."""
    folder = tmp_path_factory.mktemp("trained")
    write_checkpoint(folder / "plain.pth")
    weights = read_file(folder / "plain.pth")["state_dict"]
    meta = {"iter": 7, "time": "20260102_030405", "cfg": "x" * 1000, "dataset_meta": {"classes": ("sounding",)}}
    torch.save({"meta": meta, "state_dict": weights, "optimizer": {"big": torch.zeros(500_000)}}, folder / "iter_7.pth")
    (folder / "env.json").write_text(json.dumps({"command": "python tools/train.py X", "commit": "abc", "seed": 3}))
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    small = load_config(CONFIG, parse_options(SMALL)).to_dict()
    small = {key: value for key, value in small.items() if key != "default_scope"}
    (folder / "small_base.yaml").write_text(dump(small))
    (folder / "small.yaml").write_text(
        "_base_: small_base.yaml\ntrain_cfg: {max_iters: 7, val_interval: 7}\nwork_dir: /home/somebody/secret\n"
    )
    return folder


@pytest.fixture
def publish(trained):
    """Publish the model of `trained`; arguments of `publish_model` may be replaced."""

    def call(out, **change):
        arguments = {
            "config": trained / "small.yaml",
            "checkpoint": trained / "iter_7.pth",
            "out": out,
            "scores": [f"a test set={trained / 'metrics.json'}"],
            "about": "Knows nothing: random weights.",
            "license": "apache-2.0",
            "commands": ["make the data"],
            **change,
        }
        return publish_model(**arguments)

    return call
