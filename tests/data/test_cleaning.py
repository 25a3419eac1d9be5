import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from hftk.data.cleaning import Dropped, clean, clean_documents


@given(st.text())
def test_clean_text_is_nfc_without_control_characters_and_stays_as_it_is(text):
    cleaned = clean(text)

    assert unicodedata.is_normalized("NFC", cleaned)
    assert {c for c in cleaned if unicodedata.category(c) == "Cc"} <= {"\n", "\t"}
    assert clean(cleaned) == cleaned


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_cleaning_only_composes_a_text_without_control_characters(text):
    assert clean(text) == unicodedata.normalize("NFC", text)


def test_line_breaks_of_all_systems_become_one():
    assert clean("a\r\nb\rc\x0cd\x85e\nf\tg") == "a\nb\nc\nd\ne\nf\tg"


def test_removing_a_control_character_lets_its_neighbours_compose():
    assert clean("e\x01\u0301\ufeff") == "é"


def test_empty_and_broken_documents_are_dropped_and_counted_with_the_first_place():
    texts = ["good", " \t\u3000", "x\ufffdy", "", "\x01", "nul\0", "half \ud83d", "also good"]
    dropped = Dropped()

    kept = list(clean_documents(((text, "a.txt", n) for n, text in enumerate(texts, 1)), dropped))

    assert kept == ["good", "also good"]
    assert dropped.counts == {"empty": 3, "broken": 3}
    assert dropped.first == {"empty": "a.txt:2", "broken": "a.txt:3"}
