"""
hftk's encoder-decoder in CTranslate2, and the proof that it computes there what it computes in torch. CTranslate2 is
imported with this file. Of hftk's axes it has those that `families/hftk.py` lists.
"""

from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import torch
from ctranslate2.specs import Activation, TransformerDecoderSpec, TransformerEncoderSpec, TransformerSpec

from hftk.convert.reference import GENERATED, Row
from hftk.convert.vocabulary import Vocabulary
from hftk.model.configuration_hftk import HftkConfig
from hftk.model.modeling_hftk import HftkForConditionalGeneration, sinusoidal_embeddings

Arrays = dict[str, np.ndarray]

ACTIVATIONS = {
    **{"relu": Activation.RELU, "gelu": Activation.GELU, "gelu_new": Activation.GELUTanh},
    **{"silu": Activation.SWISH, "swish": Activation.SWISH},
}
ATOL, OWN = 1e-4, 3  # log-likelihoods may differ by so much, or by so many times what torch is off in float32
ROWS, LONGEST, NEW_TOKENS = 8, 160, 32  # of the proof; with the longest row relative positions reach their last bucket


def build_spec(config: HftkConfig, arrays: Arrays, vocabulary: Vocabulary) -> TransformerSpec:
    """
    What CTranslate2 calls a specification: a model that it can write.

    Args:
        config ([`HftkConfig`]):
            The model's.
        arrays (`dict[str, np.ndarray]`):
            Its tensors by torch's names, in float32.
        vocabulary ([`Vocabulary`]):
            Its tokens.
    """
    encoder = _stack(TransformerEncoderSpec, "encoder", config, arrays)
    decoder = _stack(TransformerDecoderSpec, "decoder", config, arrays)
    encoder.embeddings[0].weight = decoder.embeddings.weight = arrays["shared.weight"]
    decoder.projection.weight = arrays["shared.weight" if config.tie_lm_head else "lm_head.weight"]
    if config.lm_head_bias:
        decoder.projection.bias = arrays["lm_head.bias"]
    if config.scale_lm_head:
        decoder.scale_outputs = config.d_model**-0.5

    spec = TransformerSpec(encoder, decoder)
    spec.register_source_vocabulary(vocabulary.tokens)
    spec.register_target_vocabulary(vocabulary.tokens)
    spec.config.layer_norm_epsilon = config.norm_eps
    spec.config.decoder_start_token = spec.config.bos_token = vocabulary.tokens[vocabulary.start]
    spec.config.eos_token = vocabulary.tokens[vocabulary.end]
    spec.config.unk_token = vocabulary.tokens[vocabulary.unknown]
    return spec


def _stack(build: Any, stack: str, config: HftkConfig, arrays: Arrays) -> Any:
    """The encoder or the decoder, without its embeddings."""
    heads = getattr(config, f"{stack}_attention_heads")
    head_dim = config.head_dim or config.d_model // heads
    spec = build(
        getattr(config, f"{stack}_layers"),
        heads,
        no_final_norm=not config.final_norm,
        activation=ACTIVATIONS[config.activation_function],
        layernorm_embedding=config.embedding_norm,
        relative_attention_bias=config.position_embedding_type == "relative",
        ffn_glu=config.gated_feed_forward,
        rms_norm=config.norm_type == "rms_norm",
        head_dim=head_dim,
        rotary_dim=head_dim if config.position_embedding_type == "rotary" else None,
        rotary_interleave=False,
        rotary_base=config.rope_theta,
    )
    spec.pre_norm = config.norm_position == "pre"  # only now: at first it decides about the norm at the end
    spec.scale_embeddings = config.scale_embedding
    if config.embedding_norm:
        _norm(spec.layernorm_embedding, arrays, f"{stack}.layernorm_embedding")
    if config.final_norm:
        _norm(spec.layer_norm, arrays, f"{stack}.layer_norm")
    table = _positions(config, arrays, stack)
    if table is not None:
        spec.position_encodings.encodings = table
    for number, layer in enumerate(spec.layer):
        name = f"{stack}.layers.{number}"
        _attention(layer.self_attention, config, arrays, f"{name}.self_attn")
        if config.position_embedding_type == "relative":
            layer.self_attention.relative_attention_bias = arrays[f"{stack}.relative_attention_bias.weight"]
            layer.self_attention.relative_attention_max_distance = np.int32(config.relative_attention_max_distance)
        if stack == "decoder":
            _attention(layer.attention, config, arrays, f"{name}.encoder_attn")
        _norm(layer.ffn.layer_norm, arrays, f"{name}.final_layer_norm")
        _linear(layer.ffn.linear_0, arrays, f"{name}.feed_forward.fc1")
        _linear(layer.ffn.linear_1, arrays, f"{name}.feed_forward.fc2")
        if config.gated_feed_forward:
            _linear(layer.ffn.linear_0_noact, arrays, f"{name}.feed_forward.fc3")
    return spec


def _positions(config: HftkConfig, arrays: Arrays, stack: str) -> np.ndarray | None:
    """
    The table (max_position_embeddings, d_model) that is added to the embeddings. Without one CTranslate2 computes
    sinusoids that are not ours, so where there are no positions it is of zeros.
    """
    length, kind = config.max_position_embeddings, config.position_embedding_type
    if kind in ("relative", "rotary"):
        return None
    if kind == "learned":
        return arrays[f"{stack}.embed_positions.weight"]
    if kind == "none":
        return np.zeros((length, config.d_model), np.float32)
    return sinusoidal_embeddings(torch.arange(length)[None], config.d_model, kind == "sinusoidal_halves")[0].numpy()


def _attention(spec: Any, config: HftkConfig, arrays: Arrays, name: str) -> None:
    """Its projections, joined: queries, keys and values of one sequence, or keys and values of the source."""
    inputs = [f"{name}.{part}_proj" for part in "qkv"]
    joined = [inputs] if len(spec.linear) == 2 else [inputs[:1], inputs[1:]]
    for linear, names in zip(spec.linear, [*joined, [f"{name}.out_proj"]], strict=True):
        _linear(linear, arrays, *names)
    _norm(spec.layer_norm, arrays, f"{name}_layer_norm")
    if not config.scale_attention:
        spec.queries_scale = 1.0


def _linear(spec: Any, arrays: Arrays, *names: str) -> None:
    spec.weight = np.concatenate([arrays[f"{name}.weight"] for name in names])
    if f"{names[0]}.bias" in arrays:
        spec.bias = np.concatenate([arrays[f"{name}.bias"] for name in names])


def _norm(spec: Any, arrays: Arrays, name: str) -> None:
    spec.gamma = arrays[f"{name}.weight"]
    if hasattr(spec, "beta"):
        spec.beta = arrays.get(f"{name}.bias", np.zeros_like(spec.gamma))


def write_ctranslate2(folder: Path, config: HftkConfig, arrays: Arrays, vocabulary: Vocabulary) -> list[Row]:
    """
    Writes `model.bin`, its `config.json` and its tokens, and compares what comes out of them with torch. Arguments are
    those of [`build_spec`], and where to.

    Returns:
        `list[dict]`: rows as those of [`compare_outputs`].
    """
    spec = build_spec(config, arrays, vocabulary)
    spec.validate()
    spec.optimize()  # what is equal is stored once
    spec.save(str(folder))
    model = HftkForConditionalGeneration(config).eval()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, strict=False)
    return compare(folder, model, vocabulary)


@torch.no_grad()
def compare(folder: Path, model: HftkForConditionalGeneration, vocabulary: Vocabulary) -> list[Row]:
    """Runs both on random rows: log-likelihoods of given targets, token by token, and greedy search."""
    threads = torch.get_num_threads()
    translator = ctranslate2.Translator(str(folder), "cpu", compute_type="float32", intra_threads=threads)
    random = np.random.default_rng(0)
    longest = min(LONGEST, model.config.max_position_embeddings)
    lengths = np.linspace(1, longest, ROWS, dtype=int)
    sources, targets = ([random.integers(len(vocabulary.tokens), size=n) for n in lengths - less] for less in (0, 1))
    inputs = {"input_ids": _padded(sources), "attention_mask": _padded([np.ones_like(row) for row in sources])}

    def tokens(ids: Any) -> list[str]:
        return [vocabulary.tokens[token] for token in ids]

    said = [np.array([vocabulary.start, *row, vocabulary.end]) for row in targets]
    scored = translator.score_batch([tokens(row) for row in sources], [tokens(row) for row in targets])
    found = np.concatenate([one.log_probs for one in scored])
    new_tokens = min(NEW_TOKENS, longest)
    ids = model.generate(
        **inputs,
        **{"max_new_tokens": new_tokens, "num_beams": 1, "do_sample": False},
        **{"decoder_start_token_id": vocabulary.start, "eos_token_id": vocabulary.end, "pad_token_id": vocabulary.end},
    )
    written = translator.translate_batch(
        [tokens(row) for row in sources], beam_size=1, max_decoding_length=new_tokens, return_end_token=True
    )
    same = all(
        one.hypotheses[0] == tokens(_to_end(row, vocabulary.end))
        for one, row in zip(written, ids[:, 1:].tolist(), strict=True)
    )
    by_torch = _log_likelihoods(model, inputs, said)
    exact = _log_likelihoods(model.double(), inputs, said)
    difference, own = (float(np.abs(one - exact).max()) for one in (found, by_torch))
    return [
        {"output": "log_likelihoods", "max_difference": difference, "equal": difference <= max(ATOL, OWN * own)},
        {"output": GENERATED, "max_difference": 0.0 if same else float("inf"), "equal": same},
    ]


def _log_likelihoods(
    model: HftkForConditionalGeneration, inputs: dict[str, torch.Tensor], said: list[np.ndarray]
) -> np.ndarray:
    """Of all tokens behind the start symbols, row after row."""
    logits = model(**inputs, decoder_input_ids=_padded([row[:-1] for row in said])).logits  # (rows, length, vocab_size)
    rows = zip(logits.log_softmax(-1).numpy(), said, strict=True)
    return np.concatenate([likelihoods[range(len(row) - 1), row[1:]] for likelihoods, row in rows])


def _padded(rows: list[np.ndarray]) -> torch.Tensor:
    """(batch, length), with zeros on the right."""
    return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True)


def _to_end(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids
