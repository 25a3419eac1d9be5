"""What `generate()` does by itself with a model: the settings of greedy search, for a graph that has them inside."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from hftk.errors import UsageError
from hftk.model.configuration_hftk import HftkConfig

SAID = "generation_config.json"
NEW_TOKENS = 20  # of transformers, where nothing else is said
# Settings that change what greedy search gives and that the graph has not, with the values that change nothing.
NEUTRAL: dict[str, Any] = {
    **{"repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "diversity_penalty": 0.0, "guidance_scale": 1.0},
    **{"no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "min_length": 0, "min_new_tokens": 0},
    **{"bad_words_ids": [], "suppress_tokens": [], "begin_suppress_tokens": [], "sequence_bias": {}},
    **{"exponential_decay_length_penalty": None, "max_time": None, "stop_strings": None},
}


@dataclass(frozen=True)
class Greedy:
    """
    Args:
        max_length (`int`):
            Ids of a row at the most, the start symbol among them.
        start, pad (`int`):
            The first id of each row, and what fills those that have ended.
        ends (`tuple[int, ...]`):
            Ids that end a row.
        forced (`dict[int, int]`):
            The id at a place, whatever the model says.
    """

    max_length: int
    start: int
    pad: int
    ends: tuple[int, ...]
    forced: dict[int, int]


def said_beside(folder: Path, config: HftkConfig) -> transformers.GenerationConfig:
    """`generation_config.json` of a folder; where there is none, what follows from the model's configuration."""
    if (folder / SAID).is_file():
        return transformers.GenerationConfig.from_pretrained(folder)
    return transformers.GenerationConfig.from_model_config(config)


def greedy_settings(folder: Path, config: HftkConfig, max_new_tokens: int | None) -> Greedy:
    """
    The settings that lie beside a model, as `generate(num_beams=1, do_sample=False)` takes them.

    Args:
        folder (`Path`):
            With `generation_config.json`, or without: then those of the configuration.
        config ([`HftkConfig`]):
            The model's.
        max_new_tokens (`int`, *optional*):
            Instead of what is said there.

    Raises:
        UsageError: a setting changes what comes out and the graph does not have it.
    """
    file, said = folder / SAID, said_beside(folder, config)
    for name, neutral in NEUTRAL.items():
        value = getattr(said, name, None)
        if value is not None and value != neutral:
            raise UsageError(f"{file}: a SavedModel generates without {name}={value!r}; take it out")
    if said.decoder_start_token_id is None:
        raise UsageError(f"{file}: decoder_start_token_id is missing; say with which id a text starts")
    ends = ends_of(said)
    pad = said.pad_token_id if said.pad_token_id is not None else (ends or (0,))[0]
    max_length = _max_length(said, config, max_new_tokens)
    learned = config.position_embedding_type == "learned"
    if max_length < 2 or (learned and max_length - 1 > config.max_position_embeddings):
        raise UsageError(
            f"--max-new-tokens {max_length - 1}: must be at least 1"
            + (f" and at most max_position_embeddings={config.max_position_embeddings}" if learned else "")
        )
    forced = {1: said.forced_bos_token_id, max_length - 1: said.forced_eos_token_id}
    return Greedy(
        max_length,
        said.decoder_start_token_id,
        pad,
        ends,
        {place: token for place, token in forced.items() if token is not None},
    )


def ends_of(said: transformers.GenerationConfig) -> tuple[int, ...]:
    """The ids that end a row."""
    ends = said.eos_token_id if isinstance(said.eos_token_id, list) else [said.eos_token_id]
    return tuple(end for end in ends if end is not None)


def _max_length(said: transformers.GenerationConfig, config: HftkConfig, max_new_tokens: int | None) -> int:
    new_tokens = said.max_new_tokens if max_new_tokens is None else max_new_tokens
    if new_tokens is not None:
        return 1 + new_tokens
    return said.max_length or min(1 + NEW_TOKENS, config.max_position_embeddings)
