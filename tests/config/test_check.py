"""The checker: each fault is one line with the config's path and the nearest known names."""

import pytest

from avsmamba.config.check import arguments, check_config, find
from avsmamba.config.load import load_config
from avsmamba.registry import HOOKS, MODELS, OPTIM_WRAPPERS
from tests import ROOT
from tests.config.test_load import fails
from tests.engine.standins import config


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("trian_cfg", {}, ["trian_cfg", "train_cfg"]),
        ("model.embed_dimms", 3, ["model.embed_dimms: StandInModel takes no 'embed_dimms'", "'embed_dims'"]),
        ("model.type", "StandInModl", ["model.type: no model 'StandInModl'", "'StandInModel'"]),
        ("model.head.droput", 0, ["model.head.droput: StandInHead takes no 'droput'", "'dropout'"]),
        ("model.head.type", "StandInHed", ["model.head.type", "'StandInHead'"]),
        ("model.head.zzz", 0, ["model.head.zzz", "it takes", "dropout, embed_dims, num_classes"]),
        ("train_dataloader.num_worker", 1, ["train_dataloader.num_worker: DataLoader", "'num_workers'"]),
        ("train_dataloader.sampler.shufle", 1, ["train_dataloader.sampler.shufle: DefaultSampler", "'shuffle'"]),
        ("train_dataloader.sampler.type", "DefaultSample", ["train_dataloader.sampler.type", "'DefaultSampler'"]),
        ("train_dataloader.dataset.spilt", "x", ["train_dataloader.dataset.spilt: StandInDataset", "'split'"]),
        ("val_dataloader.dataset.type", "StandinDataset", ["val_dataloader.dataset.type", "'StandInDataset'"]),
        ("train_dataloader.dataset.data_root", "_delete", None),
        ("val_evaluator.batchsize", 1, ["val_evaluator.batchsize: StandInMetric", "'batch_size'"]),
        ("test_evaluator.type", "StandInMetrc", ["test_evaluator.type: no metric", "'StandInMetric'"]),
        ("optim_wrapper.clip_gard", {}, ["optim_wrapper.clip_gard: OptimWrapper", "'clip_grad'"]),
        ("optim_wrapper.clip_grad", 0.1, ["optim_wrapper.clip_grad: expected a mapping or null, got 0.1"]),
        ("optim_wrapper.clip_grad", {"max_nrm": 1}, ["optim_wrapper.clip_grad.max_nrm", "'max_norm'"]),
        ("optim_wrapper.optimizer.weigth_decay", 0, ["optim_wrapper.optimizer.weigth_decay: AdamW", "'weight_decay'"]),
        ("optim_wrapper.optimizer.type", "AdmW", ["optim_wrapper.optimizer.type: no optimizer", "'AdamW'"]),
        ("optim_wrapper.type", "AutocastOptimWraper", ["optim_wrapper.type", "'AutocastOptimWrapper'"]),
        ("optim_wrapper.paramwise_cfg", {"norm_decay_mlt": 0}, ["paramwise_cfg.norm_decay_mlt", "'norm_decay_mult'"]),
        ("param_scheduler.0.pwer", 1, ["param_scheduler.0.pwer: PolyLR", "'power'"]),
        ("param_scheduler.0.type", "PoliLR", ["param_scheduler.0.type", "'PolyLR'"]),
        ("default_hooks.checkpoint.save_bset", "x", ["default_hooks.checkpoint.save_bset", "'save_best'"]),
        ("default_hooks.nan_guard.type", "NanGaurd", ["default_hooks.nan_guard.type", "'NaNGuard'"]),
        ("custom_hooks", [{"type": "EMAHok"}], ["custom_hooks.0.type: no hook 'EMAHok'", "'EMAHook'"]),
        ("custom_hooks", [{"momentum": 1}], ["custom_hooks.0: needs a 'type'"]),
        ("visualizer.vis_backends.0.type", "LocalVis", ["visualizer.vis_backends.0.type", "'LocalVisBackend'"]),
        ("train_cfg.max_epoch", 3, ["train_cfg.max_epoch", "'max_epochs'"]),
        ("train_cfg.type", "EpochBasedTrainLoop", ["train_cfg", "either"]),
        ("val_cfg.typo", 3, ["val_cfg.typo: ValLoop"]),
        ("val_cfg", None, ["val_cfg", "val_dataloader"]),
        ("train_dataloader.dataset", None, ["train_dataloader: needs 'dataset'"]),
        ("train_dataloader", 5, ["train_dataloader"]),
        ("randomness.sed", 1, ["randomness.sed", "'seed'"]),
        ("env_cfg.cudnn_benchmrk", True, ["env_cfg.cudnn_benchmrk", "'cudnn_benchmark'"]),
        ("log_processor.windowsize", 3, ["log_processor.windowsize: ShortLog", "'window_size'"]),
        ("model", None, ["model"]),
        ("default_scope", "os", ["default_scope: expected 'avsmamba'"]),
        ("model.head._scope_", "os", ["model.head._scope_: StandInHead takes no '_scope_'"]),
        ("optim_wrapper.optimizer._scope_", "os", ["optim_wrapper.optimizer._scope_"]),
        ("compile", {"bakend": "x"}, ["compile.bakend", "'backend'"]),
    ],
)
def test_faults(tmp_path, key, value, words):
    path = config(tmp_path)
    if words is None:
        dataset = {"_delete_": True, "type": "StandInDataset", "split": "train"}
        fails("train_dataloader.dataset: StandInDataset needs 'data_root'", load_config, path, {key[:-10]: dataset})
        return
    fails(words, load_config, path, {key: value})


def test_several_faults_are_counted(tmp_path):
    fails("(and 1 more", load_config, config(tmp_path), {"model.tipo": 1, "model.head.tipo": 2})


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("model.encoder.num_layrs", 3, "MultiScaleTemporalEncoder takes no 'num_layrs'; did you mean 'num_layers'?"),
        ("model.encoder.type", "MultiScaleTemporalEncodr", "did you mean 'MultiScaleTemporalEncoder'?"),
        ("model.losses.0.loss_wieght", 2, "DiceLoss takes no 'loss_wieght'; did you mean 'loss_weight'?"),
        ("model.data_preprocessor.size_divsor", 2, "AVSDataPreprocessor takes no 'size_divsor'"),
        ("model.encodr", None, "AVSSegmentor takes no 'encodr'; did you mean"),
    ],
)
def test_the_zoo_is_checked(tmp_path, key, value, words):
    bases = [str(ROOT / f"configs/_base_/{name}.yaml") for name in ("runtime", "models/avs_mamba_tiny")]
    path = config(tmp_path, _base_=bases, model={})
    load_config(path, {"model.encoder": None})
    fails([f"{key}: ", words], load_config, path, {key: value})


AVSS = ROOT / "configs/avs_mamba/avs_mamba_tiny_avss_shapes.yaml"
MS3 = ROOT / "configs/avs_mamba/avs_mamba_tiny_ms3_shapes.yaml"


@pytest.mark.parametrize(
    "path, key, value, words",
    [
        (AVSS, "train_dataloader.dataset.num_frame", 10, ["AVSBenchAVSS takes no 'num_frame'", "'num_frames'?"]),
        (AVSS, "train_dataloader.dataset.type", "AVSBenchAVS", ["no dataset 'AVSBenchAVS'", "'AVSBenchAVSS'"]),
        (AVSS, "test_evaluator.batch_size", 4, ["test_evaluator.batch_size: AVSSMetric takes no"]),
        (AVSS, "model.losses", [{"type": "CrossEntropyLos"}], ["model.losses.0.type", "'CrossEntropyLoss'"]),
        (AVSS, "model.head.num_classes", 1, ["model.losses.1: CrossEntropyLoss needs several", "(and 2 more"]),
        (AVSS, "val_evaluator.type", "AVSMetric", ["val_evaluator: AVSMetric does not go with", "13; use AVSSMetric"]),
        (AVSS, "model.aux_losses", [{"type": "CrossEntropyLoss"}], ["model.aux_losses.0: CrossEntropyLoss needs"]),
        (MS3, "model.losses", [{"type": "CrossEntropyLoss"}], ["model.losses.0: CrossEntropyLoss", "num_classes is 1"]),
        (MS3, "test_evaluator", [{"type": "AVSSMetric"}], ["test_evaluator: AVSSMetric does not", "use AVSMetric"]),
        (MS3, "model.head.num_classes", 71, ["val_evaluator: AVSMetric does not go with", "71; use AVSSMetric"]),
    ],
)
def test_classes_losses_and_metrics(path, key, value, words):
    load_config(path)
    fails(words, load_config, path, {key: value})


def test_null_parts_and_swapped_lists_are_fine(tmp_path):
    options = {"default_hooks.timer": None, "custom_hooks": [{"type": "EMAHook", "momentum": 0.1, "priority": 49}]}
    options["param_scheduler"] = {"type": "LinearLR", "start_factor": 0.1, "convert_to_iter_based": True}
    options["train_dataloader.collate_fn"] = {"type": "default_collate"}
    load_config(config(tmp_path, param_scheduler=None), options)


def test_a_plain_dict_is_checked_too():
    fails("modle", check_config, {"modle": {}})


def test_dotted_names():
    from mmengine.hooks import CheckpointHook

    for name in ("CheckpointHook", "mmengine.CheckpointHook", "mmengine.hooks.CheckpointHook"):
        assert find(HOOKS, name) is CheckpointHook
    assert find(MODELS, "avsmamba.AVSSegmentor") is find(MODELS, "avsmamba.models.AVSSegmentor") is not None
    for name in ("os.system", "os.CheckpointHook", "subprocess.run", "", ".", "avsmamba.models.nothing"):
        assert find(HOOKS, name) is None
        assert find(MODELS, name) is None


def test_keyword_arguments_are_followed_to_the_base():
    known, required, is_open = arguments(find(OPTIM_WRAPPERS, "AmpOptimWrapper"))
    assert {"accumulative_counts", "clip_grad", "dtype"} <= known.keys()
    assert not is_open
    assert not required
