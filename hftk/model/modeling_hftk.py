"""A Transformer encoder-decoder whose every architectural choice is a field of [`HftkConfig`], and its heads."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.generation import GenerationMixin
from transformers.masking_utils import (
    create_bidirectional_mask,
    create_causal_mask,
    sliding_window_bidirectional_overlay,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPastAndCrossAttentions,
    MaskedLMOutput,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_hftk import HftkConfig

ROWS_AT_ONCE = 512  # of logits over the vocabulary
EXACT_AT_ONCE = 64  # of them in float32
SCORES_AT_ONCE = 1 << 20  # of attention
NORMALISED_AT_ONCE = 1 << 18  # features
INNER_AT_ONCE = 1 << 21  # features of a feed-forward layer


def shift_tokens_right(
    labels: torch.Tensor,
    pad_token_id: int,
    decoder_start_token_id: int,
    decoder_position_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    The decoder's inputs for teacher forcing: labels one place to the right behind the start symbol.

    Args:
        labels (`torch.LongTensor` of shape `(batch_size, target_length)`):
            Targets; -100 is read as padding.
        pad_token_id, decoder_start_token_id (`int`):
            From the configuration.
        decoder_position_ids (`torch.LongTensor` of shape `(batch_size, target_length)`, *optional*):
            In a packed row every document begins at position 0 and there gets a start symbol of its own.

    Returns:
        `torch.LongTensor` of shape `(batch_size, target_length)`.
    """
    shifted = labels.roll(1, dims=-1)
    shifted[:, 0] = decoder_start_token_id
    if decoder_position_ids is not None:
        shifted = shifted.masked_fill(decoder_position_ids == 0, decoder_start_token_id)
    return shifted.masked_fill(shifted == -100, pad_token_id)


def lm_loss(logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None) -> torch.Tensor:
    """
    Cross-entropy of unshifted labels, -100 left out, equal to `transformers.loss.loss_utils.ForMaskedLMLoss` (whose
    module takes a second to import): the mean over labels, or their sum over `num_items_in_batch`.
    """
    logits, labels = logits.flatten(0, -2), labels.flatten()
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if num_items_in_batch is None:
        return nn.functional.cross_entropy(logits, labels)
    return nn.functional.cross_entropy(logits, labels, reduction="sum") / num_items_in_batch


class LinearCrossEntropy(torch.autograd.Function):
    """
    Sum of the cross-entropies of a linear layer's outputs, of which only a chunk of rows stands in memory at once: the
    gradients of a chunk follow its loss (Hsu et al. 2024, Liger Kernel, arXiv:2410.10989, section 3.2).
    """

    @staticmethod
    def forward(
        ctx, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor
    ) -> torch.Tensor:
        """(rows, d_model), (vocab_size, d_model), (vocab_size,), (rows,) → scalar; every row has a label"""
        dtype = product_dtype(states)
        exact = torch.promote_types(dtype, torch.float32)
        inputs, matrix, offset = states.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        _, wants_weight, wants_bias, _ = ctx.needs_input_grad
        loss = torch.zeros((), dtype=exact, device=states.device)
        to_states = torch.empty_like(states)
        to_weight = torch.zeros_like(weight, dtype=exact) if wants_weight else None
        to_bias = torch.zeros_like(bias, dtype=exact) if bias is not None and wants_bias else None
        for start in range(0, len(states), ROWS_AT_ONCE):
            chunk, targets = inputs[start : start + ROWS_AT_ONCE], labels[start : start + ROWS_AT_ONCE, None]
            outputs = nn.functional.linear(chunk, matrix, offset)  # (chunk, vocab_size): logits, then their gradient
            for some, of in zip(outputs.split(EXACT_AT_ONCE), targets.split(EXACT_AT_ONCE), strict=True):
                logits = some.to(exact)
                at_targets, largest = logits.gather(1, of)[:, 0], logits.amax(-1)
                probabilities = logits.softmax(-1)
                # what the softmax divides by, out of its largest value
                loss += (largest - probabilities.amax(-1).log() - at_targets).sum()
                some.copy_(probabilities.scatter_add_(1, of, -torch.ones_like(of, dtype=exact)))
            to_states[start : start + ROWS_AT_ONCE] = outputs @ matrix
            if to_weight is not None:
                to_weight += outputs.T @ chunk
            if to_bias is not None:
                to_bias += outputs.sum(0, dtype=exact)
        ctx.save_for_backward(to_states, to_weight, to_bias)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return *(None if of is None else of * gradient for of in ctx.saved_tensors), None


def quick_dropout(states: torch.Tensor, p: float, training: bool) -> torch.Tensor:
    """
    `nn.functional.dropout`, which takes four times as long on a CPU: there one random number of 64 bits serves for four
    features, each dropped with the multiple of 2 ** -16 that is nearest to `p`.
    """
    dropped = round(p * 2**16)
    if not training or dropped in (0, 2**16) or states.device.type != "cpu" or torch.compiler.is_compiling():
        return nn.functional.dropout(states, p=p, training=training)
    bits = torch.empty(math.ceil(states.numel() / 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = bits[: states.numel()].view(states.shape) >= dropped - 2**15
    return (states * kept).mul_(2**16 / (2**16 - dropped))


def positions_from_mask(
    attention_mask: torch.Tensor | None, past_length: int | torch.Tensor, length: int, device: torch.device
) -> torch.Tensor:
    """
    Positions of `length` tokens after `past_length`; 0 at the first real token, so that padding on the left changes
    nothing.
    """
    positions = torch.arange(length, device=device)[None] + past_length  # (1, length)
    if attention_mask is None or attention_mask.dim() != 2:
        return positions
    first = attention_mask.to(torch.int32).argmax(dim=-1, keepdim=True)  # (batch_size, 1)
    return (positions - first).clamp(min=0)


def document_ids(position_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """
    Number of the document (from 1) that each token of a packed row belongs to: one starts wherever a real token has
    position 0.
    """
    starts = position_ids == 0
    if attention_mask is not None:
        starts = starts & attention_mask.bool()
    return starts.cumsum(dim=-1).clamp(min=1)


def same_document(query_documents: torch.Tensor, key_documents: torch.Tensor) -> Callable:
    """A mask function for `masking_utils`: a query sees the keys of its own document."""

    def inner_mask(batch_idx, head_idx, q_idx, kv_idx):
        return query_documents[batch_idx, q_idx] == key_documents[batch_idx, kv_idx]

    return inner_mask


def both_masks(first: Callable | None, second: Callable | None) -> Callable | None:
    """The intersection of two mask functions, either of which may be absent."""
    if first is None or second is None:
        return first or second
    return lambda *indices: first(*indices) & second(*indices)


def in_blocks(states: torch.Tensor, block: int) -> torch.Tensor:
    """(batch, heads, length, head_dim) → (batch * blocks, heads, block, head_dim), the last block filled with zeros."""
    states = nn.functional.pad(states, (0, 0, 0, -states.shape[2] % block))
    return states.unflatten(2, (-1, block)).transpose(1, 2).flatten(0, 1)


def around_blocks(states: torch.Tensor, block: int) -> torch.Tensor:
    """
    (batch, heads, length, head_dim) → (batch * blocks, heads, 3 * block, head_dim): each block between its neighbours.
    """
    states = nn.functional.pad(states, (0, 0, block, block + -states.shape[2] % block))
    states = states.unflatten(2, (-1, block)).transpose(1, 2)  # (batch, blocks + 2, heads, block, head_dim)
    return torch.cat((states[:, :-2], states[:, 1:-1], states[:, 2:]), dim=3).flatten(0, 1)


def block_mask(documents: torch.Tensor, window: int, dtype: torch.dtype) -> torch.Tensor:
    """
    What is added to the scores of each block's queries and of the keys around it, which are those within `window` of a
    query: 0 for keys of the query's document, the lowest number for others.

    Args:
        documents (`torch.LongTensor` of shape `(batch_size, length)`): from 1; 0 for padding.

    Returns:
        `torch.Tensor` of shape `(batch_size * blocks, 1, window, 3 * window)`.
    """
    query, key = (cut(documents[:, None, :, None], window)[:, 0] for cut in (in_blocks, around_blocks))
    places = torch.arange(3 * window, device=documents.device)
    near = (places - places[window : 2 * window, None]).abs() <= window  # (window, 3 * window)
    seen = near & (key.mT > 0) & (key.mT == query)
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


def sinusoidal_embeddings(position_ids: torch.Tensor, d_model: int, halves: bool = False) -> torch.Tensor:
    """
    Vaswani et al. 2017, §3.5: sine at even features, cosine at odd ones; in `halves` all sines before all cosines.
    `(batch, length)` → `(batch, length, d_model)`, fp32.
    """
    exponents = torch.arange(0, d_model, 2, device=position_ids.device, dtype=torch.float32) / d_model
    angles = position_ids[..., None].float() / 10000.0**exponents  # (batch, length, d_model / 2)
    waves = (angles.sin(), angles.cos())
    return torch.cat(waves, dim=-1) if halves else torch.stack(waves, dim=-1).flatten(-2)


def rotary_embeddings(position_ids: torch.Tensor, head_dim: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Su et al. 2021: cosines and signed sines (of what is taken away, of what is added), each of shape
    `(batch, length, 1, head_dim)`, fp32.
    """
    exponents = torch.arange(0, head_dim, 2, device=position_ids.device, dtype=torch.float32) / head_dim
    angles = position_ids[:, :, None, None].float() / theta**exponents  # (batch, length, 1, head_dim / 2)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn feature i and i + head_dim / 2 of `states` (batch, length, heads, head_dim) by their angle."""
    return torch.addcmul(states * cos, states.roll(states.shape[-1] // 2, dims=-1), sin)


def product_dtype(states: torch.Tensor) -> torch.dtype:
    """The dtype of a linear layer's output for these hidden states: autocast's where it is on."""
    device = states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype


def alibi_slopes(heads: int) -> list[float]:
    """
    Press et al. 2021: the geometric sequence from 2^(-8/n); between powers of two, every other slope of the next one is
    added.
    """
    closest = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / closest) for i in range(closest)]
    if closest < heads:
        slopes += alibi_slopes(2 * closest)[::2][: heads - closest]
    return slopes


def relative_buckets(distance: torch.Tensor, bidirectional: bool, buckets: int, max_distance: int) -> torch.Tensor:
    """
    T5's buckets (Raffel et al. 2019, §2.1; equal to `T5Attention._relative_position_bucket`): half of them one distance
    each, the others logarithmically wider up to `max_distance`. `distance` is key position minus query position.
    """
    result = torch.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        result = (distance > 0).long() * buckets
        distance = distance.abs()
    else:
        distance = -distance.clamp(max=0)
    exact = buckets // 2
    logarithmic = torch.log(distance.float() / exact) / math.log(max_distance / exact) * (buckets - exact)
    far = (exact + logarithmic.clamp(min=0).long()).clamp(max=buckets - 1)
    return result + torch.where(distance < exact, distance, far)


def some_tokens(features: int, *states: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """(…, width) each, as views (tokens, width) of as many tokens as have so many features in the first."""
    rows = [some.flatten(0, -2) for some in states]
    size = max(1, features // rows[0].shape[-1])
    for start in range(0, len(rows[0]), size):
        yield tuple(some[start : start + size] for some in rows)


class HftkLayerNorm(nn.LayerNorm):
    """LayerNorm: each token by its own mean and variance. Takes and ignores the mask that [`HftkBatchNorm`] needs."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        token_mask: torch.Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        return super().forward(hidden_states).to(dtype or hidden_states.dtype)


def inverse_rms(states: torch.Tensor, eps: float) -> torch.Tensor:
    """(…, width) → (…, 1)"""
    width = states.shape[-1]
    return torch.linalg.vector_norm(states, dim=-1, keepdim=True).square_().div_(width).add_(eps).rsqrt_()


class RMSNormOnCPU(torch.autograd.Function):
    """
    `nn.functional.rms_norm`, which has no kernel of its own on a CPU: for a few tokens at a time, which stay in a
    processor's cache, and backward by LayerNorm's kernel. What it gives and keeps is in the dtype of who reads it.
    """

    @staticmethod
    def forward(ctx, states: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype) -> torch.Tensor:
        scale = inverse_rms(states, eps)
        normalised, output = torch.empty_like(states, dtype=dtype), torch.empty_like(states, dtype=dtype)
        for some_states, some_scale, some_normalised, some_output in some_tokens(
            NORMALISED_AT_ONCE, states, scale, normalised, output
        ):
            exact = some_states * some_scale
            some_normalised[:] = exact
            some_output[:] = exact.mul_(weight)
        ctx.save_for_backward(normalised, weight, scale)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        normalised, weight, scale = ctx.saved_tensors
        to_output, zeros, ones = gradient.to(weight.dtype), torch.zeros_like(scale), torch.ones_like(scale)
        # LayerNorm would also take away the gradient's mean, even with 0 for the states' mean: it is put back
        to_states, to_weight, _ = torch.ops.aten.native_layer_norm_backward(
            to_output, normalised.to(weight.dtype), weight.shape, zeros, ones, weight, None, [True, True, False]
        )
        to_states.add_((to_output @ weight).div_(len(weight))[..., None]).mul_(scale)
        return to_states, to_weight, None, None


class HftkRMSNorm(nn.RMSNorm):
    """RMSNorm (Zhang & Sennrich 2019): each token by its own root mean square."""

    eps: float

    def forward(
        self,
        hidden_states: torch.Tensor,
        token_mask: torch.Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        dtype = dtype or hidden_states.dtype
        exact = hidden_states.dtype == self.weight.dtype in (torch.float32, torch.float64)
        if not exact or hidden_states.device.type != "cpu":
            return super().forward(hidden_states).to(dtype)
        if not torch.is_grad_enabled():
            return (hidden_states * inverse_rms(hidden_states, self.eps)).mul_(self.weight).to(dtype)
        return RMSNormOnCPU.apply(hidden_states, self.weight, self.eps, dtype)


class HftkBatchNorm(nn.BatchNorm1d):
    """
    BatchNorm: each feature by its mean and variance over the real tokens of the batch, running averages in eval. Equal
    to `nn.BatchNorm1d` on the list of real tokens. In a decoder it leaks the future while it trains: the statistics
    include later tokens.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor
    momentum: float

    def forward(
        self,
        hidden_states: torch.Tensor,
        token_mask: torch.Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        if not self.training:
            mean, variance = self.running_mean, self.running_var
        else:
            real = torch.ones_like(hidden_states[..., :1]) if token_mask is None else token_mask[..., None]
            real = real.to(torch.float32)  # (batch, length, 1)
            count = real.sum()
            states = hidden_states.float()
            mean = (states * real).sum(dim=(0, 1)) / count
            variance = ((states - mean).square() * real).sum(dim=(0, 1)) / count
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * count / (count - 1).clamp(min=1), self.momentum)
        normalised = (hidden_states.float() - mean) * torch.rsqrt(variance + self.eps) * self.weight + self.bias
        return normalised.to(dtype or hidden_states.dtype)


class HftkNoNorm(nn.Module):
    """No normalisation, to see what it was good for."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        token_mask: torch.Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        return hidden_states.to(dtype or hidden_states.dtype)


def build_norm(config: HftkConfig) -> nn.Module:
    """The normalisation that `config.norm_type` names, over `d_model` features."""
    if config.norm_type == "layer_norm":
        return HftkLayerNorm(config.d_model, eps=config.norm_eps, bias=config.use_bias)
    if config.norm_type == "rms_norm":
        return HftkRMSNorm(config.d_model, eps=config.norm_eps)
    if config.norm_type == "batch_norm":
        return HftkBatchNorm(config.d_model, eps=config.norm_eps)
    return HftkNoNorm()


class AttentionInChunks(torch.autograd.Function):
    """
    softmax(QKᵀ + mask) V for a few rows of the batch at a time, so that their scores stay in a processor's cache. They
    are computed again in the backward pass instead of being kept, as in flash attention (Dao et al. 2022,
    arXiv:2205.14135, section 3.1): as fast as keeping them, in a fraction of the memory.
    """

    @staticmethod
    def forward(
        ctx, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """
        Thrice (batch, heads, length, head_dim), the query scaled, and (batch or 1, heads or 1, query_length,
        key_length) → (batch, query_length, heads, head_dim)
        """
        batch, heads, length, head_dim = query.shape
        output = query.new_empty(batch, length, heads, head_dim)
        for rows in AttentionInChunks.chunks(query, key):
            weights = AttentionInChunks.weights(query[rows], key[rows], mask, rows)
            output[rows] = torch.matmul(weights, value[rows]).transpose(1, 2)
        ctx.save_for_backward(query, key, value, mask)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, mask = ctx.saved_tensors
        to_query, to_key, to_value = (torch.empty_like(states) for states in (query, key, value))
        for rows in AttentionInChunks.chunks(query, key):
            weights = AttentionInChunks.weights(query[rows], key[rows], mask, rows)
            to_output = gradient[rows].transpose(1, 2).contiguous()
            torch.matmul(weights.mT, to_output, out=to_value[rows])
            to_weights = torch.matmul(to_output, value[rows].mT)
            to_scores = torch.ops.aten._softmax_backward_data(to_weights, weights, -1, weights.dtype)
            torch.matmul(to_scores, key[rows], out=to_query[rows])
            torch.matmul(to_scores.mT, query[rows], out=to_key[rows])
        return to_query, to_key, to_value, None

    @staticmethod
    def chunks(query: torch.Tensor, key: torch.Tensor) -> list[slice]:
        """Rows of the batch whose scores are about `SCORES_AT_ONCE` together."""
        size = max(1, SCORES_AT_ONCE // (query[0, ..., 0].numel() * key.shape[2]))
        return [slice(start, start + size) for start in range(0, len(query), size)]

    @staticmethod
    def weights(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, rows: slice) -> torch.Tensor:
        scores = torch.matmul(query, key.mT)
        if mask is not None:
            scores += mask[rows] if len(mask) > 1 else mask
        return scores.softmax(dim=-1)


def eager_attention_forward(
    module: "HftkAttention",
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    position_bias: torch.Tensor | None = None,
    output_attentions: bool | None = None,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """
    softmax(QKᵀ · scaling + position bias + mask) V, step by step; it alone returns the attention weights, but on a CPU
    not where nobody asks for them.
    """
    asked = module.config.output_attentions if output_attentions is None else output_attentions
    plain = query.device.type == "cpu" and not (asked or dropout) and position_bias is None
    if plain and query.shape[2] > 1:  # one query has no scores to speak of, and copies of its keys would take time
        dtype = product_dtype(query)
        states = (states.to(dtype).contiguous() for states in (query * scaling, key, value))  # read more than once
        return AttentionInChunks.apply(*states, attention_mask), None
    scores = torch.matmul(query * scaling, key.transpose(2, 3))  # (batch, heads, query_length, key_length)
    if position_bias is not None:
        scores = scores + position_bias
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1)
    weights = quick_dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class HftkQueryProjection(nn.Linear):
    """A linear layer that is known by its type when weights are drawn: T5's queries begin smaller."""

    def __init__(self, in_features: int, heads: int, head_dim: int, bias: bool):
        super().__init__(in_features, heads * head_dim, bias=bias)
        self.head_dim = head_dim


class HftkAttention(nn.Module):
    """
    Multi-head attention (Vaswani et al. 2017, §3.2): of a sequence to itself, or of the decoder (Q) to the encoder's
    output (K, V).
    """

    def __init__(self, config: HftkConfig, heads: int, layer_idx: int, is_causal: bool = False):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = is_causal
        self.head_dim = config.head_dim or config.d_model // heads
        self.scaling = self.head_dim**-0.5 if config.scale_attention else 1.0
        width = heads * self.head_dim
        self.q_proj = HftkQueryProjection(config.d_model, heads, self.head_dim, bias=config.use_bias)
        self.k_proj = nn.Linear(config.d_model, width, bias=config.use_bias)
        self.v_proj = nn.Linear(config.d_model, width, bias=config.use_bias)
        self.out_proj = nn.Linear(width, config.d_model, bias=config.use_bias)

    def split_heads(
        self, states: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """(batch, length, heads * head_dim) → (batch, heads, length, head_dim), turned by their positions."""
        states = states.view(*states.shape[:-1], -1, self.head_dim)
        if position_embeddings is not None:
            states = rotate(states, *position_embeddings)
        return states.transpose(1, 2)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        encoder_hidden_states: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        block: int | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        is_cross_attention = encoder_hidden_states is not None
        query = self.split_heads(self.q_proj(hidden_states), position_embeddings)
        if is_cross_attention and past_key_values is not None and past_key_values.is_updated.get(self.layer_idx):
            # the encoder's output does not change while the decoder generates
            layer = past_key_values.cross_attention_cache.layers[self.layer_idx]
            key, value = layer.keys, layer.values
        else:
            source = encoder_hidden_states if is_cross_attention else hidden_states
            key = self.split_heads(self.k_proj(source), position_embeddings)
            value = self.split_heads(self.v_proj(source))
            if past_key_values is not None:
                cache = (
                    past_key_values.cross_attention_cache
                    if is_cross_attention
                    else past_key_values.self_attention_cache
                )
                key, value = cache.update(key, value, self.layer_idx)
                if is_cross_attention:
                    past_key_values.is_updated[self.layer_idx] = True
        if block is not None:
            query, key, value = in_blocks(query, block), around_blocks(key, block), around_blocks(value, block)

        implementation = self.config._attn_implementation
        if implementation == "sdpa" and query.shape[2] == 1 and query.device.type == "cpu":
            implementation = "eager"  # for one query that kernel takes up to ten times as long in bfloat16
            if attention_mask is not None and attention_mask.dtype == torch.bool:
                hidden = torch.finfo(query.dtype).min
                attention_mask = query.new_zeros(()).masked_fill(~attention_mask, hidden)
        attention_interface = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        output, weights = attention_interface(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.scaling,
            dropout=self.config.attention_dropout if self.training else 0.0,
            position_bias=position_bias,
            **kwargs,
        )
        if block is not None:  # (batch * blocks, block, heads, head_dim) → (batch, length, heads, head_dim)
            output = output.unflatten(0, (len(hidden_states), -1)).flatten(1, 2)[:, : hidden_states.shape[1]]
        return self.out_proj(output.flatten(2)), weights


def activated(activation: Callable, first: torch.Tensor, gates: torch.Tensor | None = None) -> torch.Tensor:
    return activation(first) if gates is None else activation(first) * gates


class FeedForwardInChunks(torch.autograd.Function):
    """
    [`HftkFeedForward`] for a few tokens at a time, so that what is between its linear layers stays in a processor's
    cache. Of that the backward pass has what W1 and W3 gave; it computes the rest again.
    """

    @staticmethod
    def forward(ctx, states: torch.Tensor, activation: Callable, *layers: torch.Tensor | None) -> torch.Tensor:
        """(…, d_model), act, the weight and the bias of W2, of W1 and perhaps of W3 → (…, d_model)"""
        states = states.to(product_dtype(states))
        matrices = [matrix.to(states.dtype) for matrix in layers[::2] if matrix is not None]
        offsets = [None if offset is None else offset.to(states.dtype) for offset in layers[1::2]]
        output = torch.empty_like(states)
        kept = [states.new_empty(*states.shape[:-1], len(matrix)) for matrix in matrices[1:]]
        for *some_kept, some_states, some_output in some_tokens(INNER_AT_ONCE, *kept, states, output):
            for place, some in enumerate(some_kept, start=1):
                linear(some_states, matrices[place], offsets[place], out=some)
            linear(activated(activation, *some_kept), matrices[0], offsets[0], out=some_output)
        ctx.save_for_backward(states, *layers, *kept)
        ctx.activation = activation
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        states, *rest = ctx.saved_tensors
        count = len(ctx.needs_input_grad) - 2
        layers, kept = rest[:count], rest[count:]
        matrices = [matrix.to(states.dtype) for matrix in layers[::2]]
        to_layers = [
            torch.zeros_like(part) if wanted else None
            for part, wanted in zip(layers, ctx.needs_input_grad[2:], strict=True)
        ]
        to_states = torch.empty_like(states)
        chunks = some_tokens(INNER_AT_ONCE, *kept, states, gradient, to_states)
        for *some_kept, some_states, some_gradient, some_to_states in chunks:
            some_kept = [some.detach().requires_grad_() for some in some_kept]
            with torch.enable_grad():
                inner = activated(ctx.activation, *some_kept)
            of_kept = torch.autograd.grad(inner, some_kept, some_gradient @ matrices[0])
            torch.mm(of_kept[0], matrices[1], out=some_to_states)
            if len(of_kept) > 1:
                some_to_states.addmm_(of_kept[1], matrices[2])
            read_and_given = [(inner.detach(), some_gradient), *((some_states, given) for given in of_kept)]
            for place, (read, given) in enumerate(read_and_given):
                if (to_weight := to_layers[2 * place]) is not None:
                    to_weight += given.T @ read
                if (to_bias := to_layers[2 * place + 1]) is not None:
                    to_bias += given.sum(dim=0)
        return to_states, None, *to_layers


def linear(states: torch.Tensor, matrix: torch.Tensor, offset: torch.Tensor | None, out: torch.Tensor) -> None:
    if offset is None:
        torch.mm(states, matrix.T, out=out)
    else:
        torch.addmm(offset, states, matrix.T, out=out)


class HftkFeedForward(nn.Module):
    """W2 act(W1 x), or W2 (act(W1 x) ⊙ W3 x) when gated (Shazeer 2020)."""

    def __init__(self, config: HftkConfig, ffn_dim: int):
        super().__init__()
        self.activation = ACT2FN[config.activation_function]
        self.activation_dropout = config.activation_dropout
        self.fc1 = nn.Linear(config.d_model, ffn_dim, bias=config.use_bias)
        self.fc2 = nn.Linear(ffn_dim, config.d_model, bias=config.use_bias)
        self.fc3 = nn.Linear(config.d_model, ffn_dim, bias=config.use_bias) if config.gated_feed_forward else None

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        layers = [layer for layer in (self.fc2, self.fc1, self.fc3) if layer is not None]
        in_chunks = torch.is_grad_enabled() and hidden_states.device.type == "cpu" and not torch.compiler.is_compiling()
        if (
            in_chunks and not self.activation_dropout and all(type(layer) is nn.Linear for layer in layers)
        ):  # no adapter
            weights = [part for layer in layers for part in (layer.weight, layer.bias)]
            return FeedForwardInChunks.apply(hidden_states, self.activation.forward, *weights)
        inner = activated(self.activation, *(layer(hidden_states) for layer in layers[1:]))
        return self.fc2(quick_dropout(inner, p=self.activation_dropout, training=self.training))


class HftkHeadTransform(nn.Module):
    """What BERT does to the hidden states before the language modelling head: norm(act(W x))."""

    def __init__(self, config: HftkConfig):
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_model, bias=config.use_bias)
        self.activation = ACT2FN[config.activation_function]
        self.layer_norm = build_norm(config)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.layer_norm(self.activation(self.dense(hidden_states)))


class HftkLayer(GradientCheckpointingLayer):
    """What both stacks' layers share: how a block is joined to the stream of hidden states."""

    def __init__(self, config: HftkConfig):
        super().__init__()
        self.pre_norm = config.norm_position == "pre"
        self.residual = config.residual
        self.dropout = config.dropout

    def join(
        self, hidden_states: torch.Tensor, norm: nn.Module, block: Callable, token_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """
        pre: x + block(norm(x)); post: norm(x + block(x)); without residual connections, the x in front falls away.
        """
        dtype = product_dtype(hidden_states)  # cast once, and not by each linear layer that reads it
        output = block(norm(hidden_states, token_mask, dtype) if self.pre_norm else hidden_states.to(dtype))
        output = quick_dropout(output, p=self.dropout, training=self.training)
        if self.residual:
            output = hidden_states + output
        return output if self.pre_norm else norm(output, token_mask)


class HftkEncoderLayer(HftkLayer):
    def __init__(self, config: HftkConfig, layer_idx: int):
        super().__init__(config)
        self.self_attn = HftkAttention(config, config.encoder_attention_heads, layer_idx)
        self.self_attn_layer_norm = build_norm(config)
        self.feed_forward = HftkFeedForward(config, config.encoder_ffn_dim)
        self.final_layer_norm = build_norm(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_bias: torch.Tensor | None,  # positional, as whatever needs gradients must be for checkpointing
        token_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> torch.Tensor:
        hidden_states = self.join(
            hidden_states,
            self.self_attn_layer_norm,
            lambda x: self.self_attn(x, attention_mask, position_bias=position_bias, **kwargs)[0],
            token_mask,
        )
        return self.join(hidden_states, self.final_layer_norm, self.feed_forward, token_mask)


class HftkDecoderLayer(HftkLayer):
    def __init__(self, config: HftkConfig, layer_idx: int):
        super().__init__(config)
        self.self_attn = HftkAttention(config, config.decoder_attention_heads, layer_idx, is_causal=True)
        self.self_attn_layer_norm = build_norm(config)
        self.encoder_attn = HftkAttention(config, config.decoder_attention_heads, layer_idx)
        self.encoder_attn_layer_norm = build_norm(config)
        self.feed_forward = HftkFeedForward(config, config.decoder_ffn_dim)
        self.final_layer_norm = build_norm(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_bias: torch.Tensor | None,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        token_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> torch.Tensor:
        hidden_states = self.join(
            hidden_states,
            self.self_attn_layer_norm,
            lambda x: self.self_attn(
                x,
                attention_mask,
                position_bias=position_bias,
                position_embeddings=position_embeddings,
                past_key_values=past_key_values,
                **kwargs,
            )[0],
            token_mask,
        )
        hidden_states = self.join(
            hidden_states,
            self.encoder_attn_layer_norm,
            lambda x: self.encoder_attn(
                x, encoder_attention_mask, encoder_hidden_states, past_key_values=past_key_values, **kwargs
            )[0],
            token_mask,
        )
        return self.join(hidden_states, self.final_layer_norm, self.feed_forward, token_mask)


def refuse_tensorflow(folder: str, options: dict) -> None:
    """Raises `ValueError` for a folder with TensorFlow's weights and none of torch's."""
    path = Path(folder, options.get("subfolder") or "")
    has_torch = any(path.glob("*.safetensors*")) or any(path.glob("*.bin*"))
    found = [
        name for pattern in ("tf_model.h5*", "*.weights.h5", "*.keras", "*.ckpt.index") for name in path.glob(pattern)
    ]
    if options.get("from_tf") or (found and not has_torch):
        raise ValueError(f"{folder} holds TensorFlow's weights; convert them: `hftk convert {folder} NEW --to hftk`")


class HftkPreTrainedModel(PreTrainedModel):
    """Weight initialisation, loading, and what transformers asks about the architecture."""

    config_class = HftkConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flex_attn = True
    _can_compile_fullgraph = True
    # The objectives of which one must have trained the weights that a class loads; empty: any.
    _needs_objective: tuple[str, ...] = ()

    @property
    def _supports_flash_attn(self) -> bool:
        # flash kernels take no bias on the scores
        return self.config.position_embedding_type not in ("relative", "alibi")

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, HftkQueryProjection) and not self.config.scale_attention:
            # T5 begins with the division that its scores do without
            init.normal_(module.weight, std=self.config.init_std * module.head_dim**-0.5)
        if isinstance(module, nn.Embedding) and self.config.scale_lm_head:
            # and divides before the head what it leaves large at the bottom
            init.normal_(module.weight)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """
        As in transformers, except that a class refuses weights whose part it needs was never trained, and TensorFlow's,
        which transformers would leave out without a word.

        Raises:
            ValueError: in one line that names the objective that is missing, or how to convert.
        """
        refuse_tensorflow(pretrained_model_name_or_path, kwargs)
        model, info = super().from_pretrained(
            pretrained_model_name_or_path, *args, **{**kwargs, "output_loading_info": True}
        )
        trained = model.config.trained_objectives
        if trained is not None and cls._needs_objective and not set(trained) & set(cls._needs_objective):
            raise ValueError(
                f"{pretrained_model_name_or_path} was trained on {', '.join(trained) or 'nothing'} alone; "
                f"{cls.__name__} needs weights trained on {' or '.join(cls._needs_objective)}: continue with "
                f"`hftk pretrain RECIPE --model {pretrained_model_name_or_path} "
                f"--objective.name {cls._needs_objective[0]}`"
            )
        needed = ("shared.", "encoder.", "decoder.") if cls._needs_objective else ("shared.", "encoder.")
        missing = sorted(name for name in info["missing_keys"] if name.startswith(needed))
        if missing:
            raise ValueError(
                f"{pretrained_model_name_or_path} lacks {len(missing)} tensors of {cls.__name__}, like {missing[0]}; "
                f"if it holds another program's weights: `hftk convert {pretrained_model_name_or_path} NEW --to hftk`"
            )
        return (model, info) if kwargs.get("output_loading_info") else model

    def activation_checkpointing_enable(self, *args, **kwargs) -> None:
        if self.config.norm_type == "batch_norm":
            raise ValueError(
                "gradient checkpointing runs each layer twice, and norm_type='batch_norm' would count its statistics "
                "twice; turn one off"
            )
        super().activation_checkpointing_enable(*args, **kwargs)


class HftkStack(HftkPreTrainedModel):
    """What the encoder and the decoder share: embeddings and positions before the layers, a norm after them."""

    def __init__(self, config: HftkConfig, heads: int, layers: Sequence[nn.Module], bidirectional: bool):
        super().__init__(config)
        self.heads = heads
        self.bidirectional = bidirectional
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        if config.position_embedding_type == "learned":
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.d_model)
        if config.position_embedding_type == "relative":
            self.relative_attention_bias = nn.Embedding(config.relative_attention_num_buckets, heads)
        self.layernorm_embedding = build_norm(config) if config.embedding_norm else HftkNoNorm()
        self.layers = nn.ModuleList(layers)
        self.layer_norm = build_norm(config) if config.final_norm else HftkNoNorm()
        self.gradient_checkpointing = False

    def embed(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
    ) -> torch.Tensor:
        """(batch, length) ids → (batch, length, d_model), scaled as the configuration says."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError(
                "give either input_ids or inputs_embeds (for a decoder: decoder_input_ids or decoder_inputs_embeds)"
            )
        if inputs_embeds is not None:
            return inputs_embeds
        embeds = self.embed_tokens(input_ids)
        return embeds * math.sqrt(self.config.d_model) if self.config.scale_embedding else embeds

    def enter(
        self, inputs_embeds: torch.Tensor, position_ids: torch.Tensor, token_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """The hidden states that the first layer reads: embeddings plus absolute positions, normalised, dropped out."""
        hidden_states = inputs_embeds
        if self.config.position_embedding_type.startswith("sinusoidal"):
            halves = self.config.position_embedding_type == "sinusoidal_halves"
            sinusoids = sinusoidal_embeddings(position_ids, self.config.d_model, halves)
            hidden_states = hidden_states + sinusoids.to(hidden_states.dtype)
        elif self.config.position_embedding_type == "learned":
            hidden_states = hidden_states + self.embed_positions(position_ids)
        hidden_states = self.layernorm_embedding(hidden_states, token_mask)
        return quick_dropout(hidden_states, p=self.config.dropout, training=self.training)

    def rotary(
        self, position_ids: torch.Tensor, hidden_states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Cosines and sines for `rotary` positions, in the dtype of the queries and keys of these hidden states."""
        if self.config.position_embedding_type != "rotary":
            return None
        head_dim = self.config.head_dim or self.config.d_model // self.heads
        cos, sin = rotary_embeddings(position_ids, head_dim, self.config.rope_theta)
        dtype = product_dtype(hidden_states)
        return cos.to(dtype), sin.to(dtype)

    def position_bias(
        self, hidden_states: torch.Tensor, past_length: int | torch.Tensor, key_length: int
    ) -> torch.Tensor | None:
        """
        What `relative` and `alibi` add to the scores, (1, heads, query_length, key_length). It depends on distances
        alone, which packing and padding leave as they are within a document, so indices serve for positions.
        """
        if self.config.position_embedding_type not in ("relative", "alibi"):
            return None
        device = hidden_states.device
        queries = torch.arange(hidden_states.shape[1], device=device) + past_length
        distance = torch.arange(key_length, device=device)[None, :] - queries[:, None]  # (query_length, key_length)
        if self.config.position_embedding_type == "relative":
            buckets = relative_buckets(
                distance,
                self.bidirectional,
                self.config.relative_attention_num_buckets,
                self.config.relative_attention_max_distance,
            )
            bias = self.relative_attention_bias(buckets).permute(2, 0, 1)[None]
        else:
            slopes = torch.tensor(alibi_slopes(self.heads), device=device)
            bias = -slopes[None, :, None, None] * distance.abs()[None, None]
        if self.config._attn_implementation == "flex_attention":
            if device.type == "cpu":
                raise ValueError(
                    f"flex attention on a CPU cannot add the bias of position_embedding_type="
                    f"'{self.config.position_embedding_type}'; use attn_implementation='sdpa' or 'eager'"
                )
            bias = bias.expand(hidden_states.shape[0], -1, -1, -1)  # it indexes the batch
        return bias.to(product_dtype(hidden_states))

    def documents(self, position_ids: torch.Tensor | None, attention_mask: torch.Tensor | None) -> torch.Tensor | None:
        """
        Document numbers of a packed row (one whose `position_ids` the caller gave), refused where they would be
        ignored.
        """
        if position_ids is None:
            return None
        if "flash" in self.config._attn_implementation:
            raise ValueError(
                "flash attention would let packed documents see each other; use attn_implementation='sdpa'"
            )
        if self.config.norm_type == "batch_norm":
            raise ValueError(
                "norm_type='batch_norm' would mix the statistics of packed documents; give one document a row"
            )
        return document_ids(position_ids, attention_mask)


class HftkNgramEmbeddings(nn.Module):
    """
    Embeddings of the 2, 3, … `config.ngram_order` tokens that end at each token, out of one hashed table.

    Args:
        config ([`HftkConfig`]): the architecture.
    """

    multiplier = 0x5851F42D4C957F2D  # Knuth's, of MMIX

    def __init__(self, config: HftkConfig):
        super().__init__()
        self.order = config.ngram_order
        self.pad_token_id = config.pad_token_id or 0
        self.table = nn.Embedding(config.ngram_vocab_size, config.ngram_dim)
        self.proj = nn.Linear((config.ngram_order - 1) * config.ngram_dim, config.d_model, bias=False)

    def buckets(self, input_ids: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """(batch, length) ids → (batch, length, order - 1) rows of the table; padding stands before a document."""
        hashed, buckets = input_ids * self.multiplier, []
        for distance in range(1, self.order):
            previous = input_ids.roll(distance, dims=-1).masked_fill(position_ids < distance, self.pad_token_id)
            hashed = ((hashed ^ (hashed >> 32)) + previous) * self.multiplier  # modulo 2 ** 64
            buckets.append((hashed >> 32) % self.table.num_embeddings)  # the upper bits know all tokens
        return torch.stack(buckets, dim=-1)

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """(batch, length) → (batch, length, d_model)"""
        return self.proj(self.table(self.buckets(input_ids, position_ids)).flatten(-2))


class HftkEncoder(HftkStack):
    """
    The encoder: each token attends to every token of its document (within `config.attention_window`, if set).

    Args:
        config ([`HftkConfig`]): the architecture.
    """

    _no_split_modules = ["HftkEncoderLayer"]
    _can_record_outputs = {"hidden_states": HftkEncoderLayer, "attentions": HftkAttention}

    def __init__(self, config: HftkConfig):
        layers = [HftkEncoderLayer(config, layer_idx) for layer_idx in range(config.encoder_layers)]
        super().__init__(config, config.encoder_attention_heads, layers, bidirectional=True)
        if config.ngram_order > 1:
            self.embed_ngrams = HftkNgramEmbeddings(config)
        if config.type_vocab_size:
            self.embed_token_types = nn.Embedding(config.type_vocab_size, config.d_model)
        self.post_init()

    def skip_gram_loss(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        word_starts: torch.Tensor,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        How well the embeddings of a word tell the words of its document that are at most five words away from the other
        words of the batch: a skip-gram (Mikolov et al. 2013) over words that are the mean of their tokens and n-grams
        (Bojanowski et al. 2017), with a softmax over 1,024 words at a time, all words near weighing alike (Khosla et
        al. 2020, equation 2). No layer is run.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): token ids.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`): 0 for padding.
            word_starts (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
                1 at the first token of each word, and so of each row; 0 elsewhere and in padding.
            position_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*): as in `forward`.

        Returns:
            `torch.FloatTensor` of shape `()`: the mean over the words that have others near them, in nats.
        """
        assert input_ids is not None and attention_mask is not None
        if position_ids is None:
            position_ids = positions_from_mask(attention_mask, 0, input_ids.shape[1], input_ids.device)
        embeds = self.embed(input_ids, None)
        if self.config.ngram_order > 1:
            embeds = embeds + self.embed_ngrams(input_ids, position_ids)
        real, begins = attention_mask.bool(), word_starts.bool()
        word = begins.flatten().cumsum(0)[real.flatten()] - 1  # (tokens,): which word each belongs to
        words = embeds.new_zeros(int(begins.sum()), embeds.shape[-1]).index_add(0, word, embeds[real])
        words = words / torch.bincount(word)[:, None]  # (words, d_model)
        document = (position_ids == 0).flatten().cumsum(0)[begins.flatten()]  # (words,)

        losses, count = [], 0
        for some, of in zip(words.split(1024), document.split(1024), strict=True):
            place = torch.arange(len(some), device=some.device)
            apart = (place[:, None] - place).abs()
            near = (apart > 0) & (apart <= 5) & (of[:, None] == of)  # (some, some)
            scores = (some @ some.T).float().masked_fill(apart == 0, torch.finfo(torch.float32).min)
            each = -(scores.log_softmax(dim=-1) * near).sum(dim=-1) / near.sum(dim=-1).clamp(min=1)
            losses.append(each.sum())
            count += int(near.any(dim=-1).sum())
        return torch.stack(losses).sum() / max(count, 1)

    def in_blocks(self, length: int, attention_mask: torch.Tensor | None) -> bool:
        """
        Whether attention within a window is computed block by block, at a cost that grows as the length. The weights of
        each block are then what `output_attentions` shows.
        """
        assert self.config.attention_window is not None
        given_whole = attention_mask is not None and attention_mask.dim() != 2
        can = self.config._attn_implementation in ("eager", "sdpa") and not given_whole
        return can and length > 3 * self.config.attention_window

    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*): token ids.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                1 for real tokens, 0 for padding.
            position_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Only for packed rows: positions that restart at 0 with each document; documents do not see each other.
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, sequence_length, d_model)`, *optional*):
                instead of ids.
            token_type_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                The segment of each token, by default 0; without `config.type_vocab_size` it means nothing.
        """
        inputs_embeds = self.embed(input_ids, inputs_embeds)
        if self.config.type_vocab_size:
            if token_type_ids is None:
                token_type_ids = torch.zeros(inputs_embeds.shape[:2], dtype=torch.long, device=inputs_embeds.device)
            inputs_embeds = inputs_embeds + self.embed_token_types(token_type_ids)
        documents = self.documents(position_ids, attention_mask)
        token_mask = attention_mask if attention_mask is not None and attention_mask.dim() == 2 else None
        window, length = self.config.attention_window, inputs_embeds.shape[1]
        block = window if window is not None and self.in_blocks(length, attention_mask) else None
        if block is not None:
            if documents is None:
                documents = torch.ones(inputs_embeds.shape[:2], dtype=torch.long, device=inputs_embeds.device)
            real = documents if token_mask is None else documents.masked_fill(token_mask == 0, 0)
            mask = block_mask(real, block, product_dtype(inputs_embeds))
        else:
            mask = create_bidirectional_mask(
                config=self.config,
                inputs_embeds=inputs_embeds.to(product_dtype(inputs_embeds)),
                attention_mask=attention_mask,
                and_mask_function=both_masks(
                    None if window is None else sliding_window_bidirectional_overlay(window),
                    None if documents is None else same_document(documents, documents),
                ),
            )
        if position_ids is None:
            position_ids = positions_from_mask(attention_mask, 0, length, inputs_embeds.device)
        if self.config.ngram_order > 1:
            if input_ids is None:
                raise ValueError(f"ngram_order={self.config.ngram_order} needs input_ids, not inputs_embeds")
            inputs_embeds = inputs_embeds + self.embed_ngrams(input_ids, position_ids)

        hidden_states = self.enter(inputs_embeds, position_ids, token_mask)
        if block is None:
            position_bias = self.position_bias(hidden_states, 0, length)
        else:  # that of any block's queries and the keys around it
            position_bias = self.position_bias(hidden_states[:, :block], block, 3 * block)
        rotary = self.rotary(position_ids, hidden_states)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                mask,
                position_bias,
                token_mask=token_mask,
                position_embeddings=rotary,
                block=block,
                **kwargs,
            )
        return BaseModelOutput(last_hidden_state=self.layer_norm(hidden_states, token_mask))


class HftkDecoder(HftkStack):
    """
    The decoder: each token attends to itself and those before it in its document, and to the encoder's output for that
    document.

    Args:
        config ([`HftkConfig`]): the architecture.
    """

    _no_split_modules = ["HftkDecoderLayer"]
    _can_record_outputs = {
        "hidden_states": HftkDecoderLayer,
        "attentions": OutputRecorder(HftkAttention, index=1, layer_name="self_attn"),
        "cross_attentions": OutputRecorder(HftkAttention, index=1, layer_name="encoder_attn"),
    }

    def __init__(self, config: HftkConfig):
        layers = [HftkDecoderLayer(config, layer_idx) for layer_idx in range(config.decoder_layers)]
        super().__init__(config, config.decoder_attention_heads, layers, bidirectional=False)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        encoder_position_ids: torch.Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, target_length)`, *optional*): the decoder's input ids.
            attention_mask (`torch.Tensor` of shape `(batch_size, past_length + target_length)`, *optional*):
                1 real, 0 padding.
            position_ids (`torch.LongTensor` of shape `(batch_size, target_length)`, *optional*):
                For packed rows (without a cache): positions that restart at 0 with each document's target.
            encoder_hidden_states (`torch.FloatTensor` of shape `(batch_size, source_length, d_model)`):
                the encoder's output.
            encoder_attention_mask (`torch.Tensor` of shape `(batch_size, source_length)`, *optional*):
                1 real, 0 padding.
            encoder_position_ids (`torch.LongTensor` of shape `(batch_size, source_length)`, *optional*):
                For packed rows: the encoder's positions; the i-th document of the target sees the i-th of the source.
            past_key_values ([`EncoderDecoderCache`], *optional*): keys and values of the tokens before.
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, target_length, d_model)`, *optional*):
                instead of ids.
            use_cache (`bool`, *optional*): return `past_key_values`; by default `config.use_cache`.
        """
        inputs_embeds = self.embed(input_ids, inputs_embeds)
        length, device = inputs_embeds.shape[1], inputs_embeds.device
        if use_cache and past_key_values is None:
            past_key_values = EncoderDecoderCache(DynamicCache(config=self.config), DynamicCache(config=self.config))
        cache = None if past_key_values is None else past_key_values.self_attention_cache
        past_length = 0 if cache is None else cache.get_seq_length()
        if isinstance(past_length, torch.Tensor):
            past_length = past_length.clone()  # a static cache counts on in this very tensor
        key_length = length if cache is None else cache.get_mask_sizes(length, 0)[0]

        in_document = in_source = None
        if cache is None and (documents := self.documents(position_ids, attention_mask)) is not None:
            in_document = same_document(documents, documents)
            if (sources := self.documents(encoder_position_ids, encoder_attention_mask)) is not None:
                in_source = same_document(documents, sources)
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds.to(product_dtype(inputs_embeds)),
            attention_mask=attention_mask,
            past_key_values=cache,
            and_mask_function=in_document,
        )
        cross_mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=inputs_embeds.to(product_dtype(inputs_embeds)),
            attention_mask=encoder_attention_mask,
            encoder_hidden_states=encoder_hidden_states,
            and_mask_function=in_source,
        )
        token_mask = None
        if attention_mask is not None and attention_mask.dim() == 2:
            token_mask = attention_mask[:, -length:]
        if position_ids is None:
            position_ids = positions_from_mask(attention_mask, past_length, length, device)

        hidden_states = self.enter(inputs_embeds, position_ids, token_mask)
        position_bias = self.position_bias(hidden_states, past_length, key_length)
        rotary = self.rotary(position_ids, hidden_states)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                mask,
                position_bias,
                encoder_hidden_states,
                encoder_attention_mask=cross_mask,
                position_embeddings=rotary,
                past_key_values=past_key_values,
                token_mask=token_mask,
                **kwargs,
            )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.layer_norm(hidden_states, token_mask), past_key_values=past_key_values
        )


class HftkEncoderBase(HftkPreTrainedModel):
    """
    Shared embedding and encoder, under the parameter names that every class has; a class built on it adds its head.
    """

    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^lm_head"]  # a checkpoint of both stacks serves it too
    _tied_weights_keys = {"encoder.embed_tokens.weight": "shared.weight"}

    def __init__(self, config: HftkConfig):
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = HftkEncoder(config)
        self.encoder.embed_tokens = self.shared  # one module: FSDP gathers the weights of those that it sees called

    def get_input_embeddings(self) -> nn.Embedding:
        return self.shared

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.shared = value
        self.encoder.embed_tokens = value


class HftkEncoderModel(HftkEncoderBase):
    """
    The encoder alone.

    Args:
        config ([`HftkConfig`]): the architecture.
    """

    def __init__(self, config: HftkConfig):
        super().__init__(config)
        self.post_init()

    def forward(self, **kwargs) -> BaseModelOutput:
        """Everything goes to [`HftkEncoder`], whose outputs come back."""
        return self.encoder(**kwargs)


class HftkEncoderDecoderBase(HftkPreTrainedModel):
    """Shared embedding, encoder and decoder; a class built on it adds its head."""

    _needs_objective: tuple[str, ...] = ("span_corruption", "infilling")
    _keys_to_ignore_on_load_unexpected = [r"^lm_head"]  # a checkpoint with a head serves it too
    _tied_weights_keys = {
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
    }

    def __init__(self, config: HftkConfig):
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = HftkEncoder(config)
        self.decoder = HftkDecoder(config)
        self.encoder.embed_tokens = self.decoder.embed_tokens = self.shared  # one module, as in HftkEncoderBase

    def get_input_embeddings(self) -> nn.Embedding:
        return self.shared

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.shared = value
        self.encoder.embed_tokens = value
        self.decoder.embed_tokens = value

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        decoder_position_ids: torch.Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> Seq2SeqModelOutput:
        """
        Args:
            input_ids, attention_mask, position_ids, inputs_embeds: for [`HftkEncoder`].
            decoder_input_ids, decoder_attention_mask, decoder_position_ids, decoder_inputs_embeds, past_key_values,
            use_cache:
                for [`HftkDecoder`].
            encoder_outputs ([`BaseModelOutput`], *optional*): the encoder's output, if it has run already.
        """
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                inputs_embeds=inputs_embeds,
                **kwargs,
            )
        elif not isinstance(encoder_outputs, BaseModelOutput):
            encoder_outputs = BaseModelOutput(*encoder_outputs)
        states = encoder_outputs.last_hidden_state
        decoder_outputs = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            position_ids=decoder_position_ids,
            encoder_hidden_states=states.to(product_dtype(states)),  # once, and not by each layer that reads it
            encoder_attention_mask=attention_mask,
            encoder_position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        return Seq2SeqModelOutput(
            last_hidden_state=decoder_outputs.last_hidden_state,
            past_key_values=decoder_outputs.past_key_values,
            decoder_hidden_states=decoder_outputs.hidden_states,
            decoder_attentions=decoder_outputs.attentions,
            cross_attentions=decoder_outputs.cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
        )


class HftkModel(HftkEncoderDecoderBase):
    """
    Encoder and decoder without a head.

    Args:
        config ([`HftkConfig`]): the architecture.
    """

    def __init__(self, config: HftkConfig):
        super().__init__(config)
        self.post_init()


class HftkForConditionalGeneration(HftkEncoderDecoderBase, GenerationMixin):
    """
    Encoder and decoder with the language modelling head, tied to the embeddings: denoising, translation, dialogue.

    Args:
        config ([`HftkConfig`]): the architecture.
    """

    _tied_weights_keys = {**HftkEncoderDecoderBase._tied_weights_keys, "lm_head.weight": "shared.weight"}

    def __init__(self, config: HftkConfig):
        super().__init__(config)
        self.build_lm_head()
        self.post_init()

    def build_lm_head(self) -> None:
        config = self.config
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=config.lm_head_bias)
        if config.lm_head_transform:
            self.lm_head_transform = HftkHeadTransform(config)
        if not config.tie_lm_head:
            self._tied_weights_keys = {
                name: source for name, source in self._tied_weights_keys.items() if name != "lm_head.weight"
            }

    def head_states(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """What `lm_head` reads."""
        if self.config.lm_head_transform:
            hidden_states = self.lm_head_transform(hidden_states)
        return hidden_states * self.config.d_model**-0.5 if self.config.scale_lm_head else hidden_states

    def loss_and_logits(
        self, states: torch.Tensor, labels: torch.Tensor | None, num_items_in_batch: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """
        Of states of shape (batch, length, d_model). Training reads nothing but the loss: where that can be computed
        without the logits, and of the tokens that have a label alone, there are none.
        """
        plain = type(self.lm_head) is nn.Linear  # and not what an adapter or a quantisation made of it
        if labels is None or not (self.training and plain) or torch.compiler.is_compiling():
            logits = self.lm_head(self.head_states(states))  # (batch, length, vocab_size)
            return None if labels is None else lm_loss(logits, labels, num_items_in_batch), logits
        states, labels = self.head_states(states[labels != -100]), labels[labels != -100]  # (n, d_model), (n,)
        loss = LinearCrossEntropy.apply(states, self.lm_head.weight, self.lm_head.bias, labels)
        return loss / (len(labels) if num_items_in_batch is None else num_items_in_batch), None

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        decoder_position_ids: torch.Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        num_items_in_batch: torch.Tensor | None = None,
        **kwargs,
    ) -> Seq2SeqLMOutput:
        """
        Args:
            labels (`torch.LongTensor` of shape `(batch_size, target_length)`, *optional*):
                Targets, -100 where there is none. Without `decoder_input_ids` they are shifted right behind the start
                symbol. In training mode the output then has no `logits`: they never stand in memory as a whole.
            num_items_in_batch (`int`, *optional*):
                the sum of the losses is divided by it, instead of by the number of labels.
            others: as in [`HftkModel`].
        """
        if labels is not None:
            use_cache = False
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels, decoder_position_ids)
        outputs: Seq2SeqModelOutput = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            decoder_position_ids=decoder_position_ids,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        loss, logits = self.loss_and_logits(outputs.last_hidden_state, labels, num_items_in_batch)
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            decoder_hidden_states=outputs.decoder_hidden_states,
            decoder_attentions=outputs.decoder_attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=outputs.encoder_last_hidden_state,
            encoder_hidden_states=outputs.encoder_hidden_states,
            encoder_attentions=outputs.encoder_attentions,
        )

    def prepare_decoder_input_ids_from_labels(
        self, labels: torch.Tensor, decoder_position_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        return shift_tokens_right(
            labels, self.config.pad_token_id, self.config.decoder_start_token_id, decoder_position_ids
        )


class HftkForMaskedLM(HftkEncoderBase):
    """
    The encoder with the language modelling head, tied to the embeddings.

    Args:
        config ([`HftkConfig`]): the architecture.
    """

    _needs_objective = ("masked_lm",)
    _tied_weights_keys = {**HftkEncoderBase._tied_weights_keys, "lm_head.weight": "shared.weight"}

    def __init__(self, config: HftkConfig):
        super().__init__(config)
        self.build_lm_head()
        self.post_init()

    build_lm_head = HftkForConditionalGeneration.build_lm_head
    head_states = HftkForConditionalGeneration.head_states
    loss_and_logits = HftkForConditionalGeneration.loss_and_logits

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | None = None,
        word_starts: torch.Tensor | None = None,
        **kwargs,
    ) -> MaskedLMOutput:
        """
        Args:
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                the masked tokens, -100 elsewhere. In training mode the output then has no `logits`.
            num_items_in_batch (`int`, *optional*):
                the sum of the losses is divided by it, instead of by the number of labels.
            word_starts (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                the output is then nothing but the loss of [`HftkEncoder.skip_gram_loss`].
            others: as in [`HftkEncoder`].
        """
        if word_starts is not None:
            return MaskedLMOutput(
                loss=self.encoder.skip_gram_loss(input_ids, attention_mask, word_starts, position_ids)
            )
        outputs = self.encoder(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        loss, logits = self.loss_and_logits(outputs.last_hidden_state, labels, num_items_in_batch)
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class HftkForPreTraining(HftkForConditionalGeneration):
    """
    What a mixture of objectives trains: a batch that says something of the decoder is denoised through both stacks, one
    that does not is a masked language model of the encoder alone.

    Args:
        config ([`HftkConfig`]): the architecture.
    """

    _needs_objective = ()

    @can_return_tuple
    def forward(self, **kwargs) -> Seq2SeqLMOutput | MaskedLMOutput:
        """Arguments and outputs are those of [`HftkForConditionalGeneration`] or of [`HftkForMaskedLM`]."""
        decoder_inputs = ("decoder_input_ids", "decoder_inputs_embeds", "decoder_attention_mask")
        if all(kwargs.get(name) is None for name in decoder_inputs):
            return HftkForMaskedLM.forward(self, **kwargs)
        return super().forward(**kwargs)


class HftkForSequenceClassification(HftkEncoderBase):
    """
    The encoder with a linear layer over the pooled tokens (`config.classifier_pooling`): one label, several, or a
    number for a text.

    Args:
        config ([`HftkConfig`]):
            the architecture, with `num_labels` and, if it cannot be told from the labels, `problem_type`.
    """

    def __init__(self, config: HftkConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.classifier = nn.Linear(config.d_model, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> SequenceClassifierOutput:
        """
        Args:
            labels (`torch.LongTensor` of shape `(batch_size,)`, or floats `(batch_size, num_labels)` for several
            labels, *optional*)
            others: as in [`HftkEncoder`].
        """
        outputs = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs
        )
        states = outputs.last_hidden_state
        if attention_mask is None:
            attention_mask = torch.ones(states.shape[:2], device=states.device)
        if self.config.classifier_pooling == "first":
            first = attention_mask.to(torch.int32).argmax(dim=-1)  # (batch,): behind padding on the left
            pooled = states[torch.arange(states.shape[0], device=states.device), first]
        else:
            real = attention_mask[..., None].to(states.dtype)
            pooled = (states * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
        pooled = nn.functional.dropout(pooled, p=self.config.classifier_dropout, training=self.training)
        logits = self.classifier(pooled)
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class HftkForTokenClassification(HftkEncoderBase):
    """
    The encoder with a linear layer over every token.

    Args:
        config ([`HftkConfig`]): the architecture, with `num_labels`.
    """

    def __init__(self, config: HftkConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.classifier = nn.Linear(config.d_model, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> TokenClassifierOutput:
        """
        Args:
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*): -100 where there is none.
            others: as in [`HftkEncoder`].
        """
        outputs = self.encoder(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        states = nn.functional.dropout(
            outputs.last_hidden_state, p=self.config.classifier_dropout, training=self.training
        )
        logits = self.classifier(states)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config)
        return TokenClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


# their code is saved beside their weights, for whoever has no hftk
HftkModel.register_for_auto_class("AutoModel")
HftkForPreTraining.register_for_auto_class("AutoModelForPreTraining")
HftkForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
HftkForConditionalGeneration.register_for_auto_class("AutoModelForSeq2SeqLM")
HftkForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
HftkForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")

__all__ = [
    "HftkPreTrainedModel",
    "HftkEncoderModel",
    "HftkModel",
    "HftkForConditionalGeneration",
    "HftkForMaskedLM",
    "HftkForPreTraining",
    "HftkForSequenceClassification",
    "HftkForTokenClassification",
]
