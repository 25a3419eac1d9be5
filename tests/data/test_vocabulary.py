import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from hftk.data.tokenizer import TokenizerArguments, train_tokenizer
from hftk.data.vocabulary import SENTENCE_ENDS, Vocabulary
from hftk.errors import UsageError

SENTENCES = [
    "The cat sat on the mat. The dog, however, did not!\nWho knows why? Nobody knows.",
    "나는 학교에 갔다. 고양이가 매트 위에 앉았다! 왜? 아무도 모른다…",
    "我喜欢猫。你呢？太好了！ हिन्दी भाषा 123 456 ▁ ▁ ▁",
]
TEXTS = [f"{sentence} {number}" for number in range(4) for sentence in SENTENCES]


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """A Unigram as SentencePiece makes it: `▁` for spaces, one put before the text, and byte pieces."""
    learner = Tokenizer(models.Unigram())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.train_from_iterator(TEXTS, trainers.UnigramTrainer(vocab_size=150, show_progress=False))
    pieces = [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    vocab = [(piece, -float(rank)) for rank, piece in enumerate(sorted(learner.get_vocab(), key=len, reverse=True))]
    tokenizer = Tokenizer(models.Unigram([("<pad>", 0.0), *pieces, *vocab], unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def wordpiece() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=list(special.values()), show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


TOKENIZERS = {
    "bpe": train_tokenizer(TEXTS, TokenizerArguments(vocab_size=700)),
    "unigram": train_tokenizer(TEXTS, TokenizerArguments(vocab_size=500, algorithm="unigram")),
    "sentencepiece": sentencepiece_like(),
    "wordpiece": wordpiece(),
}
VOCABULARIES = {name: Vocabulary.from_tokenizer(tokenizer) for name, tokenizer in TOKENIZERS.items()}


@pytest.mark.parametrize("name", ["bpe", "unigram"])
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<")))
@example(text="The ▁ 猫🙂")
@settings(deadline=None)
def test_bytes_of_tokens_add_up_to_the_text(name: str, text: str) -> None:
    text = TOKENIZERS[name].backend_tokenizer.normalizer.normalize_str(text)
    ids = TOKENIZERS[name].encode(text, add_special_tokens=False)
    assert VOCABULARIES[name].token_bytes[ids].sum() == len(text.encode())


@given(text=st.text(st.sampled_from("the catsön 猫고양이▁🙂.,!"), min_size=1))
def test_a_space_marker_counts_one_byte(text: str) -> None:
    ids = TOKENIZERS["sentencepiece"].encode(text, add_special_tokens=False)
    as_read = " " + text.replace("▁", " ").removeprefix(" ")  # Metaspace puts a space first; ▁ is one to it
    assert VOCABULARIES["sentencepiece"].token_bytes[ids].sum() == len(as_read.encode())


def test_a_byte_piece_counts_one_byte() -> None:
    tokenizer, vocabulary = TOKENIZERS["sentencepiece"], VOCABULARIES["sentencepiece"]
    ids = tokenizer.convert_tokens_to_ids(["<0xF0>", "<0x0A>", "<0x41>"])
    assert vocabulary.token_bytes[ids].tolist() == [1, 1, 1]
    assert vocabulary.starts_word[ids].tolist() == [False, True, False]
    assert vocabulary.ends_sentence[ids].tolist() == [False, True, False]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(
    words=st.lists(st.sampled_from(["the", "cat", "however", "knowsthe", "123", "학교에", "고양이가", "喜欢", "猫"])),
    ends=st.lists(st.sampled_from(["", ".", ",", "!", "?!", "…", "。"])),
)
def test_tokens_that_start_words_split_a_text_into_words_and_signs(
    name: str, words: list[str], ends: list[str]
) -> None:
    text = " ".join(word + end for word, end in zip(words, ends, strict=False))
    encoding = TOKENIZERS[name](text, add_special_tokens=False, return_offsets_mapping=True)
    starts = VOCABULARIES[name].starts_word[encoding["input_ids"]]
    offsets = [begin for (begin, _), start in zip(encoding["offset_mapping"], starts, strict=True) if start]
    parts = [text[begin:end].strip() for begin, end in zip([0, *offsets], [*offsets, len(text)], strict=True)]
    assert [part for part in parts if part] == re.findall(r"\w+|[^\w\s]", text)


def test_vowel_signs_continue_a_word() -> None:
    ids = TOKENIZERS["bpe"].encode("हिन्दी", add_special_tokens=False)
    assert len(ids) > 1
    assert not VOCABULARIES["bpe"].starts_word[ids].any()


@pytest.mark.parametrize("name", ["bpe", "unigram", "wordpiece"])
def test_sentence_ends(name: str) -> None:
    tokenizer, vocabulary = TOKENIZERS[name], VOCABULARIES[name]
    texts = [tokenizer.decode([index]).removeprefix("##") for index in vocabulary.random_tokens]
    expected = [text.endswith(SENTENCE_ENDS) or "\n" in text for text in texts]
    assert vocabulary.ends_sentence[vocabulary.random_tokens].tolist() == expected
    assert sum(expected) >= 5


def test_special_tokens() -> None:
    tokenizer, vocabulary = TOKENIZERS["bpe"], VOCABULARIES["bpe"]
    assert (vocabulary.pad, vocabulary.bos, vocabulary.eos, vocabulary.mask) == (0, 1, 2, 3)
    assert vocabulary.modes == {"masked_lm": 4, "span_corruption": 5, "infilling": 6}
    assert vocabulary.sentinels.tolist() == list(range(7, 107))
    assert vocabulary.random_tokens.tolist() == list(range(107, len(tokenizer)))
    assert not vocabulary.token_bytes[:107].any()
    assert vocabulary.starts_word[:107].all()


def test_sentinels_are_in_the_order_of_their_numbers() -> None:
    tokenizer = wordpiece()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<extra_id_1>", "<extra_id_0>", "<extra_id_3>"]})
    sentinels = Vocabulary.from_tokenizer(tokenizer).sentinels
    assert tokenizer.convert_ids_to_tokens(sentinels) == ["<extra_id_0>", "<extra_id_1>"]


def test_cls_and_sep_stand_in_for_bos_and_eos() -> None:
    tokenizer, vocabulary = TOKENIZERS["wordpiece"], VOCABULARIES["wordpiece"]
    assert (vocabulary.bos, vocabulary.eos) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert vocabulary.mask is None
    assert vocabulary.modes == {}
    assert tokenizer.unk_token_id not in vocabulary.random_tokens


def test_an_added_token_that_is_not_special_is_text() -> None:
    tokenizer = train_tokenizer(TEXTS, TokenizerArguments(vocab_size=400))
    texts = ["고양이 猫", "etc.", ".net"]
    tokenizer.add_tokens([AddedToken(text, special=False) for text in texts])
    vocabulary, ids = Vocabulary.from_tokenizer(tokenizer), tokenizer.convert_tokens_to_ids(texts)
    assert vocabulary.token_bytes[ids].tolist() == [len(text.encode()) for text in texts]
    assert vocabulary.starts_word[ids].all()
    assert vocabulary.ends_sentence[ids].tolist() == [False, True, False]
    assert np.isin(ids, vocabulary.random_tokens).all()


def test_ids_without_a_token_are_never_drawn() -> None:
    tokenizer = Tokenizer(models.WordPiece({"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "cat": 9}, unk_token="[PAD]"))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")
    vocabulary = Vocabulary.from_tokenizer(fast)
    assert np.array_equal(vocabulary.random_tokens, [9])
    assert len(vocabulary.token_bytes) == 10


def test_a_missing_token_is_named() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordPiece({"a": 0})), pad_token="a")
    with pytest.raises(UsageError, match="bos_token or cls_token"):
        Vocabulary.from_tokenizer(tokenizer)


def test_a_slow_tokenizer_is_refused() -> None:
    with pytest.raises(UsageError, match="ByT5Tokenizer is not a fast tokenizer"):
        Vocabulary.from_tokenizer(ByT5Tokenizer())
