"""Trains the tokenizer: byte-level BPE, or Unigram with byte pieces; no character is unknown to either."""

import heapq
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from math import ceil
from typing import Literal

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hftk.data.vocabulary import OBJECTIVES
from hftk.errors import UsageError

PAD, BOS, EOS, MASK = "<pad>", "<s>", "</s>", "<mask>"
MODE_TOKENS = {name: f"<{name}>" for name in OBJECTIVES}
SENTINELS = [f"<extra_id_{number}>" for number in range(100)]
SPECIAL_TOKENS = [PAD, BOS, EOS, MASK, *MODE_TOKENS.values(), *SENTINELS]
BYTE_PIECES = [f"<0x{byte:02X}>" for byte in range(256)]

# A word with the space before it, a number, a run of other signs, or white space. No piece crosses such a border, so
# no text, not even "</s>" or "<0x41>" written out, can become a special token or a byte piece: each needs `<` and a
# letter or digit in one piece.
WORDS = r" ?[\p{L}\p{M}]+| ?\p{N}+| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
# The same with each Hangul syllable apart.
SYLLABLES = r" ?\p{Hangul}| ?(?:(?!\p{Hangul})[\p{L}\p{M}])+| ?\p{N}+| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"


@dataclass
class TokenizerArguments:
    """
    Args:
        path (`str`, *optional*):
            Folder or Hub id of a fast tokenizer that is used as it is; `None` trains one.
        algorithm (`str`, defaults to `"bpe"`):
            `"bpe"` (byte-level) or `"unigram"` (with byte pieces for characters outside the vocabulary).
        vocab_size (`int`, defaults to 16384):
            Most tokens that the tokenizer may have, the special ones included. Little text gives fewer.
        syllables (`bool`, defaults to `False`):
            Make each Hangul syllable, with the space before it, a token, and join none to longer ones. Twice as many
            tokens, whose borders are those of particles, endings and names: for models that will label characters.
        sample_megabytes (`float`, defaults to 10.0):
            Size in 10^6 bytes of the sample of documents that it is trained on.
    """

    path: str | None = None
    algorithm: Literal["bpe", "unigram"] = "bpe"
    vocab_size: int = 16384
    syllables: bool = False
    sample_megabytes: float = 10.0


def train_tokenizer(
    documents: Iterable[str], arguments: TokenizerArguments, model_max_length: int = 512
) -> PreTrainedTokenizerFast:
    """
    Trains a tokenizer on a sample of documents. The same documents, in any order, give the same bytes on disk.

    `decode(encode(text, add_special_tokens=False))` is `text` for every text in NFC that holds no special token.

    Args:
        documents (`Iterable[str]`):
            Cleaned texts; read once, and no more than the sample is held in memory.
        arguments (`TokenizerArguments`):
            Algorithm, vocabulary size and sample size.
        model_max_length (`int`, defaults to 512):
            Tokens that `truncation=True` cuts to; no limit of the tokenizer itself.

    Returns:
        `PreTrainedTokenizerFast`: with pad, bos, eos and mask token, the mode tokens and the sentinels as its first
        ids, and the templates `<s> A </s>` and `<s> A </s> B </s>`.

    Raises:
        UsageError: If `vocab_size` leaves no room for the special tokens and 256 bytes, or there is no text.
    """
    smallest = len(SPECIAL_TOKENS) + len(BYTE_PIECES)
    if arguments.vocab_size < smallest:
        raise UsageError(
            f"tokenizer.vocab_size: {arguments.vocab_size} is less than {smallest}, "
            f"{len(SPECIAL_TOKENS)} special tokens and 256 bytes: raise it"
        )
    if arguments.sample_megabytes <= 0:
        raise UsageError(f"tokenizer.sample_megabytes: {arguments.sample_megabytes} is not above 0: raise it")
    sample = sample_documents(documents, ceil(arguments.sample_megabytes * 1_000_000))
    if not sample:
        raise UsageError("there is no text to train the tokenizer on: check data.train_files or data.dataset")

    train = {"bpe": _train_bpe, "unigram": _train_unigram}[arguments.algorithm]
    tokenizer = train(sample, arguments.vocab_size, Regex(SYLLABLES if arguments.syllables else WORDS))
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}",
        pair=f"{BOS} $A {EOS} $B {EOS}",
        special_tokens=[(token, SPECIAL_TOKENS.index(token)) for token in (BOS, EOS)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        mask_token=MASK,
        model_max_length=model_max_length,
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(path: str) -> PreTrainedTokenizerFast:
    """
    Loads a fast tokenizer from a folder or the Hub.

    Args:
        path (`str`):
            Folder with a `tokenizer.json`, or a Hub id.

    Returns:
        `PreTrainedTokenizerFast`

    Raises:
        UsageError: If there is none, or only a slow one.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"tokenizer.path: no tokenizer can be loaded from {path}: {reason}") from error
    if not tokenizer.is_fast:
        raise UsageError(f"tokenizer.path: {path} has no tokenizer.json: name a fast tokenizer")
    return tokenizer


def sample_documents(documents: Iterable[str], size: int) -> list[str]:
    """
    A uniform sample of distinct documents that does not depend on their order: those with the smallest hashes.

    Args:
        documents (`Iterable[str]`):
            Texts; read once, and no more than the sample is held in memory.
        size (`int`):
            UTF-8 bytes at which the sample is full; its last document may exceed it.

    Returns:
        `list[str]`: the sample in order of the hashes; everything if there is less text than `size`.
    """
    heap: list[tuple[int, str]] = []  # (negative hash, text): the largest hash is on top
    hashes: set[int] = set()
    total = 0
    for document in documents:
        encoded = document.encode()
        # Not the hash that splits off the validation documents: the sample must not be of one end of theirs.
        rank = int.from_bytes(blake2b(encoded, digest_size=8, person=b"sample").digest(), "big")
        if rank in hashes or (total >= size and rank > -heap[0][0]):
            continue
        heapq.heappush(heap, (-rank, document))
        hashes.add(rank)
        total += len(encoded)
        while total - (largest := len(heap[0][1].encode())) >= size:
            hashes.remove(-heapq.heappop(heap)[0])
            total -= largest
    return [document for _, document in sorted(heap, reverse=True)]


def _train_bpe(sample: list[str], vocab_size: int, words: Regex) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample, trainer)
    return tokenizer


def _train_unigram(sample: list[str], vocab_size: int, words: Regex) -> Tokenizer:
    """
    A Unigram whose pieces hold plain spaces: with the usual `▁` in their place, a `▁` in a text would come back as one.
    """
    room = vocab_size - len(SPECIAL_TOKENS) - len(BYTE_PIECES)
    counts = Counter(chain.from_iterable(sample))
    # The trainer keeps every character that it sees. The rarest shall not crowd out the words: bytes will do for them.
    rare = sorted(counts, key=lambda character: (-counts[character], character))[room // 2 :]
    common_text = str.maketrans(dict.fromkeys(rare, "\n"))

    learner = Tokenizer(models.Unigram())
    learner.normalizer = normalizers.NFC()
    learner.pre_tokenizer = pre_tokenizers.Split(words, "isolated")
    trainer = trainers.UnigramTrainer(vocab_size=max(room, 1) + 1, show_progress=False)  # it never ends with 1
    learner.train_from_iterator((document.translate(common_text) for document in sample), trainer)
    learned = _reproducible(json.loads(learner.to_str())["model"]["vocab"])[:room]

    # The trainer leaves byte fallback out, so the model is put together here. It asks for the id of an unknown token,
    # which no text can reach, since each byte has a piece.
    vocab = [(token, 0.0) for token in SPECIAL_TOKENS + BYTE_PIECES] + learned
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=SPECIAL_TOKENS.index(PAD), byte_fallback=True))
    tokenizer.normalizer = learner.normalizer
    tokenizer.pre_tokenizer = learner.pre_tokenizer
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _reproducible(vocab: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """
    Pieces by falling score, without what differs from one training to the next: the last digits of the scores, and a
    handicap in steps of 1e-4 by which the trainer tells apart, in random order, the characters that it had pruned.
    """
    lowest = min(score for _, score in vocab)
    handicap = 1e-4 * sum(len(piece) == 1 for piece, _ in vocab)
    pruned = {piece for piece, score in vocab if len(piece) == 1 and score < lowest + handicap}
    scores = {piece: round(lowest if piece in pruned else score, 6) for piece, score in vocab}
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))
