"""The registries of avsmamba, children of mmengine's; classes are imported when a name is first looked up."""

from mmengine import registry as _root
from mmengine.registry import Registry

SCOPE = "avsmamba"

MODELS = Registry("model", parent=_root.MODELS, scope=SCOPE, locations=["avsmamba.models"])
DATASETS = Registry("dataset", parent=_root.DATASETS, scope=SCOPE, locations=["avsmamba.datasets"])
TRANSFORMS = Registry("transform", parent=_root.TRANSFORMS, scope=SCOPE, locations=["avsmamba.datasets"])
SAMPLERS = Registry(
    "data sampler", parent=_root.DATA_SAMPLERS, scope=SCOPE, locations=["avsmamba.datasets", "mmengine.dataset"]
)
METRICS = Registry("metric", parent=_root.METRICS, scope=SCOPE, locations=["avsmamba.evaluation"])
HOOKS = Registry(
    "hook",
    parent=_root.HOOKS,
    scope=SCOPE,
    locations=["avsmamba.engine", "avsmamba.visualization", "avsmamba.reports.training_page", "mmengine.hooks"],
)
OPTIM_WRAPPERS = Registry(
    "optim_wrapper", parent=_root.OPTIM_WRAPPERS, scope=SCOPE, locations=["avsmamba.engine", "mmengine.optim"]
)
LOG_PROCESSORS = Registry(
    "log_processor", parent=_root.LOG_PROCESSORS, scope=SCOPE, locations=["avsmamba.engine", "mmengine.runner"]
)
VISBACKENDS = Registry("vis_backend", parent=_root.VISBACKENDS, scope=SCOPE, locations=["avsmamba.engine"])
MODEL_WRAPPERS = Registry(
    "model_wrapper", parent=_root.MODEL_WRAPPERS, scope=SCOPE, locations=["avsmamba.engine", "mmengine.model"]
)
FUNCTIONS = Registry("function", parent=_root.FUNCTIONS, scope=SCOPE, locations=["avsmamba.engine", "mmengine.dataset"])
