"""Deep biaffine dependency parsing (Dozat & Manning 2017, arXiv:1611.01734) over the encoder of any model."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_hftk_arc import HftkArcConfig
from .modeling_hftk import HftkEncoderModel, HftkModel
from .spanning_tree import are_trees, maximum_spanning_tree


@dataclass
class ArcOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*):
            When `heads` are given: cross-entropy (nats) of the heads plus that of the labels, mean over words.
        arc_scores (`torch.FloatTensor` of shape `(batch_size, words, 1 + words)`):
            How well each node (0: the root, i: the i-th word) serves each word as its head; a softmax over nodes makes
            them probabilities. -inf for a word as its own head and for padding; all of a padding word's row.
        label_scores (`torch.FloatTensor` of shape `(batch_size, words, 1 + words, num_labels)`, *optional*):
            Scores of the relations for each arc; not in training mode, which reads none but those of the right arcs.
        hidden_states, attentions (`tuple(torch.FloatTensor)`, *optional*):
            The backbone's, if they were asked for.
    """

    loss: torch.Tensor | None = None
    arc_scores: torch.Tensor | None = None
    label_scores: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class HftkArcProjection(nn.Linear):
    """The states of words in one of their roles: (batch, words, in_features) → (batch, words, out_features)."""

    def __init__(self, in_features: int, out_features: int, dropout: float):
        super().__init__(in_features, out_features)
        self.dropout = dropout

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        states = nn.functional.leaky_relu(super().forward(states), negative_slope=0.1)
        kept = states.new_ones(states.shape[0], 1, states.shape[2])  # the same features for all words of a sentence
        return states * nn.functional.dropout(kept, p=self.dropout, training=self.training)


class HftkBiaffine(nn.Module):
    """
    [d; 1]ᵀ W_o h for each pair of a dependent d and a head h, and each output o; the 1 lets a head score by itself.
    With `dependent_bias` it is [h; 1], so that a dependent does too.
    """

    def __init__(self, features: int, outputs: int, dependent_bias: bool):
        super().__init__()
        self.dependent_bias = dependent_bias
        self.weight = nn.Parameter(torch.zeros(outputs, features + 1, features + dependent_bias))

    def forward(self, dependents: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
        """(batch, dependents, features), (batch, heads, features) → (batch, dependents, heads, outputs)"""
        dependents = nn.functional.pad(dependents, (0, 1), value=1.0)
        if self.dependent_bias:
            heads = nn.functional.pad(heads, (0, 1), value=1.0)
        return torch.einsum("bdi,oij,bhj->bdho", dependents, self.weight, heads)


class HftkRoot(nn.Module):
    """A learned state that stands for the root before the words of a sentence: no tokenizer has a token that would."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """(batch, words, width) → (batch, 1 + words, width)"""
        return torch.cat([self.weight.to(words.dtype).expand(len(words), 1, -1), words], dim=1)


class HftkScalarMix(nn.Module):
    """
    A learned mean of all layers, each normalised (Peters et al. 2018): the states of layers that have their
    normalisation before them grow from layer to layer.
    """

    def __init__(self, layers: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(layers))

    def forward(self, hidden_states: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """`layers` of (batch, tokens, width) → (batch, tokens, width)"""
        layers = [nn.functional.layer_norm(states, states.shape[-1:]) for states in hidden_states]
        return torch.stack(layers, dim=-1) @ self.weight.softmax(dim=0).to(layers[0].dtype)


def encoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """What of a model reads: the encoder of an encoder-decoder; all of any other, but for a pooler, never trained."""
    if model.config.is_encoder_decoder:
        return model.get_encoder()
    if hasattr(model, "pooler"):
        model.pooler = None
    return model


class HftkForArcPrediction(PreTrainedModel):
    """
    A dependency parser: which word is the head of each word, and in which relation. The encoder has its parameters
    under `backbone.`, by the names that they have in it.

    Args:
        config ([`HftkArcConfig`]): the head, and in `backbone_config` the encoder.
    """

    config_class = HftkArcConfig
    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    # the backbone refuses what it cannot do
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def __init__(self, config: HftkArcConfig):
        super().__init__(config)
        backbone_config, dropout = config.backbone_config, config.head_dropout
        width = backbone_config.hidden_size
        # ours is built by the class beside this one, since AutoModel knows it only where hftk is imported
        build = HftkModel._from_config if backbone_config.model_type == "hftk" else AutoModel.from_config
        # the dtype of the head, and not the one that the backbone was saved in
        self.backbone = encoder_of(build(backbone_config, dtype=torch.get_default_dtype()))
        self.root = HftkRoot(width)
        if config.scalar_mix:
            self.layer_mix = HftkScalarMix(backbone_config.num_hidden_layers + 1)
        self.arc_dependent = HftkArcProjection(width, config.arc_dim, dropout)
        self.arc_head = HftkArcProjection(width, config.arc_dim, dropout)
        self.label_dependent = HftkArcProjection(width, config.label_dim, dropout)
        self.label_head = HftkArcProjection(width, config.label_dim, dropout)
        self.arc_biaffine = HftkBiaffine(config.arc_dim, 1, dependent_bias=False)
        self.label_biaffine = HftkBiaffine(config.label_dim, config.num_labels, dependent_bias=True)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, HftkArcProjection):
            init.orthogonal_(module.weight)
        elif isinstance(module, HftkBiaffine | HftkScalarMix):
            init.zeros_(module.weight)
        elif isinstance(module, HftkRoot):
            init.normal_(module.weight)  # as large as a normalised state

    @classmethod
    def from_backbone(
        cls,
        name_or_path: str,
        backbone_config: PreTrainedConfig | None = None,
        pretrained: bool = True,
        **config_kwargs: Any,
    ) -> "HftkForArcPrediction":
        """
        A parser to train, over the encoder of a checkpoint.

        Args:
            name_or_path (`str`):
                Folder or Hub id of the checkpoint.
            backbone_config ([`PreTrainedConfig`], *optional*):
                Its config, where that is to be another than the checkpoint's own.
            pretrained (`bool`, defaults to `True`):
                Whether the encoder has the checkpoint's weights, or random ones (to compare with).
            config_kwargs:
                Fields of [`HftkArcConfig`]: the relations (`id2label` and `label2id`) above all.
        """
        if backbone_config is None:
            backbone_config = AutoConfig.from_pretrained(name_or_path)
        if backbone_config.model_type == "hftk":
            backbone_config.trained_objectives = None  # it refuses a decoder that was never trained; none is taken here
        backbone_config.name_or_path = ""  # of no use to others, who get the encoder's weights with the parser's
        model = cls(HftkArcConfig(backbone_config=backbone_config, **config_kwargs))
        if pretrained:
            load = HftkEncoderModel if backbone_config.model_type == "hftk" else AutoModel  # no decoder is asked for
            loaded = load.from_pretrained(name_or_path, config=backbone_config)
            model.backbone.load_state_dict(encoder_of(loaded).state_dict())
        return model

    def activation_checkpointing_enable(self, *args, **kwargs) -> None:
        self.backbone.activation_checkpointing_enable(*args, **kwargs)

    def word_states(self, states: torch.Tensor, word_ids: torch.Tensor, words: int) -> torch.Tensor:
        """
        (batch, tokens, width), (batch, tokens) → (batch, 1 + words, width): the learned root before the words. A word
        without a token is a zero vector.
        """
        places = torch.arange(1, words + 1, device=states.device)
        belongs = word_ids[:, None, :] == places[:, None]  # (batch, words, tokens)
        if self.config.word_pooling == "first":
            belongs = belongs & (belongs.cumsum(dim=-1) == 1)
        counts = belongs.sum(dim=-1, keepdim=True).clamp(min=1)  # (batch, words, 1)
        pooled = belongs.to(states.dtype) @ states / counts.to(states.dtype)
        return self.root(pooled)

    def loss(
        self,
        arc_scores: torch.Tensor,
        label_dependents: torch.Tensor,
        label_heads: torch.Tensor,
        heads: torch.Tensor,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """
        Cross-entropy of the heads, plus that of the labels on the arcs to them, for the words whose head is given.
        Shapes: (batch, words, nodes), (batch, words, label_dim), (batch, nodes, label_dim), twice (batch, words) → ().
        """
        given = heads != -100  # (batch, words)
        loss = nn.functional.cross_entropy(arc_scores[given].float(), heads[given], reduction="sum")
        if labels is not None:
            sentence = given.nonzero()[:, 0]  # (given,)
            dependents = label_dependents[given][:, None]  # (given, 1, label_dim)
            their_heads = label_heads[sentence, heads[given]][:, None]  # (given, 1, label_dim)
            scores = self.label_biaffine(dependents, their_heads).flatten(1)  # (given, num_labels)
            loss = loss + nn.functional.cross_entropy(scores.float(), labels[given], reduction="sum")
        return loss / (given.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        word_ids: torch.Tensor | None = None,
        heads: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        word_counts: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs,
    ) -> ArcOutput:
        """
        Args:
            input_ids, attention_mask (of shape `(batch_size, tokens)`), others: for the backbone.
            word_ids (`torch.LongTensor` of shape `(batch_size, tokens)`):
                The word that each token belongs to, from 1; 0 for a token of no word (special tokens, padding).
            heads (`torch.LongTensor` of shape `(batch_size, words)`, *optional*):
                The head of each word: another word, from 1, or 0 for the root; -100 where there is none to learn.
            labels (`torch.LongTensor` of shape `(batch_size, words)`, *optional*):
                The relation of each word to its head; -100 where there is none to learn.
            word_counts (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
                How many words each sentence has; by default up to the last that has a token, has a head or is one.
                Needed where a sentence's last words have no tokens (they were cut) but shall get heads.
            num_items_in_batch (`int`, *optional*):
                The sum of the losses is divided by it, instead of by the number of words whose head is given.
        """
        if word_ids is None:
            raise ValueError("word_ids is missing: the word that each token belongs to, from 1, and 0 for none")
        all_states = kwargs.pop("output_hidden_states", self.config.output_hidden_states)
        kwargs["output_hidden_states"] = all_states or self.config.scalar_mix
        outputs = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        states = outputs.last_hidden_state  # (batch, tokens, width)
        if self.config.scalar_mix:
            states = self.layer_mix(outputs.hidden_states)

        if word_counts is None:
            word_counts = word_ids.amax(dim=1)
            if heads is not None:
                places = torch.arange(1, heads.shape[1] + 1, device=heads.device)
                last_given = torch.where(heads == -100, 0, torch.maximum(places, heads)).amax(dim=1)
                word_counts = torch.maximum(word_counts, last_given)
        words = int(word_counts.max()) if heads is None else heads.shape[1]
        nodes = self.word_states(states, word_ids, words)  # (batch, 1 + words, width)

        arc_scores = self.arc_biaffine(self.arc_dependent(nodes[:, 1:]), self.arc_head(nodes)).squeeze(-1)
        indices = torch.arange(words + 1, device=states.device)
        real = indices <= word_counts[:, None]  # (batch, 1 + words)
        itself = indices[1:, None] == indices  # (words, 1 + words)
        arc_scores = arc_scores.masked_fill(~(real[:, 1:, None] & real[:, None, :] & ~itself), -torch.inf)
        label_dependents, label_heads = self.label_dependent(nodes[:, 1:]), self.label_head(nodes)
        loss = None
        if heads is not None:
            loss = self.loss(arc_scores, label_dependents, label_heads, heads, labels, num_items_in_batch)
        return ArcOutput(
            loss=loss,
            arc_scores=arc_scores,
            label_scores=None if self.training else self.label_biaffine(label_dependents, label_heads),
            hidden_states=outputs.hidden_states if all_states else None,
            attentions=outputs.attentions,
        )

    @staticmethod
    def decode(arc_scores: torch.Tensor, label_scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The best tree of each sentence, with one word on the root, and the best relation of each of its arcs.

        Args:
            arc_scores, label_scores: as in [`ArcOutput`].

        Returns:
            `tuple(torch.LongTensor)`: heads and labels, both of shape `(batch_size, words)`, -100 for padding.
        """
        real = (arc_scores != -torch.inf).any(dim=-1)  # (batch, words)
        words = real.sum(dim=-1)  # (batch,)
        scores, heads = arc_scores.max(dim=-1)  # (batch, words): most often a tree already
        whole = are_trees(heads, words) & (scores.isfinite() | ~real).all(dim=-1)
        for sentence in (~whole).nonzero().flatten().tolist():
            count = int(words[sentence])
            heads[sentence, :count] = maximum_spanning_tree(arc_scores[sentence, :count, : count + 1])
        arcs = heads[:, :, None, None].expand(-1, -1, 1, label_scores.shape[-1])
        labels = label_scores.gather(2, arcs).squeeze(2).argmax(dim=-1)  # (batch, words)
        return heads.masked_fill(~real, -100), labels.masked_fill(~real, -100)


HftkForArcPrediction.register_for_auto_class("AutoModel")

__all__ = ["ArcOutput", "HftkArcConfig", "HftkForArcPrediction"]
