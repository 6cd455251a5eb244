"""What the documents show works as they show it."""

import re
import shlex

import pytest
import torch

from avsmamba.config import load_config
from avsmamba.config.load import parse_options
from avsmamba.registry import MODELS
from tests import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / "models").rglob("*.md"),
]


def test_the_readme_s_config_builds_and_runs(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    child = tmp_path / "child.yaml"
    child.write_text(block.replace("../configs", str(ROOT / "configs")))
    cfg = load_config(child, {"model.audio_encoder.checkpoint": None})
    model = MODELS.build(cfg.model).eval()
    assert model.encoder is None and len(model.pyramid.fusion[0].temporal_mamba.ssm.D) == 12
    with torch.no_grad():
        assert model(torch.zeros(1, 2, 3, 32, 64), torch.zeros(1, 2, 1, 96, 64)).shape == (1, 2, 1, 32, 64)


def test_the_documents_configs_and_options_are_sound(tmp_path):
    places = {"../configs/": ROOT / "configs", "../_base_/": ROOT / "configs" / "_base_", " configs/": ROOT / "configs"}
    count = 0
    for page in PAGES:
        text = page.read_text()
        config = ROOT / "configs" / "avs_mamba" / "avs_mamba_pvtv2b5_ms3_512.yaml"
        for block in re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL):
            if "_base_:" not in block:
                continue
            for relative, place in places.items():
                block = re.sub(
                    rf"(?<![\w./]){re.escape(relative)}", f"{' ' if relative[0] == ' ' else ''}{place}/", block
                )
            child = tmp_path / "child.yaml"
            child.write_text(block)
            cfg = load_config(child)
            with torch.device("meta"):
                MODELS.build(cfg.model)
            count += 1
        if page.name == "configs.md":
            commands = re.findall(r"tools/train.py CONFIG --cfg-options (.*)", text)
            assert len(commands) == 2
            for command in commands:
                load_config(config, parse_options(shlex.split(command)))
    assert count >= 4


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_that_are_named_exist(page):
    text = page.read_text()
    named = r"(?<![\w/])(?:tools|configs|avsmamba|csrc|benchmarks)/[\w/]+\.(?:py|yaml|cpp|inl|h)\b"
    for name in set(re.findall(named, text)):
        assert (ROOT / name).is_file(), name
    assert "@DEMO_ROWS@" not in text
