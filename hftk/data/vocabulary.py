"""What objectives and metrics must know about each token of a tokenizer, as arrays indexed by token id."""

import itertools
import json
import re
import unicodedata
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from hftk.errors import UsageError

OBJECTIVES = ("masked_lm", "span_corruption", "infilling")
SKIP_GRAM = "skip_gram"  # an objective that noises nothing, so that no mode token announces it
SPACE_MARKER = "▁"
BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
BYTE_OF_CHARACTER = {character: byte for byte, character in bytes_to_unicode().items()}  # in byte-level pieces
SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？")


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """
    The tokens of a tokenizer, seen from the noise and from bits per byte.

    Args:
        token_bytes (`np.ndarray` of shape `(vocab_size,)`, int64):
            UTF-8 bytes of text that the token stands for; a space marker counts as one, special tokens as none.
        starts_word (`np.ndarray` of shape `(vocab_size,)`, bool):
            Whether the token begins a word: with a space, with a character that is no part of a word (punctuation,
            symbols, line breaks), or, in WordPiece, without `##`. True for special tokens.
        ends_sentence (`np.ndarray` of shape `(vocab_size,)`, bool):
            Whether the token ends with one of `. ! ? … 。 ！ ？` or contains a line break.
        pad (`int`), bos (`int`), eos (`int`):
            Ids of padding and of the tokens before and after a document; `cls` and `sep` where bos and eos are missing.
        mask (`int`, *optional*):
            Id of the mask token.
        sentinels (`np.ndarray` of shape `(num_sentinels,)`, int64):
            Ids of `<extra_id_0>`, `<extra_id_1>`, … in this order.
        modes (`dict[str, int]`):
            Id of the mode token of each objective that has one.
        random_tokens (`np.ndarray` of shape `(num_ordinary,)`, int64):
            Ids of all tokens that are not special.
    """

    token_bytes: np.ndarray
    starts_word: np.ndarray
    ends_sentence: np.ndarray
    pad: int
    bos: int
    eos: int
    mask: int | None
    sentinels: np.ndarray
    modes: dict[str, int]
    random_tokens: np.ndarray

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase) -> "Vocabulary":
        """
        Reads the arrays out of a fast tokenizer: byte-level BPE, BPE or Unigram with `▁`, or WordPiece.

        Args:
            tokenizer (`PreTrainedTokenizerBase`):
                A fast tokenizer with a pad token, a bos or cls token, and an eos or sep token.

        Returns:
            `Vocabulary`: arrays as long as the largest id plus one.

        Raises:
            UsageError: If the tokenizer is not a fast one or lacks one of those tokens.
        """
        if not tokenizer.is_fast:
            raise UsageError(f"{type(tokenizer).__name__} is not a fast tokenizer: use one that has a tokenizer.json")
        vocab = tokenizer.get_vocab()
        added = tokenizer.added_tokens_decoder
        special = {index for index, token in added.items() if token.special} | set(tokenizer.all_special_ids)
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        steps = json.dumps([backend["normalizer"], backend["pre_tokenizer"], backend["decoder"]], ensure_ascii=False)
        is_byte_level, space = '"ByteLevel"' in steps, SPACE_MARKER if SPACE_MARKER in steps else " "

        size = max(vocab.values()) + 1
        token_bytes = np.zeros(size, dtype=np.int64)
        starts_word = np.ones(size, dtype=bool)
        ends_sentence = np.zeros(size, dtype=bool)
        for token, index in vocab.items():
            if index in special:
                continue
            if index in added:
                encoded, continues = token.encode(), False
            elif is_byte_level:
                encoded, continues = bytes(BYTE_OF_CHARACTER[character] for character in token), True
            else:
                encoded, continues = _read_piece(token, backend["model"], space)
            text = encoded.decode(errors="surrogateescape")
            token_bytes[index] = len(encoded)
            starts_word[index] = not (continues and _is_inside_word(text[:1]))
            ends_sentence[index] = text.endswith(SENTENCE_ENDS) or "\n" in text

        sentinels = itertools.takewhile(vocab.__contains__, (f"<extra_id_{number}>" for number in itertools.count()))
        return cls(
            token_bytes=token_bytes,
            starts_word=starts_word,
            ends_sentence=ends_sentence,
            pad=_first_id(tokenizer, "pad"),
            bos=_first_id(tokenizer, "bos", "cls"),
            eos=_first_id(tokenizer, "eos", "sep"),
            mask=tokenizer.mask_token_id,
            sentinels=np.array([vocab[sentinel] for sentinel in sentinels], dtype=np.int64),
            modes={name: vocab[f"<{name}>"] for name in OBJECTIVES if f"<{name}>" in vocab},
            random_tokens=np.array(sorted(set(vocab.values()) - special), dtype=np.int64),
        )


def _read_piece(piece: str, model: dict, space: str) -> tuple[bytes, bool]:
    """The bytes of text that a piece stands for, and whether its first character may continue the word before it."""
    if model["type"] == "WordPiece":
        prefix = model["continuing_subword_prefix"]
        return piece.removeprefix(prefix).encode(), piece.startswith(prefix)
    byte_piece = BYTE_PIECE.fullmatch(piece)
    if model["byte_fallback"] and byte_piece:
        return bytes.fromhex(byte_piece[1]), True
    return piece.replace(space, " ").encode(), True


def _is_inside_word(character: str) -> bool:
    """True for letters, digits, marks and joiners, and for a byte out of the middle of a character (a surrogate)."""
    category = unicodedata.category(character) if character else "Cn"
    return category[0] not in "PSZ" and category != "Cc"


def _first_id(tokenizer: PreTrainedTokenizerBase, *roles: str) -> int:
    for role in roles:
        index = getattr(tokenizer, f"{role}_token_id")
        if index is not None:
            return index
    wanted = " or ".join(f"{role}_token" for role in roles)
    raise UsageError(f"the tokenizer has no {wanted}: name one in its tokenizer_config.json")
