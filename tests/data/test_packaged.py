import pytest

from hftk.data import packaged
from hftk.errors import UsageError

pytest.importorskip("turkish_treebanks", reason="comes with hftk[quickstart]")


def test_the_words_of_each_sentence_spell_its_text():
    sentences = packaged.turkish_web_treebank()
    assert len(sentences) == 4851
    for sentence in sentences:
        assert "".join(sentence.words) == sentence.text.replace(" ", "")
        assert len(sentence.words) == len(sentence.tags)


def test_no_word_is_cut_at_a_derivation():
    sentence = packaged.turkish_web_treebank()[1]  # the treebank has sixteen pieces here
    assert sentence.words == "Açıklanmayan soruların müfredata uygun olup olmadığını bilmek imkansız .".split()
    assert sentence.tags == "ADJ NOUN NOUN ADJ ADV NOUN NOUN VERB PUNCT".split()


def test_tells_what_to_install_without_the_package(monkeypatch):
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(UsageError, match=r"pip install 'hftk\[quickstart\]'"):
        packaged.turkish_web_treebank()
