"""The configuration of the dependency parser: a head of its own over the encoder of any model."""

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from .configuration_hftk import HftkConfig

WORD_POOLING = ("mean", "first")


class HftkArcConfig(PreTrainedConfig):
    r"""
    Configuration of an [`HftkForArcPrediction`]. The defaults of the head are those of Dozat & Manning 2017
    (arXiv:1611.01734, table 1).

    Args:
        backbone_config (`PreTrainedConfig` or `dict`):
            The model whose encoder reads the tokens, of any type that `AutoModel` knows.
        arc_dim (`int`, defaults to 500):
            Width of the vectors that arcs are scored from.
        label_dim (`int`, defaults to 100):
            Width of the vectors that relations are scored from.
        head_dropout (`float`, defaults to 0.33):
            On both kinds of vectors; all words of a sentence lose the same features.
        word_pooling (`str`, defaults to `"mean"`):
            What stands for a word: the `mean` of its tokens' states, or the `first` of them.
        scalar_mix (`bool`, defaults to `False`):
            Read a learned mean of all layers (Peters et al. 2018) instead of the last one: what a frozen backbone knows
            of syntax is mostly in its middle.
        id2label (`dict[int, str]`, *optional*):
            The relations. `num_labels` numbers them instead.

    Raises:
        ValueError: a field that makes no sense, in one line that says why.
    """

    model_type = "hftk_arc"
    sub_configs = {"backbone_config": AutoConfig}

    backbone_config: Any = None
    arc_dim: int = 500
    label_dim: int = 100
    head_dropout: float = 0.33
    word_pooling: str = "mean"
    scalar_mix: bool = False

    def __post_init__(self, **kwargs):
        if self.backbone_config is None:
            raise ValueError("backbone_config is missing: give the configuration of the model that reads the tokens")
        if isinstance(self.backbone_config, dict):
            if self.backbone_config["model_type"] == "hftk":  # which AutoConfig knows only where hftk is imported
                self.backbone_config = HftkConfig(**self.backbone_config)
            else:
                self.backbone_config = AutoConfig.for_model(**self.backbone_config)
        # what is set here goes to the backbone too, and must not undo the backbone's own choice
        kwargs.setdefault("attn_implementation", self.backbone_config._attn_implementation)
        super().__post_init__(**kwargs)
        if self.word_pooling not in WORD_POOLING:
            raise ValueError(
                f"word_pooling='{self.word_pooling}' does not exist; choose one of {', '.join(WORD_POOLING)}"
            )
        for field in ("arc_dim", "label_dim"):
            if not isinstance(getattr(self, field), int) or getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)!r} must be a whole number of at least 1")
        if not 0 <= self.head_dropout < 1:
            raise ValueError(f"head_dropout={self.head_dropout} must be at least 0 and below 1")


HftkArcConfig.register_for_auto_class()

__all__ = ["HftkArcConfig"]
