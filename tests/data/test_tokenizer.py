import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

from hftk.data.cleaning import clean
from hftk.data.tokenizer import (
    BYTE_PIECES,
    MODE_TOKENS,
    SENTINELS,
    SPECIAL_TOKENS,
    TokenizerArguments,
    load_tokenizer,
    sample_documents,
    train_tokenizer,
)
from hftk.errors import UsageError

# Each word often enough to become a piece: written-out special tokens and byte pieces must not.
DOCUMENTS = [
    f"{a} {b}, <s>{b}</s> <0x41>{a} <extra_id_0>\n<mask>▁{b}  {n}."
    for n, (a, b) in enumerate(
        random.Random(0).choices([("고양이가", "잔다"), ("the cat", "sleeps"), ("é", "中文")], k=300)
    )
]
ALGORITHMS = ["bpe", "unigram"]
PIECES = [
    "<0x41>",
    "<0xEA>",
    "▁",
    "Ġ",
    " ",
    "  ",
    "\n",
    "\t",
    "고양이",
    "가",
    "🐈",
    "x",
    "<",
    ">",
    "the",
    "\u0301",
    "<unk>",
]


@pytest.fixture(scope="module", params=ALGORITHMS)
def tokenizer(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(DOCUMENTS, TokenizerArguments(algorithm=request.param, vocab_size=520)).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@given(text=st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join)))
def test_clean_text_comes_back_as_it_was(tokenizer, text):
    text = clean(text)
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    assert tokenizer.decode(tokenizer.encode(text)) == f"<s>{text}</s>"


@given(parts=st.lists(st.sampled_from(SPECIAL_TOKENS[:9] + BYTE_PIECES[60:70] + [" ", "a", "<", "가"])))
def test_written_out_special_tokens_can_be_encoded_as_text(tokenizer, parts):
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    ids = backend.encode("".join(parts), add_special_tokens=False).ids
    backend.encode_special_tokens = False
    assert tokenizer.decode(ids) == "".join(parts)
    assert all(index >= len(SPECIAL_TOKENS) for index in ids)


def test_byte_pieces_stand_for_bytes_outside_the_vocabulary_only():
    tokenizer = train_tokenizer(DOCUMENTS, TokenizerArguments(algorithm="unigram", vocab_size=520))
    assert tokenizer.tokenize("🐈") == ["<0xF0>", "<0x9F>", "<0x90>", "<0x88>"]
    assert not set(tokenizer.tokenize("<0x41>")) & set(BYTE_PIECES)


def test_ids_of_special_tokens_and_templates(tokenizer):
    names = ["<pad>", "<s>", "</s>", "<mask>", "<masked_lm>", "<span_corruption>", "<infilling>", *SENTINELS]
    assert tokenizer.convert_tokens_to_ids(names) == list(range(107))
    assert list(MODE_TOKENS) == ["masked_lm", "span_corruption", "infilling"]
    ids = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id]
    assert ids == [0, 1, 2, 3] and tokenizer.unk_token is None

    a, b = (tokenizer.encode(text, add_special_tokens=False) for text in ("고양이", "the cat"))
    assert dict(tokenizer("고양이")) == {"input_ids": [1, *a, 2], "attention_mask": [1] * (len(a) + 2)}
    assert tokenizer("고양이", "the cat")["input_ids"] == [1, *a, 2, *b, 2]
    assert tokenizer.encode("a<mask>b", add_special_tokens=False)[1:-1] == [3]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_same_documents_in_any_order_give_the_same_bytes(tmp_path, algorithm):
    shuffled = random.Random(1).sample(DOCUMENTS, len(DOCUMENTS))
    for name, documents in (("a", DOCUMENTS), ("b", shuffled)):
        arguments = TokenizerArguments(algorithm=algorithm, vocab_size=450, sample_megabytes=0.01)
        train_tokenizer(documents, arguments).save_pretrained(tmp_path / name)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("vocab_size", [363, 364, 372, 450])
def test_the_vocabulary_is_no_larger_than_asked_for(algorithm, vocab_size):
    tokenizer = train_tokenizer(DOCUMENTS, TokenizerArguments(algorithm=algorithm, vocab_size=vocab_size))
    assert vocab_size - 10 < len(tokenizer) <= vocab_size
    assert tokenizer.decode(tokenizer.encode(DOCUMENTS[0], add_special_tokens=False)) == DOCUMENTS[0]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_little_text_gives_a_smaller_vocabulary(algorithm):
    tokenizer = train_tokenizer(["가 나", "나"], TokenizerArguments(algorithm=algorithm, vocab_size=5000))
    assert 363 <= len(tokenizer) < 400
    assert tokenizer.decode(tokenizer.encode("나 abc"), skip_special_tokens=True) == "나 abc"


def test_bpe_learns_what_tokenizers_learns():
    """Against the library's own byte-level BPE, on text in which both see the same words."""
    from tokenizers import ByteLevelBPETokenizer

    documents = ["low lower lowest new newer newest wide wider widest 가나다 가나"] * 3
    reference = ByteLevelBPETokenizer()
    reference.train_from_iterator(documents[:1], vocab_size=300, min_frequency=2, show_progress=False)
    ours = train_tokenizer(documents, TokenizerArguments(vocab_size=300 + len(SPECIAL_TOKENS)))
    assert ours.tokenize(documents[0]) == reference.encode(documents[0]).tokens


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_syllables_stay_apart_and_other_letters_do_not(algorithm):
    tokenizer = train_tokenizer(DOCUMENTS, TokenizerArguments(algorithm=algorithm, vocab_size=600, syllables=True))
    ids = tokenizer("고양이가 잔다, the cat", add_special_tokens=False)["input_ids"]
    pieces = [tokenizer.decode([i]).strip(" ") for i in ids]
    assert [piece for piece in pieces if piece][:6] == ["고", "양", "이", "가", "잔", "다"]


@given(st.lists(st.text(min_size=1), max_size=30), st.integers(1, 60), st.randoms())
def test_a_sample_does_not_depend_on_order_or_repetition(documents, size, order):
    sample = sample_documents(documents, size)
    repeated = documents * 2
    order.shuffle(repeated)
    assert sample_documents(repeated, size) == sample
    assert len(set(sample)) == len(sample) and set(sample) <= set(documents)

    lengths = [len(text.encode()) for text in sample]
    if set(sample) == set(documents):
        assert sum(lengths[:-1]) < size
    else:
        assert sum(lengths[:-1]) < size <= sum(lengths)


def test_a_sample_is_uniform_over_the_stream():
    documents = [f"{number:05}" for number in range(10_000)]
    chosen = sorted(int(text) for text in sample_documents(documents, 5 * 1000))
    assert len(chosen) == 1000
    assert all(60 < sum(start <= number < start + 1000 for number in chosen) < 140 for start in range(0, 10_000, 1000))


@pytest.mark.parametrize(
    "arguments, documents, message",
    [
        (TokenizerArguments(vocab_size=362), ["a"], "tokenizer.vocab_size: 362 is less than 363"),
        (TokenizerArguments(sample_megabytes=0), ["a"], "tokenizer.sample_megabytes"),
        (TokenizerArguments(), [], "no text to train the tokenizer on"),
    ],
)
def test_impossible_arguments_are_refused(arguments, documents, message):
    with pytest.raises(UsageError, match=message):
        train_tokenizer(documents, arguments)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(UsageError, match="tokenizer.path: no tokenizer can be loaded"):
        load_tokenizer(str(tmp_path))


def test_byte_level_alphabet_is_whole(tokenizer):
    if "Ġ" in tokenizer.get_vocab():
        assert set(pre_tokenizers.ByteLevel.alphabet()) <= set(tokenizer.get_vocab())
    else:
        assert set(BYTE_PIECES) <= set(tokenizer.get_vocab())
