import networkx
import pytest

from hftk.data import packaged
from hftk.errors import UsageError

pytest.importorskip("turkish_treebanks", reason="comes with hftk[quickstart]")


def test_the_words_of_each_sentence_spell_its_text():
    sentences = packaged.turkish_web_treebank()
    assert len(sentences) == 4851
    for sentence in sentences:
        assert "".join(sentence.words) == sentence.text.replace(" ", "")
        assert len(sentence.words) == len(sentence.tags) == len(sentence.heads) == len(sentence.relations)


def test_the_heads_of_each_sentence_are_a_tree():
    for sentence in packaged.turkish_web_treebank():
        graph = networkx.DiGraph((head, word) for word, head in enumerate(sentence.heads, start=1))
        assert networkx.is_arborescence(graph) and sentence.heads.count(0) == 1


def test_messages_and_dialogues_are_there_in_both_languages():
    messages = dict(packaged.korean_messages())
    assert len(messages) > 2000 and messages["Cut"] == "잘라내기"
    topics = {topic for topic, turns in packaged.dialogues("korean") if len(turns) > 1}
    assert {"food", "emotion"} <= topics and len(packaged.dialogues("english")) > 2000


def test_no_word_is_cut_at_a_derivation():
    sentence = packaged.turkish_web_treebank()[1]  # the treebank has sixteen pieces here
    assert sentence.words == "Açıklanmayan soruların müfredata uygun olup olmadığını bilmek imkansız .".split()
    assert sentence.tags == "ADJ NOUN NOUN ADJ ADV NOUN NOUN VERB PUNCT".split()
    assert sentence.heads == [2, 6, 4, 6, 6, 7, 8, 0, 8]


def test_tells_what_to_install_without_the_package(monkeypatch):
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(UsageError, match=r"pip install 'hftk\[quickstart\]'"):
        packaged.turkish_web_treebank()
