import json
import os
import subprocess
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from hftk.data import writing
from hftk.data.corpus import open_corpus, token_counts
from hftk.data.preparation import DataArguments, prepare_corpus, training_documents
from hftk.data.tokenizer import TokenizerArguments, train_tokenizer
from hftk.errors import UsageError

TEXTS = [f"문장 {number}은 {number % 7}번 <s>글</s>" for number in range(300)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, TokenizerArguments(vocab_size=500))


def write_lines(path, texts):
    path.write_text("\n".join(texts) + "\n")
    return str(path)


def ids_of(tokenizer, text):
    """The ids of text in which special tokens are text, too."""
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


def texts_of(tokenizer, documents):
    return [tokenizer.decode(documents[index]) for index in range(len(documents))]


def prepare(tmp_path, tokenizer, texts=TEXTS, **arguments):
    data = DataArguments(train_files=[write_lines(tmp_path / "train.txt", texts)], **arguments)
    return prepare_corpus(data, tokenizer, tmp_path / "cache")


def test_each_text_is_on_one_side_with_the_ids_of_the_tokenizer(tmp_path, tokenizer):
    corpus = prepare(tmp_path, tokenizer, validation_share=0.2)

    train, validation = texts_of(tokenizer, corpus.train), texts_of(tokenizer, corpus.validation)
    assert sorted(train + validation) == sorted(TEXTS)
    assert train == [text for text in TEXTS if text in set(train)]
    assert 30 < len(validation) < 90
    for documents, texts in ((corpus.train, train), (corpus.validation, validation)):
        assert documents.tokens.dtype == np.uint16
        assert documents.starts.dtype == np.int64 and documents.lengths.dtype == np.int32
        assert [documents[i].tolist() for i in range(len(documents))] == [ids_of(tokenizer, text) for text in texts]
        assert documents.tokens.min() > 106


def test_the_manifest_counts_what_was_kept_and_what_was_dropped(tmp_path, tokenizer):
    texts = [*TEXTS, " ", "e\x01e", "broken \ufffd", *TEXTS[:50], "ee"]
    corpus = prepare(tmp_path, tokenizer, texts, validation_share=0.2)

    kept = [*TEXTS, "ee"]
    sides = [corpus.manifest["train"], corpus.manifest["validation"]]
    assert sum(side["documents"] for side in sides) == len(kept)
    assert sum(side["characters"] for side in sides) == sum(map(len, kept))
    assert sum(side["bytes"] for side in sides) == sum(len(text.encode()) for text in kept)
    assert sum(side["tokens"] for side in sides) == sum(len(ids_of(tokenizer, text)) for text in kept)
    assert corpus.manifest["dropped"] == {"broken": 1, "duplicate": 51, "empty": 1}
    assert corpus.manifest["first_dropped"]["broken"].endswith("train.txt:303")
    assert "51 duplicate" in corpus.summary() and "train.txt:303" in corpus.summary()


def test_tokens_are_counted_over_the_whole_training_text(tmp_path, tokenizer):
    corpus = prepare(tmp_path, tokenizer, validation_share=0.2)
    assert token_counts(corpus, 500, chunk=7).tolist() == np.bincount(corpus.train.tokens, minlength=500).tolist()


def test_of_equal_texts_the_first_is_kept(tmp_path, tokenizer):
    corpus = prepare(tmp_path, tokenizer, [*TEXTS[5:200], *TEXTS[:200]], validation_share=0.2)
    train = texts_of(tokenizer, corpus.train)
    assert train == [text for text in TEXTS[5:200] + TEXTS[:5] if text in set(train)]


def test_an_equal_text_is_found_however_far_away(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(writing, "CHUNK", 7)
    monkeypatch.setattr(writing, "GROUPS", 3)
    monkeypatch.setattr(writing, "BATCH_CHARACTERS", 50)
    corpus = prepare(tmp_path, tokenizer, [*TEXTS, *reversed(TEXTS)], validation_share=0.2)
    assert sorted(texts_of(tokenizer, corpus.train) + texts_of(tokenizer, corpus.validation)) == sorted(TEXTS)
    assert corpus.manifest["dropped"] == {"duplicate": 300}


def test_a_training_text_that_is_in_the_validation_files_is_dropped(tmp_path, tokenizer):
    validation_files = [write_lines(tmp_path / "validation.txt", [*TEXTS[280:], "only here", TEXTS[280]])]
    corpus = prepare(tmp_path, tokenizer, [*TEXTS, TEXTS[0]], validation_files=validation_files)

    assert texts_of(tokenizer, corpus.train) == TEXTS[:280]
    assert texts_of(tokenizer, corpus.validation) == [*TEXTS[280:], "only here"]
    assert corpus.manifest["dropped"] == {"duplicate": 2, "in_validation": 20}


def test_training_documents_are_those_of_the_corpus(tmp_path, tokenizer):
    data = DataArguments(train_files=[write_lines(tmp_path / "train.txt", TEXTS)], validation_share=0.2)
    corpus = prepare_corpus(data, tokenizer, tmp_path)
    assert list(training_documents(data)) == texts_of(tokenizer, corpus.train)


def test_a_dataset_gives_the_corpus_of_its_file(tmp_path, tokenizer):
    (tmp_path / "dataset").mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"body": TEXTS}), tmp_path / "dataset" / "train.parquet")
    data = DataArguments(dataset=str(tmp_path / "dataset"), text_column="body", validation_share=0.2)
    corpus = prepare_corpus(data, tokenizer, tmp_path / "cache")
    whole = prepare(tmp_path, tokenizer, validation_share=0.2)
    assert np.array_equal(corpus.train.tokens[:], whole.train.tokens[:])


def test_a_large_vocabulary_needs_four_bytes_an_id(tmp_path, tokenizer):
    from copy import deepcopy

    large = deepcopy(tokenizer)
    large.add_tokens([f"token{number}" for number in range(2**16)])
    corpus = prepare(tmp_path, large, [*TEXTS, "token65000"], validation_share=0.2)
    assert corpus.train.tokens.dtype == np.uint32
    assert sorted(texts_of(large, corpus.train) + texts_of(large, corpus.validation)) == sorted([*TEXTS, "token65000"])


def test_the_tokenizers_truncation_and_padding_do_not_reach_the_corpus(tmp_path, tokenizer):
    texts = [*TEXTS, "a"]
    tokenizer("a", padding="max_length", truncation=True, max_length=8)
    corpus = prepare(tmp_path, tokenizer, texts, validation_share=0.2)
    assert sum(corpus.train.lengths) + sum(corpus.validation.lengths) == sum(len(ids_of(tokenizer, t)) for t in texts)


def test_the_same_sources_are_prepared_once_and_others_anew(tmp_path, tokenizer):
    first = prepare(tmp_path, tokenizer, validation_share=0.2)
    data = DataArguments(train_files=[str(tmp_path / "train.txt")], validation_share=0.2)
    made = os.stat(first.folder / "train.tokens").st_mtime_ns

    again = prepare_corpus(data, tokenizer, tmp_path / "cache")
    assert again.folder == first.folder and os.stat(again.folder / "train.tokens").st_mtime_ns == made

    data.max_source_length = 64  # is of the rows, not of the corpus
    assert prepare_corpus(data, tokenizer, tmp_path / "cache").folder == first.folder
    data.validation_share = 0.3
    assert prepare_corpus(data, tokenizer, tmp_path / "cache").folder != first.folder
    data.validation_share = 0.2
    other = train_tokenizer(TEXTS, TokenizerArguments(vocab_size=400))
    assert prepare_corpus(data, other, tmp_path / "cache").folder != first.folder
    write_lines(tmp_path / "train.txt", TEXTS[:-1])
    assert prepare_corpus(data, tokenizer, tmp_path / "cache").folder != first.folder


def test_what_a_killed_run_left_is_not_taken_for_a_corpus(tmp_path, tokenizer):
    whole = prepare(tmp_path, tokenizer, validation_share=0.2)
    count = len(whole.train)
    unfinished = whole.folder.rename(whole.folder.with_suffix(".unfinished"))

    data = DataArguments(train_files=[str(tmp_path / "train.txt")], validation_share=0.2)
    assert len(prepare_corpus(data, tokenizer, tmp_path / "cache").train) == count
    assert not unfinished.exists()


def test_a_failed_run_leaves_nothing_behind(tmp_path, tokenizer):
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "x"}\n' * 5000 + "not json\n")
    with pytest.raises(UsageError, match="train.jsonl:5001"):
        prepare_corpus(DataArguments(train_files=[str(path)]), tokenizer, tmp_path / "cache")
    assert [name for name in os.listdir(tmp_path / "cache") if not name.endswith(".lock")] == []


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing_behind(tmp_path, tokenizer):
    """A limit on the size of files stands for the full disk."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    write_lines(tmp_path / "train.txt", [f"{text} {number}" for number in range(20) for text in TEXTS])
    script = """if True:
        import resource, sys
        from hftk.data.preparation import DataArguments, prepare_corpus
        from hftk.data.tokenizer import load_tokenizer
        from hftk.errors import UsageError
        tokenizer = load_tokenizer(sys.argv[1] + "/tokenizer")
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            prepare_corpus(DataArguments(train_files=[sys.argv[1] + "/train.txt"]), tokenizer, sys.argv[1] + "/cache")
        except UsageError as error:
            print(error)
        """
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{tmp_path}/cache/") and "free some space" in done.stdout
    assert done.stdout.count("\n") == 1
    assert [name for name in os.listdir(tmp_path / "cache") if not name.endswith(".lock")] == []


@pytest.mark.parametrize("damage", ["manifest.json", "train.tokens", "validation.starts"])
def test_a_damaged_corpus_is_refused(tmp_path, tokenizer, damage):
    folder = prepare(tmp_path, tokenizer, validation_share=0.2).folder
    os.truncate(folder / damage, os.path.getsize(folder / damage) // 16 * 8)
    with pytest.raises(UsageError, match="no whole prepared corpus"):
        open_corpus(folder)


def test_a_corpus_opens_as_it_was_prepared(tmp_path, tokenizer):
    corpus = prepare(tmp_path, tokenizer, validation_share=0.2)
    opened = open_corpus(corpus.folder)
    assert opened.manifest == corpus.manifest == json.loads((corpus.folder / "manifest.json").read_text())
    assert texts_of(tokenizer, opened.train) == texts_of(tokenizer, corpus.train)


@pytest.mark.parametrize(
    "texts, arguments, message",
    [
        (TEXTS[:20], {"validation_share": 1e-9}, "data.validation_share: of 20 documents none became validation"),
        (TEXTS, {"validation_share": 0.0}, "data.validation_share: 0.0 is not between 0 and 1"),
        (["\t", "\ufffd", "\u3000"], {}, "no document is left to train on"),
    ],
)
def test_a_corpus_without_a_side_is_refused(tmp_path, tokenizer, texts, arguments, message):
    with pytest.raises(UsageError, match=message):
        prepare(tmp_path, tokenizer, texts, **arguments)


def test_validation_files_without_a_document_are_refused(tmp_path, tokenizer):
    validation_files = [write_lines(tmp_path / "validation.txt", ["", " "])]
    with pytest.raises(UsageError, match="data.validation_files: no document is left"):
        prepare(tmp_path, tokenizer, validation_files=validation_files)


def test_no_source_is_refused(tmp_path, tokenizer):
    with pytest.raises(UsageError, match="give data.train_files or data.dataset"):
        prepare_corpus(DataArguments(), tokenizer, tmp_path)


def test_memory_does_not_grow_with_the_text(tmp_path, tokenizer):
    """Six times the documents, each distinct, must not cost 16 bytes a document more, nor a large row group."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    script = """if True:
        import resource, sys
        from hftk.data.preparation import DataArguments, prepare_corpus
        from hftk.data.tokenizer import load_tokenizer
        for file in sys.argv[2:]:
            prepare_corpus(DataArguments(train_files=[file]), load_tokenizer(sys.argv[1]), sys.argv[1] + "/cache")
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        """
    files = []
    for count in (20_000, 120_000):
        files.append(str(tmp_path / f"{count}.parquet"))
        texts = [f"{count} {number} {'ab ' * 7}" for number in range(count)]
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), files[-1], row_group_size=count)
    command = [sys.executable, "-c", script, str(tmp_path / "tokenizer"), *files]
    small, large = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert large - small < 16 * 100_000
