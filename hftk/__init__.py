"""hftk pretrains a Transformer encoder-decoder and fine-tunes it. Importing it registers the models with AutoModel."""

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
AutoModel.register(HftkConfig, HftkModel)
AutoModelForPreTraining.register(HftkConfig, HftkForPreTraining)
AutoModelForMaskedLM.register(HftkConfig, HftkForMaskedLM)
AutoModelForSeq2SeqLM.register(HftkConfig, HftkForConditionalGeneration)
AutoModelForSequenceClassification.register(HftkConfig, HftkForSequenceClassification)
AutoModelForTokenClassification.register(HftkConfig, HftkForTokenClassification)
AutoConfig.register("hftk_arc", HftkArcConfig)
AutoModel.register(HftkArcConfig, HftkForArcPrediction)

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
