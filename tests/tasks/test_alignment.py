import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from hftk.tasks.alignment import encode_units, running_text, spaced_characters, spans_and_gaps

TEXT = ["the cat sat on the mat", "나는 학교에 갔다", "kedi minderin üstünde oturdu ."]


def byte_level_bpe() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXT * 4,
        trainers.BpeTrainer(
            vocab_size=330, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def unigram() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(TEXT * 4, trainers.UnigramTrainer(vocab_size=60, unk_token="?", special_tokens=["?"]))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?")


def word_piece() -> PreTrainedTokenizerFast:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "sat", ".", "나", "는", "##는"]
    return BertTokenizerFast(
        vocab={piece: i for i, piece in enumerate(pieces)}, do_lower_case=False, strip_accents=False
    )


TOKENIZERS = {"bpe": byte_level_bpe(), "unigram": unigram(), "word_piece": word_piece()}
printable = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=8)
texts = st.lists(printable, min_size=1, max_size=8)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(words=texts, max_length=st.integers(8, 40))
def test_each_unit_has_a_token_of_its_own_in_some_window(name, words, max_length):
    encoded = encode_units(running_text(words), TOKENIZERS[name], max_length)
    assert all(len(window) <= max_length for window in encoded.windows)
    assert len(encoded.places) == len(set(encoded.places)) == len(words)
    for unit, (window, first, end) in enumerate(encoded.places):
        assert [token for token, owner in enumerate(encoded.units[window]) if owner == unit] == [*range(first, end)]


@given(words=texts)
def test_words_have_the_subwords_of_running_text(words):
    tokenizer = TOKENIZERS["bpe"]
    if any(len(tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(word)) > 1 for word in words):
        return  # such a word may be cut otherwise beside its neighbour
    assert encode_units(running_text(words), tokenizer, 512).windows == [tokenizer(" ".join(words))["input_ids"]]


@given(words=texts)
def test_the_tokens_of_a_unit_spell_it(words):
    tokenizer = TOKENIZERS["bpe"]
    encoded = encode_units(running_text(words), tokenizer, 512)
    [ids], [units] = encoded.windows, encoded.units
    spelled = [[token for token, unit in zip(ids, units, strict=True) if unit == word] for word in range(len(words))]
    assert [tokenizer.decode(tokens).strip(" ") for tokens in spelled] == words


@given(words=st.lists(st.sampled_from(["the", "cat", "sat"]), min_size=30, max_size=60))
def test_a_unit_is_read_where_most_is_shown_around_it(words):
    encoded = encode_units(running_text(words), TOKENIZERS["bpe"], 16)
    assert len(encoded.windows) > 1
    for unit, (chosen, token, _) in enumerate(encoded.places):
        for window, owners in enumerate(encoded.units):
            if unit in owners and window != chosen:
                there = owners.index(unit)
                left = there if window > 0 else 99
                right = len(owners) - there if window < len(encoded.units) - 1 else 99
                mine_left = token if chosen > 0 else 99
                mine_right = len(encoded.units[chosen]) - token if chosen < len(encoded.units) - 1 else 99
                assert min(left, right) <= min(mine_left, mine_right)


def test_characters_are_read_one_by_one_with_the_space_before_them():
    tokenizer = TOKENIZERS["bpe"]
    encoded = encode_units(spaced_characters(list("나는 학교")), tokenizer, 64)
    assert encoded.places[2] == encoded.places[3]  # the space, and what follows it
    [ids], [units] = encoded.windows, encoded.units
    assert tokenizer.decode([i for i, unit in zip(ids, units, strict=True) if unit == 3]) == " 학"
    assert encoded.places == sorted(encoded.places) and len(set(encoded.places)) == 4


def test_a_character_that_the_tokenizer_drops_is_read_as_unknown():
    encoded = encode_units(spaced_characters(["나", "\u200b", "는"]), TOKENIZERS["word_piece"], 16)
    assert TOKENIZERS["word_piece"].convert_ids_to_tokens(encoded.windows[0]) == ["[CLS]", "나", "[UNK]", "는", "[SEP]"]
    assert encoded.places == [(0, 1, 2), (0, 2, 3), (0, 3, 4)]


def test_words_that_conll_u_glues_together_have_no_space_between_them():
    assert running_text(["갔다", ".", "또"], ["SpaceAfter=No", "_", "_"]) == ["갔다", ".", " 또"]
    assert running_text(["갔다", "."]) == ["갔다", " ."]


@given(st.text("가 나.\n", min_size=1, max_size=12), st.sets(st.integers(0, 12)))
def test_spans_and_what_is_between_them_are_the_whole_text(text, edges):
    edges = sorted(edge for edge in edges if edge <= len(text))
    spans = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=False) if text[a:b].strip()]
    pieces = spans_and_gaps(text, spans)
    assert "".join(pieces) == text and len(pieces) == 2 * len(spans) + 1
    assert [piece.lstrip() for piece in pieces[1::2]] == [text[a:b].lstrip() for a, b in spans]
    assert all(gap == gap.rstrip() for gap in pieces[:-1:2]), "a space goes with what is behind it"
