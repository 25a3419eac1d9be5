"""The tokens of a model, for a program that takes and gives tokens instead of ids."""

from dataclasses import dataclass
from pathlib import Path

import transformers

from hftk.convert.greedy import SAID, ends_of, said_beside
from hftk.errors import UsageError
from hftk.model.configuration_hftk import HftkConfig


@dataclass(frozen=True)
class Vocabulary:
    """
    Args:
        tokens (`list[str]`):
            One for each id.
        start, end, unknown (`int`):
            The id before the first of a text, the one that ends it, and that of tokens that are none.
    """

    tokens: list[str]
    start: int
    end: int
    unknown: int


def read_vocabulary(folder: Path, config: HftkConfig) -> Vocabulary:
    """
    The tokens of the tokenizer beside a model.

    Args:
        folder (`Path`):
            With the tokenizer, and `generation_config.json` or none.
        config ([`HftkConfig`]):
            The model's.

    Raises:
        UsageError: there is no tokenizer, or no single end of a text.
    """
    said = said_beside(folder, config)
    ends = ends_of(said)
    if len(ends) != 1:
        raise UsageError(f"{folder / SAID}: CTranslate2 has one end of a text, not eos_token_id={said.eos_token_id}")
    if said.decoder_start_token_id is None:
        raise UsageError(f"{folder / SAID}: decoder_start_token_id is missing; say with which id a text starts")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # of many types
        reason = " ".join(str(error).split())
        raise UsageError(f"{folder}: CTranslate2 takes tokens; put the model's tokenizer there ({reason})") from error
    found = tokenizer.convert_ids_to_tokens(list(range(config.vocab_size)))
    # A table of embeddings may have more rows than there are tokens.
    tokens = [f"<unused_{place}>" if token is None else token for place, token in enumerate(found)]
    # A tokenizer of bytes knows no unknown token; CTranslate2 would add one that has no embedding.
    unknown = tokenizer.unk_token_id if tokenizer.unk_token_id is not None else config.pad_token_id
    return Vocabulary(tokens, said.decoder_start_token_id, ends[0], ends[0] if unknown is None else unknown)
