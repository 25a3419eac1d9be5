"""Words against subwords: which token of the encoded text stands for which word."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase


@dataclass
class EncodedWords:
    """
    A list of words as the model reads it.

    Args:
        input_ids (`list[int]` of length tokens):
            The words joined by spaces and encoded, with the tokenizer's special tokens, at most `max_length` of them.
        first_tokens (`list[int | None]` of length words):
            Where in `input_ids` each word's first token stands; `None` for a word that has no token of its own: it
            lies beyond `max_length`, the tokenizer drops all its characters, or it shares its only token with the
            word before it.
    """

    input_ids: list[int]
    first_tokens: list[int | None]


def encode_words(words: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> EncodedWords:
    """
    Encodes words as the running text that they came from, so that their subwords are those that pretraining saw, and
    finds each word's first token by character offsets.

    `tokenizer(words, is_split_into_words=True)` would encode each word alone: a byte-level BPE then takes every word
    for the start of a text, without the space that is part of its usual token.

    Args:
        words (`list[str]`):
            The units of one text. None is changed, split or left out.
        tokenizer (`PreTrainedTokenizerBase`):
            A fast one: only those know their tokens' offsets.
        max_length (`int`):
            Most tokens of an input, special tokens included; what lies beyond is cut.

    Returns:
        `EncodedWords`.
    """
    encoding = tokenizer(" ".join(words), return_offsets_mapping=True, truncation=True, max_length=max_length)
    spans = encoding["offset_mapping"]  # [tokens] (start, end) in characters; special tokens are (0, 0)

    first_tokens: list[int | None] = []
    token, word_start = 0, 0
    for word in words:
        word_end = word_start + len(word)
        # What ends here: the rest of the word before, a lone space, a special token.
        while token < len(spans) and spans[token][1] <= word_start:
            token += 1
        if token < len(spans) and spans[token][0] < word_end:
            first_tokens.append(token)
            token += 1  # no later word may take this token, even if it reaches into that word
        else:
            first_tokens.append(None)
        word_start = word_end + 1
    return EncodedWords(encoding["input_ids"], first_tokens)
