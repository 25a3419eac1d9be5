"""
hftk pretrains a Transformer encoder-decoder and fine-tunes it. Importing it registers the models with AutoModel.

The classes are imported when they are asked for: their modules take seconds that `AutoModel` alone does not.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

if TYPE_CHECKING:
    from .model.configuration_hftk import HftkConfig
    from .model.configuration_hftk_arc import HftkArcConfig
    from .model.modeling_hftk import (
        HftkEncoderModel,
        HftkForConditionalGeneration,
        HftkForMaskedLM,
        HftkForPreTraining,
        HftkForSequenceClassification,
        HftkForTokenClassification,
        HftkModel,
    )
    from .model.modeling_hftk_arc import HftkForArcPrediction

__version__ = "0.1.0"

__all__ = [
    "HftkArcConfig",
    "HftkConfig",
    "HftkEncoderModel",
    "HftkForArcPrediction",
    "HftkForConditionalGeneration",
    "HftkForMaskedLM",
    "HftkForPreTraining",
    "HftkForSequenceClassification",
    "HftkForTokenClassification",
    "HftkModel",
]

MODULES = {
    "HftkConfig": "configuration_hftk",
    "HftkArcConfig": "configuration_hftk_arc",
    "HftkForArcPrediction": "modeling_hftk_arc",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'hftk' has no attribute {name!r}")
    module = import_module(f"hftk.model.{MODULES.get(name, 'modeling_hftk')}")
    return getattr(module, name)


def register(model_type: str, config: str, heads: dict[Any, str]) -> None:
    """
    Tells transformers what `AutoConfig.register` and `AutoModel.register` would, by name: the tables in which it keeps
    its own models, whose modules too are imported when one is asked for.
    """
    here = sys.modules[__name__]
    CONFIG_MAPPING._mapping[model_type] = config
    CONFIG_MAPPING._modules[model_type] = here
    for auto_class, head in heads.items():
        mapping = auto_class._model_mapping
        mapping._reverse_config_mapping[config] = model_type
        mapping._model_mapping[model_type] = head
        mapping._modules[model_type] = here


register(
    "hftk",
    "HftkConfig",
    {
        AutoModel: "HftkModel",
        AutoModelForPreTraining: "HftkForPreTraining",
        AutoModelForMaskedLM: "HftkForMaskedLM",
        AutoModelForSeq2SeqLM: "HftkForConditionalGeneration",
        AutoModelForSequenceClassification: "HftkForSequenceClassification",
        AutoModelForTokenClassification: "HftkForTokenClassification",
    },
)
register("hftk_arc", "HftkArcConfig", {AutoModel: "HftkForArcPrediction"})
