"""hftk pretrains a Transformer encoder-decoder and fine-tunes it. Importing it registers the models with AutoModel."""

from typing import Any

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

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

AutoConfig.register("hftk", HftkConfig)
AutoConfig.register("hftk_arc", HftkArcConfig)
heads: list[tuple[Any, Any]] = [
    (AutoModel, HftkModel),
    (AutoModelForPreTraining, HftkForPreTraining),
    (AutoModelForMaskedLM, HftkForMaskedLM),
    (AutoModelForSeq2SeqLM, HftkForConditionalGeneration),
    (AutoModelForSequenceClassification, HftkForSequenceClassification),
    (AutoModelForTokenClassification, HftkForTokenClassification),
    (AutoModel, HftkForArcPrediction),
]
for auto_class, head in heads:
    auto_class.register(head.config_class, head)
    head.register_for_auto_class(auto_class)  # its code is saved beside its weights, for whoever has no hftk
HftkConfig.register_for_auto_class()
HftkArcConfig.register_for_auto_class()

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
