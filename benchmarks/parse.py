"""
Parsing CoNLL-U to CoNLL-U with a parser that `hftk finetune` wrote, by `hftk predict` and by SuPar's biaffine parser,
in turns: words a second, the model's and the sentences' files included, the start of Python and imports not.

    python benchmarks/parse.py DIR TRAIN.conllu VALIDATION.conllu TEST.conllu

SuPar 1.1.4 is the peer where it can be imported; this puts it into a folder of its own, without what it does not need.

    pip install --target FOLDER --no-deps supar==1.1.4 nltk
    PYTHONPATH=FOLDER SUPAR_MODEL=supar.model python benchmarks/parse.py DIR TRAIN.conllu VALIDATION.conllu TEST.conllu

Its parser reads words and characters by three BiLSTM layers of 200. Where the file that SUPAR_MODEL names is not there
yet, it is trained first, in a quarter of an hour on one core, and its scores are printed: the better it is, the fewer
sentences ask for the search of a tree. `trees` makes trees, as ours always does and as SuPar does by default; `heads`
leaves them.
"""

import os
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec

from turns import arguments_of, in_turns

from hftk.cli import main

DIRECTORY, TRAIN, VALIDATION, FILE = arguments_of(4)
EPOCHS, PATIENCE, BATCH = 25, 10, 500  # words a batch: with the 5,000 of its default it takes too few steps
# as in the configurations that SuPar is published with
OPTIMIZER = {"lr": 2e-3, "mu": 0.9, "nu": 0.9, "eps": 1e-12, "weight_decay": 0, "decay": 0.75, "decay_steps": 5000}


def ours() -> dict[str, float]:
    return rate(lambda output: main(["predict", DIRECTORY, "--input", FILE, "--output", output]))


def supar(tree: bool) -> dict[str, float]:
    from supar import BiaffineDependencyParser

    def parse(output: str) -> None:
        parser = BiaffineDependencyParser.load(os.environ["SUPAR_MODEL"])
        parser.predict(FILE, pred=output, tree=tree, verbose=False)

    return rate(parse)


def train_supar() -> None:
    from supar import BiaffineDependencyParser

    files = {"train": TRAIN, "dev": VALIDATION, "test": FILE}
    sizes = {"encoder": "lstm", "feat": ["char"], "n_lstm_hidden": 200, "embed": None, "unk": "unk"}
    model = os.environ["SUPAR_MODEL"]
    parser = BiaffineDependencyParser.build(model, **files, **sizes, **OPTIMIZER, build=True, checkpoint=False)
    parser.train(**files, epochs=EPOCHS, patience=PATIENCE, batch_size=BATCH, verbose=False)
    _, scores = BiaffineDependencyParser.load(model).evaluate(FILE, punct=True, verbose=False)
    print(f"SuPar: {scores}")


def rate(parse: Callable[[str], object]) -> dict[str, float]:
    """Of the second of two times: the first one imports."""
    with tempfile.TemporaryDirectory() as folder:
        parse(f"{folder}/first.conllu")
        start = time.perf_counter()
        parse(f"{folder}/parsed.conllu")
        seconds = time.perf_counter() - start
        assert words(f"{folder}/parsed.conllu") == words(FILE)
    return {"words a second": words(FILE) / seconds}


def words(file: str) -> int:
    with open(file, encoding="utf-8") as lines:
        return sum(line.partition("\t")[0].isdigit() for line in lines)


if __name__ == "__main__":
    contenders = {"hftk predict": ours}
    if find_spec("supar"):
        contenders |= {"SuPar, trees": lambda: supar(tree=True), "SuPar, heads": lambda: supar(tree=False)}
        os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # its files are pickles
        if not os.path.exists(os.environ["SUPAR_MODEL"]):
            train_supar()
    else:
        print("SuPar is not here; on another processor it was measured at 4,360 words a second.")
    in_turns(contenders, "words a second")
