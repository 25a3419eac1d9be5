import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from hftk.tasks.alignment import encode_words

TEXT = ["the cat sat on the mat", "나는 학교에 갔다", "kedi minderin üstünde oturdu ."]


def byte_level_bpe(trim_offsets: bool) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXT * 4,
        trainers.BpeTrainer(
            vocab_size=330, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=trim_offsets),
            processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def unigram() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(TEXT * 4, trainers.UnigramTrainer(vocab_size=60, unk_token="?", special_tokens=["?"]))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?")


TOKENIZERS = {"trimmed": byte_level_bpe(True), "untrimmed": byte_level_bpe(False), "unigram": unigram()}
printable = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=8)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(words=st.lists(printable, max_size=8))
def test_every_word_gets_a_token_of_its_own(name, words):
    tokenizer = TOKENIZERS[name]
    encoded = encode_words(words, tokenizer, max_length=512)
    assert encoded.input_ids == tokenizer(" ".join(words))["input_ids"]
    tokens = [token for token in encoded.first_tokens if token is not None]
    assert tokens == sorted(set(tokens))
    assert len(tokens) == len(encoded.first_tokens) == len(words)


@given(words=st.lists(printable, min_size=1, max_size=8))
def test_the_tokens_from_one_first_token_to_the_next_spell_the_word(words):
    tokenizer = TOKENIZERS["trimmed"]
    encoded = encode_words(words, tokenizer, max_length=512)
    ends = [*encoded.first_tokens[1:], len(encoded.input_ids) - 1]
    spelled = [
        tokenizer.decode(encoded.input_ids[start:end], clean_up_tokenization_spaces=False).strip(" ")
        for start, end in zip(encoded.first_tokens, ends, strict=True)
    ]
    assert spelled == words


@given(words=st.lists(printable, max_size=8), max_length=st.integers(2, 20))
def test_words_beyond_the_longest_input_have_no_token_and_the_others_keep_theirs(words, max_length):
    tokenizer = TOKENIZERS["trimmed"]
    whole = encode_words(words, tokenizer, max_length=512).first_tokens
    cut = encode_words(words, tokenizer, max_length)
    assert len(cut.input_ids) <= max_length
    assert cut.first_tokens == [token if token < max_length - 1 else None for token in whole]


def test_words_that_give_no_token_have_none_and_push_no_other_word():
    encoded = encode_words(["the", "", "cat", "", ""], TOKENIZERS["trimmed"], max_length=512)
    found = [token for token in encoded.first_tokens if token is not None]
    assert encoded.first_tokens == [found[0], None, found[1], None, None]
    assert TOKENIZERS["trimmed"].decode(encoded.input_ids[found[0] : found[1]]).strip() == "the"


def test_a_token_that_spans_two_words_belongs_to_the_first():
    tokenizer = Tokenizer(models.WordLevel({"new york": 0, " ": 1, "city": 2}, unk_token=" "))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" city", "isolated")
    encoded = encode_words(["new", "york"], PreTrainedTokenizerFast(tokenizer_object=tokenizer), max_length=8)
    assert encoded.first_tokens == [0, None]


def test_equals_the_word_ids_of_transformers_where_words_carry_no_space():
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "##s", "sat", "."]
    tokenizer = BertTokenizerFast(vocab={piece: i for i, piece in enumerate(pieces)})
    words = ["the", "cats", "sat", "."]
    word_ids = tokenizer(words, is_split_into_words=True).word_ids()
    assert encode_words(words, tokenizer, max_length=16).first_tokens == [word_ids.index(i) for i in range(len(words))]
