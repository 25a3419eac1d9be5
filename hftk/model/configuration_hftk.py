"""The configuration of hftk's Transformer encoder-decoder: every architectural choice is a field."""

from typing import Any

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

CHOICES = {
    "norm_type": ("layer_norm", "rms_norm", "batch_norm", "none"),
    "norm_position": ("pre", "post"),
    "position_embedding_type": ("sinusoidal", "sinusoidal_halves", "learned", "relative", "rotary", "alibi", "none"),
    "activation_function": tuple(ACT2FN),
    "classifier_pooling": ("first", "mean"),
}

# What each published architecture chose, laid over the defaults of `HftkConfig` (which are `modern`).
PRESETS: dict[str, dict[str, Any]] = {
    # Vaswani et al. 2017, as `torch.nn.Transformer` builds it (it normalises the output of each stack once more).
    "vanilla": {
        "norm_type": "layer_norm",
        "norm_position": "post",
        "norm_eps": 1e-5,
        "final_norm": True,
        "position_embedding_type": "sinusoidal",
        "scale_embedding": True,
        "activation_function": "relu",
        "gated_feed_forward": False,
        "use_bias": True,
        "dropout": 0.1,
        "init_std": None,
    },
    # Lewis et al. 2019.
    "bart": {
        "norm_type": "layer_norm",
        "norm_position": "post",
        "norm_eps": 1e-5,
        "embedding_norm": True,
        "position_embedding_type": "learned",
        "activation_function": "gelu",
        "gated_feed_forward": False,
        "use_bias": True,
        "dropout": 0.1,
    },
    # Raffel et al. 2019 (1.0).
    "t5": {
        "norm_type": "rms_norm",
        "norm_position": "pre",
        "position_embedding_type": "relative",
        "scale_attention": False,
        "scale_lm_head": True,
        "activation_function": "relu",
        "gated_feed_forward": False,
        "use_bias": False,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "activation_dropout": 0.1,
        "init_std": None,
    },
    "modern": {},
}

# The class behind each Auto class, for whoever loads a folder without hftk: by the code that is saved in it.
AUTO_MAP = {
    "AutoConfig": "configuration_hftk.HftkConfig",
    "AutoModel": "modeling_hftk.HftkModel",
    "AutoModelForPreTraining": "modeling_hftk.HftkForPreTraining",
    "AutoModelForMaskedLM": "modeling_hftk.HftkForMaskedLM",
    "AutoModelForSeq2SeqLM": "modeling_hftk.HftkForConditionalGeneration",
    "AutoModelForSequenceClassification": "modeling_hftk.HftkForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_hftk.HftkForTokenClassification",
}


class HftkConfig(PreTrainedConfig):
    r"""
    Configuration of an [`HftkModel`] and of every class built on it. The defaults are the `modern` preset: pre-norm
    RMSNorm, rotary positions, a gated SiLU feed-forward, no biases.

    Args:
        vocab_size (`int`, defaults to 16384):
            Number of token ids.
        d_model (`int`, defaults to 512):
            Width of the hidden states.
        encoder_layers, decoder_layers (`int`, default to 6):
            Number of layers of each stack.
        encoder_attention_heads, decoder_attention_heads (`int`, default to 8):
            Number of attention heads; cross-attention has the decoder's.
        head_dim (`int`, *optional*):
            Width of one head; by default `d_model` divided by the number of heads.
        encoder_ffn_dim, decoder_ffn_dim (`int`, default to 1536):
            Inner width of the feed-forward blocks.
        max_position_embeddings (`int`, defaults to 1024):
            Longest sequence; a table of this size is learned when `position_embedding_type="learned"`.
        norm_type (`str`, defaults to `"rms_norm"`):
            `layer_norm`, `rms_norm`, `batch_norm` or `none`. `batch_norm` takes its statistics over the real tokens of
            the batch in training and running averages in eval; in a decoder the statistics of a batch let each token
            see later ones while it trains, one reason why Transformers normalise each token by itself.
        norm_position (`str`, defaults to `"pre"`):
            `pre`: x + f(norm(x)); `post`: norm(x + f(x)).
        norm_eps (`float`, defaults to 1e-6):
            Added to the variance.
        final_norm (`bool`, *optional*):
            Normalise the output of each stack; by default with `pre` and not with `post`.
        embedding_norm (`bool`, defaults to `False`):
            Normalise the embeddings before the first layer (BART).
        residual (`bool`, defaults to `True`):
            Whether x goes round each block. Without, x + f(x) becomes f(x).
        position_embedding_type (`str`, defaults to `"rotary"`):
            `sinusoidal` (Vaswani et al. 2017, §3.5), `sinusoidal_halves` (Marian's: all sines before all cosines),
            `learned`, `relative` (T5's buckets, shared by all layers of a stack), `rotary` (Su et al. 2021), `alibi`
            (Press et al. 2021; symmetric in the encoder) or `none`.
        relative_attention_num_buckets (`int`, defaults to 32), relative_attention_max_distance (`int`, defaults to
        128):
            For `relative`.
        rope_theta (`float`, defaults to 10000.0):
            For `rotary`: base of the wavelengths.
        ngram_order (`int`, defaults to 1):
            The encoder adds to each token's embedding one for the tokens that end there, for every length from 2 to
            this one, looked up by hash (Bojanowski et al. 2017; Huang et al. 2025, input n-grams): a small model need
            not spend layers on what a table can remember. 1: none.
        ngram_vocab_size (`int`, defaults to 131072), ngram_dim (`int`, defaults to 64):
            Rows of that table, which all lengths share, and their width before a projection to `d_model`.
        attention_window (`int`, *optional*):
            Local attention in the encoder: a token sees those at most this many places away. Default: all.
        activation_function (`str`, defaults to `"silu"`):
            A name of `transformers.activations.ACT2FN`.
        gated_feed_forward (`bool`, defaults to `True`):
            act(W1 x) ⊙ (W3 x) before the output projection (Shazeer 2020), instead of act(W1 x).
        use_bias (`bool`, defaults to `False`):
            Biases in the projections and in LayerNorm.
        scale_embedding (`bool`, defaults to `False`):
            Multiply embeddings by sqrt(d_model) (2017).
        scale_attention (`bool`, defaults to `True`):
            Divide scores by sqrt(head_dim); T5 does not.
        scale_lm_head (`bool`, defaults to `False`):
            Multiply the last hidden states by d_model ** -0.5 before the tied head (T5 1.0).
        tie_lm_head (`bool`, defaults to `True`):
            Whether the language modelling head is the table of embeddings. T5 1.1 has one of its own.
        lm_head_bias (`bool`, defaults to `False`):
            Add a bias to the logits (BART, Marian, BERT).
        lm_head_transform (`bool`, defaults to `False`):
            A dense layer, the activation and a norm before the head (BERT).
        type_vocab_size (`int`, defaults to 0):
            The encoder adds an embedding of the segment that a token belongs to (`token_type_ids`; BERT has 2 of them).
            0: none.
        dropout, attention_dropout, activation_dropout, classifier_dropout (`float`, default to 0.0):
            On each block's output and the embeddings, on attention weights, inside the feed-forward, before a
            classifier.
        classifier_pooling (`str`, defaults to `"mean"`):
            What a sequence classifier reads: the `mean` over real tokens, or the `first` token.
        init_std (`float`, *optional*, defaults to 0.02):
            Standard deviation of initial weights; None is d_model ** -0.5 (T5, and about what 2017's were), from which
            small models learn less.
        trained_objectives (`list[str]`, *optional*):
            Written by pretraining: the objectives that the weights were trained on. A class whose part was never
            trained (the decoder after `masked_lm` alone) then refuses to load.

    Raises:
        ValueError: a combination that makes no sense, in one line that says why.
    """

    model_type = "hftk"
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
        "num_attention_heads": "encoder_attention_heads",
    }

    vocab_size: int = 16384
    d_model: int = 512
    encoder_layers: int = 6
    decoder_layers: int = 6
    encoder_attention_heads: int = 8
    decoder_attention_heads: int = 8
    head_dim: int | None = None
    encoder_ffn_dim: int = 1536
    decoder_ffn_dim: int = 1536
    max_position_embeddings: int = 1024
    norm_type: str = "rms_norm"
    norm_position: str = "pre"
    norm_eps: float = 1e-6
    final_norm: bool | None = None
    embedding_norm: bool = False
    residual: bool = True
    position_embedding_type: str = "rotary"
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    rope_theta: float = 10000.0
    ngram_order: int = 1
    ngram_vocab_size: int = 131072
    ngram_dim: int = 64
    attention_window: int | None = None
    activation_function: str = "silu"
    gated_feed_forward: bool = True
    use_bias: bool = False
    scale_embedding: bool = False
    scale_attention: bool = True
    scale_lm_head: bool = False
    tie_lm_head: bool = True
    lm_head_bias: bool = False
    lm_head_transform: bool = False
    type_vocab_size: int = 0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    classifier_dropout: float = 0.0
    classifier_pooling: str = "mean"
    init_std: float | None = 0.02
    use_cache: bool = True
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 1
    trained_objectives: list[str] | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self._refuse_nonsense()
        if self.init_std is None:
            self.init_std = self.d_model**-0.5
        if self.final_norm is None:
            self.final_norm = self.norm_position == "pre"

    @classmethod
    def from_preset(cls, preset: str, **overrides: Any) -> "HftkConfig":
        """
        The configuration of a published architecture.

        Args:
            preset (`str`):
                `vanilla` (2017), `bart`, `t5` or `modern` (the defaults).
            overrides:
                Fields of the configuration, sizes above all.

        Raises:
            ValueError: for a preset that does not exist.
        """
        if preset not in PRESETS:
            raise ValueError(f"preset '{preset}' does not exist; choose one of {', '.join(PRESETS)}")
        return cls(**{**PRESETS[preset], **overrides})

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """As in transformers, except that all heads are named, since the weights may serve others than was saved."""
        self.auto_map = dict(AUTO_MAP)
        super().save_pretrained(save_directory, **kwargs)

    def _refuse_nonsense(self) -> None:
        for field, choices in CHOICES.items():
            if getattr(self, field) not in choices:
                raise ValueError(f"{field}='{getattr(self, field)}' does not exist; choose one of {', '.join(choices)}")
        sizes = ["vocab_size", "d_model", "max_position_embeddings", "ngram_order", "ngram_vocab_size", "ngram_dim"]
        for stack in ("encoder", "decoder"):
            sizes += [f"{stack}_layers", f"{stack}_attention_heads", f"{stack}_ffn_dim"]
        for field in sizes:
            if not isinstance(getattr(self, field), int) or getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)!r} must be a whole number of at least 1")
        for field in ("dropout", "attention_dropout", "activation_dropout", "classifier_dropout"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} must be at least 0 and below 1")
        for stack in ("encoder", "decoder"):
            heads = getattr(self, f"{stack}_attention_heads")
            if self.head_dim is None and self.d_model % heads:
                raise ValueError(
                    f"d_model={self.d_model} does not divide into {stack}_attention_heads={heads}; set head_dim"
                )
            if self.position_embedding_type == "rotary" and (self.head_dim or self.d_model // heads) % 2:
                raise ValueError(f"rotary positions turn pairs of features: the {stack}'s head_dim must be even")
        if self.position_embedding_type.startswith("sinusoidal") and self.d_model % 2:
            raise ValueError(f"sinusoidal positions come in pairs (sine, cosine): d_model={self.d_model} must be even")
        if self.position_embedding_type == "relative" and self.relative_attention_num_buckets % 4:
            raise ValueError(
                "relative_attention_num_buckets must be a multiple of 4: half for each direction, half of those exact"
            )
        if self.attention_window is not None and self.attention_window < 1:
            raise ValueError(
                f"attention_window={self.attention_window} leaves a token nothing but itself; set 1 or more"
            )
        if self.norm_type == "none" and self.embedding_norm:
            raise ValueError("embedding_norm=True has nothing to normalise with: norm_type is 'none'")
        if not self.tie_word_embeddings:
            raise ValueError(
                "tie_word_embeddings=False is not supported: the stacks share their embeddings; for a head of its own "
                "set tie_lm_head=False"
            )


HftkConfig.register_for_auto_class()  # the code is saved beside the weights, for whoever has no hftk

__all__ = ["PRESETS", "HftkConfig"]
