"""Check a config against the registries before anything is built: names, keys, and the types and limits of values."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from typing import Any

from mmengine import registry as root
from mmengine.registry import Registry

from avsmamba import registry as own
from avsmamba.config import mmengine_arguments as known
from avsmamba.config.arguments import arguments, check_keys, faults_of_keys, near, shown
from avsmamba.utils import UserError

# What Runner reads from the config itself rather than as an argument.
_RUNNER_KEYS = {"compile", "model_wrapper_cfg", "sync_bn", "find_unused_parameters", "activation_checkpointing"}
_RUNNER_KEYS |= {"efficient_conv_bn_eval"}
TOP_LEVEL = (set(known.TOP_LEVEL) - {"cfg"}) | _RUNNER_KEYS
_LOADERS = {f"{mode}_dataloader" for mode in ("train", "val", "test")}
_MAPPINGS = _LOADERS | {"train_cfg", "default_hooks", "env_cfg", "randomness"}
# What AVSSegmentor hands to its parts.
_MODEL_ADDS = ("embed_dims", "in_channels", "audio_channels")


@dataclass(frozen=True)
class Slot:
    """Schema of one config node.

    Attributes:
        registry: where `type` is looked up.
        default: the type where none is written.
        added: arguments that the builder adds.
        extra: keys that the builder takes away before it builds.
        children: slots of nested configs by key, or None: no config; others are looked up in this registry, then in
            any.
        complete: whether missing arguments are reported.
        many: whether a list of configs is allowed as well.
    """

    registry: Registry
    default: str | None = None
    added: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    children: Mapping[str, "Slot | None"] = field(default_factory=dict)
    complete: bool = True
    many: bool = False


_ANY_MODEL = Slot(own.MODELS, added=_MODEL_ADDS, complete=False)
_PARTS = ("backbone", "audio_encoder", "stage_fusion", "projection", "encoder", "decoder", "pyramid", "head")
_LOSSES = ("losses", "aux_losses", "matching_losses", "set_losses")
_PART = Slot(own.MODELS, added=_MODEL_ADDS)
_MODEL = Slot(
    own.MODELS,
    children=dict.fromkeys((*_PARTS, "data_preprocessor"), _PART) | dict.fromkeys(_LOSSES, Slot(own.MODELS, many=True)),
)
_TRANSFORM = Slot(own.TRANSFORMS, many=True)
_DATASET = Slot(own.DATASETS, children={"pipeline": _TRANSFORM})
_FUNCTION = Slot(own.FUNCTIONS, complete=False)
_SAMPLER = Slot(own.SAMPLERS, added=("dataset", "seed"))
_BATCH_SAMPLER = Slot(own.SAMPLERS, added=("sampler", "batch_size"))
_METRIC = Slot(own.METRICS, many=True)
_HOOK = Slot(own.HOOKS, extra=("priority",))
_EVALUATOR = Slot(root.EVALUATOR, children={"metrics": _METRIC})
_LOOP_ADDS = ("runner", "dataloader", "evaluator")

_SLOTS: dict[str, Slot] = {
    "model": _MODEL,
    "data_preprocessor": Slot(own.MODELS),
    "model_wrapper_cfg": Slot(own.MODEL_WRAPPERS, "MMDistributedDataParallel", added=("module",)),
    "optim_wrapper": Slot(
        own.OPTIM_WRAPPERS,
        "OptimWrapper",
        extra=("constructor", "paramwise_cfg"),
        children={"optimizer": Slot(root.OPTIMIZERS, added=("params",)), "clip_grad": None},
    ),
    "param_scheduler": Slot(
        root.PARAM_SCHEDULERS, added=("optimizer",), extra=("convert_to_iter_based", "epoch_length"), many=True
    ),
    "custom_hooks": replace(_HOOK, many=True),
    "log_processor": Slot(own.LOG_PROCESSORS, "LogProcessor"),
    "visualizer": Slot(
        root.VISUALIZERS,
        added=("name",),
        children={"vis_backends": Slot(own.VISBACKENDS, added=("save_dir",), many=True)},
    ),
    "val_cfg": Slot(root.LOOPS, "ValLoop", added=_LOOP_ADDS),
    "test_cfg": Slot(root.LOOPS, "TestLoop", added=_LOOP_ADDS),
    "val_evaluator": _METRIC,
    "test_evaluator": _METRIC,
}


def check_config(cfg: Mapping[str, Any], variables: Iterable[str] = ()) -> None:
    """Compare every key, `type` and value of a config with what the registered classes take; nothing is built.

    Args:
        cfg: a config as `load_config` returns it, or a dict of the same form.
        variables: further keys of the file, which only `${name}` refers to; suggested for a key that is not known.

    Raises:
        UserError: one line with the path of the first faulty key, what is wrong and the nearest known names.
    """
    values = cfg.to_dict() if hasattr(cfg, "to_dict") else dict(cfg)
    check_top_level(values, variables)
    faults: dict[str, str] = {}
    for fault in _faults(values):
        faults.setdefault(fault.partition(": ")[0], fault)
    if faults:
        more = len(faults) - 1
        count = f" (and {more} more fault{'s'[: more - 1]} in the config)" if more else ""
        raise UserError(next(iter(faults.values())) + count)


def check_top_level(values: Mapping[str, Any], variables: Iterable[str] = ()) -> None:
    """Raise a UserError for a top-level key that the Runner would silently ignore."""
    for key in values:
        if key not in TOP_LEVEL:
            raise UserError(f"{key}: no such key at the top level of a config{near(key, {*TOP_LEVEL, *variables})}")


def _faults(values: dict[str, Any]) -> Iterator[str]:
    if not isinstance(values.get("model"), dict):
        yield "model: expected a mapping with a type"
    for mode in ("train", "val", "test"):
        yield from _check_group(values, mode)
    for key, value in values.items():
        if value is None:
            if key in known.NOT_NULL:
                yield f"{key}: is needed, leave the key out for its default"
            continue
        yield from faults_of_keys({key: value}, known.TOP_LEVEL, "")
        if key in _MAPPINGS and not isinstance(value, dict):
            yield f"{key}: expected a mapping, got {shown(value)}"
        elif key in _LOADERS:
            yield from _check_loader(value, key)
        elif key == "train_cfg":
            yield from _check_train_loop(value)
        elif key == "default_hooks":
            for name, hook in value.items():
                if hook is not None:
                    yield from _check(hook, f"default_hooks.{name}", _HOOK)
        elif key == "env_cfg":
            yield from check_keys(value, known.ENVIRONMENT, key)
            yield from check_keys(value.get("mp_cfg", {}), known.PROCESSES, "env_cfg.mp_cfg")
        elif key == "randomness":
            yield from check_keys(value, known.RANDOMNESS, key)
            if "seed" not in value:
                yield "randomness: needs 'seed' (a number or null)"
        elif key == "default_scope":
            if value != own.SCOPE:  # mmengine would import `<scope>.registry`
                yield f"default_scope: expected {own.SCOPE!r}, got {value!r}"
        elif key == "compile" and not isinstance(value, bool):
            yield from check_keys(value, known.COMPILE, key, "torch.compile")
        elif key == "auto_scale_lr":
            yield from check_keys(value, known.AUTO_SCALE, key)
        elif key.endswith("_evaluator") and isinstance(value, dict) and "metrics" in value:
            yield from _check(value, key, _EVALUATOR)
        elif key in _SLOTS:
            yield from _check(value, key, _SLOTS[key])
    yield from _check_optimizer(values.get("optim_wrapper") or {})
    yield from _check_classes(values)


def _check_group(values: dict[str, Any], mode: str) -> Iterator[str]:
    last = "optim_wrapper" if mode == "train" else f"{mode}_evaluator"
    keys = [f"{mode}_dataloader", f"{mode}_cfg", last]
    absent = [k for k in keys if values.get(k) is None]
    if absent and len(absent) < 3:
        yield f"{absent[0]}: missing; {', '.join(keys)} are needed together, or null together"


def _check_loader(config: dict[str, Any], path: str) -> Iterator[str]:
    yield from check_keys(config, known.LOADER, path, "DataLoader")
    slots = {"sampler": _SAMPLER, "batch_sampler": _BATCH_SAMPLER, "worker_init_fn": _FUNCTION}
    slots |= {"collate_fn": _FUNCTION, "dataset": _DATASET}
    for key, slot in slots.items():
        if config.get(key) is not None:
            yield from _check(config[key], f"{path}.{key}", slot)
        elif key in ("dataset", "sampler"):
            yield f"{path}: needs {key!r}"


def _check_train_loop(config: dict[str, Any]) -> Iterator[str]:
    if ("type" in config) == ("by_epoch" in config):
        yield "train_cfg: needs either 'type' or 'by_epoch'"
        return
    default = "EpochBasedTrainLoop" if config.get("by_epoch") else "IterBasedTrainLoop"
    yield from faults_of_keys(config, known.TRAIN_LOOP, "train_cfg.")
    loop = {k: v for k, v in config.items() if k != "by_epoch"}
    yield from _check(loop, "train_cfg", Slot(root.LOOPS, default, added=_LOOP_ADDS))


def _check_optimizer(config: dict[str, Any]) -> Iterator[str]:
    """Yield the faults of the parts of `optim_wrapper` that are no modules."""
    if not isinstance(config, dict):
        return
    constructor = config.get("constructor", "DefaultOptimWrapperConstructor")
    if find(root.OPTIM_WRAPPER_CONSTRUCTORS, constructor) is None:
        yield _unknown(root.OPTIM_WRAPPER_CONSTRUCTORS, constructor, "optim_wrapper.constructor")
    elif constructor == "DefaultOptimWrapperConstructor" and config.get("paramwise_cfg") is not None:
        paramwise = config["paramwise_cfg"]
        yield from check_keys(paramwise, known.PARAMWISE, "optim_wrapper.paramwise_cfg")
        keys = paramwise.get("custom_keys") if isinstance(paramwise, dict) else None
        for name, factors in keys.items() if isinstance(keys, dict) else ():
            yield from check_keys(factors, known.CUSTOM_KEY, f"optim_wrapper.paramwise_cfg.custom_keys.{name}")
    clip = config.get("clip_grad")
    if clip is not None:
        kind = clip.get("type", "norm") if isinstance(clip, dict) else "norm"
        if kind not in ("norm", "value"):
            yield f"optim_wrapper.clip_grad.type: expected 'norm' or 'value', got {shown(kind)}"
        else:
            yield from check_keys(clip, known.CLIP_GRAD[kind], "optim_wrapper.clip_grad", f"clip_grad_{kind}_")


def _check_classes(values: dict[str, Any]) -> Iterator[str]:
    """Yield the losses and metrics that do not go with the number of classes."""
    model = values.get("model")
    if not isinstance(model, dict) or "head" not in model:  # another model than AVSSegmentor and its subclasses
        return
    if model.get("losses") == [] and not model.get("set_losses"):
        yield "model.losses: expected at least one loss, got []"
    count = model["head"].get("num_classes", 1) if isinstance(model.get("head"), dict) else 1
    if not isinstance(count, int):
        return
    for key, classes in (("losses", count), ("aux_losses", 1)):
        losses = model.get(key)
        for i, loss in enumerate(losses if isinstance(losses, (list, tuple)) else ()):
            if classes == 1 and isinstance(loss, dict) and loss.get("type") == "CrossEntropyLoss":
                what = "the intermediate mask has one" if key == "aux_losses" else "model.head.num_classes is 1"
                yield f"model.{key}.{i}: CrossEntropyLoss needs several classes, {what}"
    wrong, right = ("AVSMetric", "AVSSMetric") if count > 1 else ("AVSSMetric", "AVSMetric")
    for mode in ("val", "test"):
        evaluator = values.get(f"{mode}_evaluator")
        metrics = evaluator.get("metrics", evaluator) if isinstance(evaluator, dict) else evaluator
        for metric in metrics if isinstance(metrics, (list, tuple)) else [metrics]:
            if isinstance(metric, dict) and metric.get("type") == wrong:
                yield f"{mode}_evaluator: {wrong} does not go with model.head.num_classes {count}; use {right}"


def _check(config: Any, path: str, slot: Slot) -> Iterator[str]:
    """Yield the faults of one module's config, or of a list of them, and of all that is nested in it."""
    if isinstance(config, (list, tuple)) and slot.many:
        for i, item in enumerate(config):
            yield from _check(item, f"{path}.{i}", replace(slot, many=False))
        return
    if not isinstance(config, dict):
        yield f"{path}: expected a mapping with a type, got {shown(config)}"
        return
    name = config.get("type", slot.default)
    if name is None:
        yield f"{path}: needs a 'type'"
        return
    target = find(slot.registry, name)
    if target is None:
        yield _unknown(slot.registry, name, f"{path}.type")
    else:
        yield from _check_arguments(config, path, slot, target)
    for key, value in config.items():
        yield from _check_nested(value, f"{path}.{key}", slot, key)


def _check_arguments(config: dict[str, Any], path: str, slot: Slot, target: Callable[..., Any]) -> Iterator[str]:
    name = config.get("type", slot.default)
    takes, required, is_open = arguments(target)
    if name == "EMAHook":
        takes, is_open = takes | known.AVERAGE, False
    usable = (set(takes) - set(slot.added)) | set(slot.extra) | (set(_MODEL_ADDS) & set(takes))
    for key in config:
        if key == "type" or key in takes or key in slot.extra:
            continue
        hint = near(key, usable, listing=True)
        if not is_open or key == "_scope_" or hint.startswith("; did you mean"):
            yield f"{path}.{key}: {name} takes no {key!r}{hint}"
    yield from faults_of_keys({k: v for k, v in config.items() if k != "type"}, takes, f"{path}.")
    if slot.complete:
        missing = sorted(required - set(config) - set(slot.added))
        if missing:
            yield f"{path}: {name} needs {', '.join(map(repr, missing))}"


def _check_nested(value: Any, path: str, slot: Slot, key: str) -> Iterator[str]:
    """Yield the faults of configs inside a module's arguments; every `type` must name something registered."""
    if key in slot.children:
        child = slot.children[key]
        if value is not None and child is not None:
            yield from _check(value, path, child)
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _check_nested(item, f"{path}.{i}", slot, "")
    elif isinstance(value, dict):
        if isinstance(value.get("type"), str):
            yield from _check(value, path, _nested_slot(slot, value["type"]))
        else:
            for k, v in value.items():
                yield from _check_nested(v, f"{path}.{k}", slot, k)


def _nested_slot(slot: Slot, name: str) -> Slot:
    if slot.registry is own.MODELS:
        return _PART if slot is _MODEL else _ANY_MODEL
    if find(slot.registry, name) is None:
        for registry in _registries():
            if find(registry, name) is not None:
                return Slot(registry, complete=False)
    return Slot(slot.registry, children=slot.children, complete=False)


def _unknown(registry: Registry, name: Any, path: str) -> str:
    names = set(registry.module_dict) | (set(registry.parent.module_dict) if registry.parent else set())
    kind = registry.name.replace("_", " ")
    return f"{path}: no {kind} {name!r} is registered{near(str(name).rpartition('.')[2], names)}"


@cache
def _import_mmengine() -> None:
    """Import the modules that fill mmengine's own registries."""
    for name in ("dataset", "evaluator", "hooks", "model", "optim", "runner", "visualization"):
        import_module(f"mmengine.{name}")


def _registries() -> list[Registry]:
    ours = [own.MODELS, own.DATASETS, own.TRANSFORMS, own.METRICS, own.HOOKS, own.OPTIM_WRAPPERS, own.LOG_PROCESSORS]
    return [*ours, own.FUNCTIONS, own.SAMPLERS, own.VISBACKENDS, root.OPTIMIZERS, root.PARAM_SCHEDULERS]


def find(registry: Registry, name: Any) -> Callable[..., Any] | None:
    """Return what a registry or its parent has under a name: `X`, `scope.X` or the dotted path of a registered class.

    Unlike `Registry.get` it never imports what the name says, since `type: os.system` would be found and called.
    """
    _import_mmengine()
    registry.import_from_location()
    prefix, _, key = str(name).rpartition(".")
    node: Registry | None = registry
    while node is not None:
        target = node.module_dict.get(key)
        if target is not None:
            module = getattr(target, "__module__", "")
            if not prefix or prefix == node.scope or module == prefix or module.startswith(f"{prefix}."):
                return target
        node = node.parent
    return None
