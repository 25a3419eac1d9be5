"""Scores of dependency trees, as the CoNLL 2018 shared task computes them for given words."""

from typing import Any

import datasets
import evaluate

# The script's list (universaldependencies.org/conll18/conll18_ud_eval.py). It leaves out the functional relations aux,
# cop, mark, det, clf, case and cc, and also punct.
CONTENT = set(
    "nsubj obj iobj csubj ccomp xcomp obl vocative expl dislocated advcl advmod discourse nmod appos nummod acl amod "
    "conj fixed flat compound list parataxis orphan goeswith reparandum root dep".split()
)


class ParsingScores(evaluate.Metric):
    """
    Attachment scores over all words, punctuation included:

    - `uas`, the share of words with the right head;
    - `las`, with the right head and relation;
    - `clas`, the F1 of the same for words with content relations, which content words have.

    Relations are compared without their subtypes: `acl:relcl` is `acl`.

    `compute(predictions=..., references=...)` takes two equally long lists of trees, each a dict of `head`
    (`list[int]`, 0 for the root) and `deprel` (`list[str]`), and returns `{"uas": ..., "las": ..., "clas": ...}`, all
    between 0 and 1; 0 where there is nothing to count. A word without a prediction has head -1 and relation `""`, and
    counts as wrong.
    """

    def _info(self) -> evaluate.MetricInfo:
        tree = {"head": datasets.List(datasets.Value("int32")), "deprel": datasets.List(datasets.Value("string"))}
        return evaluate.MetricInfo(
            description="UAS, LAS and CLAS of predicted dependency trees.",
            citation="",
            inputs_description="predictions, references: the heads and relations of each sentence.",
            features=datasets.Features({"predictions": tree, "references": tree}),
        )

    def _compute(self, predictions: list[dict[str, Any]], references: list[dict[str, Any]]) -> dict[str, float]:
        guesses = arcs(predictions)
        golds = arcs(references)
        same_head = [guess[0] == gold[0] for guess, gold in zip(guesses, golds, strict=True)]
        same_arc = [guess == gold for guess, gold in zip(guesses, golds, strict=True)]
        content = sum(relation in CONTENT for _, relation in [*guesses, *golds])
        content_hits = sum(same and gold[1] in CONTENT for same, gold in zip(same_arc, golds, strict=True))
        return {
            "uas": sum(same_head) / max(len(golds), 1),
            "las": sum(same_arc) / max(len(golds), 1),
            "clas": 2 * content_hits / max(content, 1),
        }


def arcs(trees: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """Head and universal relation of each word of all sentences."""
    return [
        (head, deprel.partition(":")[0])
        for tree in trees
        for head, deprel in zip(tree["head"], tree["deprel"], strict=True)
    ]
