"""`avsmamba publish`: what is in the folder, that it is the same model, and what is refused."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

import avsmamba
from avsmamba.checkpoint.reading import SAFETENSORS_META, read_file
from avsmamba.cli import main
from avsmamba.config.load import load_config
from avsmamba.model_zoo.card import read_scores
from avsmamba.model_zoo.folder import FILES, read_folder, sha256
from avsmamba.model_zoo.publish import write_card
from avsmamba.utils import UserError
from avsmamba.web.work import AppState, find_models
from tests import ROOT
from tests.model_zoo.conftest import METRICS
from tests.small_model import AVSS, CONFIG


def prediction(*model):
    """Probabilities of a model for five random frames with a random sound."""
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    found = avsmamba.load_model(*map(str, model)).predict((frames, random.uniform(-1, 1, 80_000), 16_000))
    return found.probabilities


def flip_a_bit(path, place):
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 1]))


def test_what_is_published_is_the_same_model(trained, publish, tmp_path):
    folder = publish(tmp_path / "toy")
    assert {p.name for p in folder.iterdir()} == {*FILES} and all(p.stat().st_mode & 0o44 for p in folder.iterdir())
    expected = prediction(trained / "small.yaml", trained / "iter_7.pth")
    assert np.array_equal(prediction(folder), expected) and expected.std() > 0
    config, original = load_config(folder / "config.yaml").to_dict(), load_config(trained / "small.yaml").to_dict()
    assert config == {key: value for key, value in original.items() if key != "work_dir"}
    assert "_base_" not in (folder / "config.yaml").read_text()
    weights = folder / "model.safetensors"
    content = read_file(weights)
    assert set(content) == {"state_dict", "meta"} and content["meta"] == {"dataset_meta": {"classes": ["sounding"]}}
    assert weights.stat().st_size < (trained / "iter_7.pth").stat().st_size / 3
    assert "secret" not in "".join((folder / name).read_text() for name in FILES[:3])


def test_the_card(publish, tmp_path):
    folder = publish(tmp_path / "toy")
    card = read_folder(folder).card
    training, (score,) = card["training"], card["scores"]
    assert (card["name"], card["about"], card["dtype"]) == ("toy", "Knows nothing: random weights.", "float32")
    assert [training[key] for key in ("iterations", "date", "seed", "commit")] == [7, "2026-01-02", 3, "abc"]
    assert training["before"] == ["make the data"] and training["command"] == "python tools/train.py X"
    assert (score["of"], score["sound"], score["M_J"], score["clips"]) == ("a test set", "real", 0.1235, 2)
    text = (folder / "README.md").read_text()
    for part in (card["about"], sha256(folder / "model.safetensors"), 'load_model("./toy")', "python tools/train.py X"):
        assert part in text
    assert "| a test set | real | frame/own | 2 | 10 | 0.1235 | 0.2000 | – |" in text
    assert "| a test set | real | batch_1/512_soft, avs_mamba | 2 | 10 | 0.3000 | 0.4000 | – |" in text


def test_the_hub_reads_the_card_s_front_matter(publish, tmp_path):
    folder = publish(tmp_path / "toy")
    data = ModelCard.load(folder / "README.md").data
    assert (data.license, data.library_name, data.model_name) == ("apache-2.0", "avsmamba", "toy")
    assert "audio-visual-segmentation" in data.tags
    found = [(r.metric_type, r.metric_value, r.metric_args["convention"]) for r in data.eval_results]
    own = METRICS["convention"]["key"]
    assert found == [("M_J", 0.1235, "frame/own"), ("M_F", 0.2, "frame/own"), ("M_J", 0.3, own), ("M_F", 0.4, own)]
    first = data.eval_results[0]
    assert (first.dataset_name, first.dataset_type, first.dataset_split) == ("a test set", "a-test-set", "test")
    # Without scores there is no model-index, and a name that YAML would read as a number stays text.
    data = ModelCard.load(publish(tmp_path / "010", scores=[], license="unknown") / "README.md").data
    assert data.eval_results is None and data.license == "unknown"


def test_scores_with_wrong_sounds_are_in_the_table_only(publish, tmp_path):
    row = {"own": {"frame": {"M_J": 0.5, "M_F": 0.6}}, "marked": {"frames": 0.25}}
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "env.json").write_text('{"command": "test it"}')
    path = tmp_path / "robustness.json"
    path.write_text(json.dumps({"clips": 3, "frames": 15, "sounds": {"real": row, "swap": row}}))
    real, swap = read_scores(str(path))
    assert real == {**swap, "sound": "real", "command": "test it"} and real["of"] == tmp_path.name
    assert (swap["sound"], swap["M_J"], swap["marked_frames"], swap["clips"]) == ("swap", 0.5, 0.25, 3)
    readme = publish(tmp_path / "toy", scores=[f"some: data={path}"]) / "README.md"
    assert "| some: data | swap | frame/own | 3 | 15 | 0.5000 | 0.6000 | 25.0 % |" in readme.read_text()
    results = ModelCard.load(readme).data.eval_results
    assert len(results) == 2 and {r.metric_args["sound"] for r in results} == {"real"}
    path.write_text('{"clips": 3}')
    with pytest.raises(UserError, match=r"robustness\.json: expected metrics"):
        read_scores(str(path))


def test_half_precision_is_half_as_large_and_near(publish, tmp_path):
    folder = publish(tmp_path / "toy")
    whole, size = prediction(folder), (folder / "model.safetensors").stat().st_size
    publish(tmp_path / "toy", dtype="float16")  # takes the place of what was there
    near = prediction(folder)
    assert np.abs(near.astype(int) - whole.astype(int)).max() <= 3
    assert (folder / "model.safetensors").stat().st_size < 0.75 * size
    assert [p.name for p in tmp_path.iterdir()] == ["toy"]


def test_classes_and_the_authors_reading_are_kept(publish, trained, tmp_path):
    names = ["background", *(f"thing {i}" for i in range(1, 71))]
    content = read_file(trained / "iter_7.pth")
    content["meta"] |= {"authors_reading": "object", "dataset_meta": {"classes": names}}
    torch.save(content, tmp_path / "read.pth")
    with pytest.warns(UserWarning, match="trained from a checkpoint of the authors' code"):
        folder = publish(tmp_path / "toy", checkpoint=tmp_path / "read.pth")
    meta = read_file(folder / "model.safetensors")["meta"]
    assert meta == {"authors_reading": "object", "dataset_meta": {"classes": names}}
    with pytest.warns(UserWarning, match="trained from a checkpoint of the authors' code"):
        model = avsmamba.load_model(folder).model
    assert model.authors_reading == "object" and model.pyramid.repeat_stride_8


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml"])
def test_a_damaged_file_is_refused(publish, tmp_path, name):
    folder = publish(tmp_path / "toy")
    flip_a_bit(folder / name, 2000)
    with pytest.raises(UserError, match=rf"{name}: is not the file that was published: SHA-256"):
        avsmamba.load_model(folder)
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf"{name}: is missing"):
        avsmamba.load_model(folder)


def test_missing_tensors_are_refused_although_the_card_agrees(publish, tmp_path):
    from safetensors.torch import save_file

    folder = publish(tmp_path / "toy")
    state = read_file(folder / "model.safetensors")["state_dict"]
    state.pop(next(name for name in state if name.startswith("head.")))
    save_file(state, folder / "model.safetensors", {SAFETENSORS_META: "{}"})
    write_card(folder, read_folder(folder).card)
    with pytest.raises(UserError, match=r"model\.safetensors: does not fit AVSSegmentor: tensors 1 missing \(head"):
        avsmamba.load_model(folder)
    save_file(state, folder / "model.safetensors", {SAFETENSORS_META: "[1]"})
    write_card(folder, read_folder(folder).card)
    with pytest.raises(UserError, match="not a mapping"):
        avsmamba.load_model(folder)


@pytest.mark.parametrize(
    "change",
    [
        "[]",
        "{",
        '{"name": "toy", "config": "config.yaml", "checkpoint": "model.safetensors", "files": {}}',
        '{"name": "toy", "config": "../x.yaml", "checkpoint": "y", "files": {"../x.yaml": {"sha256": "0"}}}',
    ],
)
def test_a_faulty_card_is_refused(publish, tmp_path, change):
    folder = publish(tmp_path / "toy")
    (folder / "card.json").write_text(change)
    with pytest.raises(UserError, match=r"card\.json: not a model's card"):
        read_folder(folder)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"out": "/tmp/a b"}, "--out: expected a folder named"),
        ({"license": "my own"}, "--license: expected"),
        ({"dtype": "int8"}, "--dtype: expected"),
        ({"config": CONFIG}, "does not fit"),
        ({"config": AVSS}, "does not fit"),
        ({"checkpoint": "none.pth"}, "no such checkpoint"),
        ({"scores": ["none.json"]}, r"none\.json"),
    ],
)
def test_malformed(publish, tmp_path, change, match):
    with pytest.raises(UserError, match=match):
        publish(**{"out": tmp_path / "new" / "toy", **change})
    assert not list(tmp_path.iterdir())


def test_other_folders_are_not_replaced(publish, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"--out: .*/home: expected a new folder.* contains thesis\.tex"):
        publish(tmp_path / "home")
    assert [p.name for p in (tmp_path / "home").iterdir()] == ["thesis.tex"]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--out: .*/file: expected a new folder"):
        publish(tmp_path / "file")


def test_weights_that_are_not_numbers_or_not_the_model_s_are_refused(publish, trained, tmp_path):
    content = read_file(trained / "iter_7.pth")
    name = next(k for k, v in content["state_dict"].items() if v.is_floating_point())
    content["state_dict"]["other.weight"] = torch.zeros(1)
    torch.save(content, tmp_path / "more.pth")
    with (
        pytest.raises(UserError, match=r"1 tensors in it are not the model's: other\.weight"),
        pytest.warns(UserWarning, match="not used"),
    ):
        publish(tmp_path / "toy", checkpoint=tmp_path / "more.pth")
    del content["state_dict"]["other.weight"]
    content["state_dict"][name] = content["state_dict"][name] * float("nan")
    torch.save(content, tmp_path / "nan.pth")
    with pytest.raises(UserError, match="not finite"):
        publish(tmp_path / "toy", checkpoint=tmp_path / "nan.pth")
    assert not (tmp_path / "toy").exists()


def test_the_tool(trained, tmp_path):
    command = [sys.executable, "tools/publish.py", str(trained / "small.yaml"), str(trained / "iter_7.pth")]
    done = subprocess.run([*command, "--out", tmp_path / "toy"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stdout.count("\n") == 4, done.stderr
    card = read_folder(tmp_path / "toy").card
    assert (
        card["about"]
        == "A model of audio-visual segmentation, trained with small.yaml on sounding_shapes (AVSBenchMS3)."
    )
    assert card["license"] == "unknown" and card["hub"] is None


def test_commands_read_the_folder(publish, avsbench, tmp_path, monkeypatch, capsys):
    """`avsmamba test FOLDER`, with the checkpoint in it and the model's name for the work dir; the page's list."""
    monkeypatch.chdir(tmp_path)
    publish(tmp_path / "toy")
    options = ["--cfg-options", "test_dataloader.dataset.split=test"]
    assert main(["test", "toy", "--data-root", str(avsbench), *options]) == 0
    metrics = json.loads((tmp_path / "work_dirs" / "toy" / "metrics.json").read_text())
    assert metrics["clips"] > 0 and "M_J" in capsys.readouterr().out
    app = AppState(find_models("toy", None), "cpu", 1, 1, tmp_path)
    assert next(iter(app.models)) == "toy" and app.predictor("toy").num_frames == 5
    with pytest.raises(SystemExit):
        main(["test", str(CONFIG)])
    assert "a config requires a checkpoint" in capsys.readouterr().err
