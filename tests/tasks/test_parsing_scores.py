import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from udapi.block.eval.conll18 import CONTENT, FUNCTIONAL, Conll18, prec_rec_f1
from udapi.block.read.conllu import Conllu
from udapi.core.document import Document

from hftk.tasks.conllu import check_tree, with_tree
from hftk.tasks.parsing_scores import ParsingScores

RELATIONS = sorted(CONTENT | FUNCTIONAL | {"punct", "other"})
relations = st.sampled_from([*RELATIONS, "acl:relcl", "acl:x", "aux:pass", "flat:name:x", "nsubj:pass", "punct:x"])


@st.composite
def trees(draw: st.DrawFn, length: int) -> dict[str, list]:
    order = draw(st.permutations(range(1, length + 1)))
    head = {order[0]: 0, **{word: draw(st.sampled_from(order[:i])) for i, word in enumerate(order) if i}}
    heads = [head[word] for word in range(1, length + 1)]
    return {"head": heads, "deprel": draw(st.lists(relations, min_size=length, max_size=length))}


@st.composite
def pairs(draw: st.DrawFn) -> tuple[dict, dict]:
    """A tree, and what becomes of it, or of another one, when single heads and relations change."""
    gold = draw(trees(draw(st.integers(1, 6))))
    words = st.integers(0, len(gold["head"]) - 1)
    heads = draw(st.sampled_from([gold, draw(trees(len(gold["head"])))]))["head"]
    for word, head in draw(st.lists(st.tuples(words, words), max_size=4)):
        changed = [*heads[:word], head, *heads[word + 1 :]]
        heads = heads if check_tree(changed) else changed
    deprels = [draw(st.sampled_from([deprel, draw(relations)])) for deprel in gold["deprel"]]
    return gold, {"head": heads, "deprel": deprels}


def scores(predictions: list[dict], references: list[dict]) -> dict[str, float]:
    return ParsingScores(keep_in_memory=True).compute(predictions=predictions, references=references)


def udapi_scores(predictions: list[dict], references: list[dict]) -> dict[str, float]:
    block = Conll18()
    for sides in zip(predictions, references, strict=True):
        bundle = Document().create_bundle()
        for zone, tree in zip(("pred", "gold"), sides, strict=True):
            text = "\n".join(f"{number}\t단어{number}" + "\t_" * 8 for number in range(1, len(tree["head"]) + 1))
            lines = with_tree(text, tree["head"], tree["deprel"]).split("\n")
            root = Conllu(strict=True).read_tree_from_lines(lines)
            root.zone = zone
            bundle.add_tree(root)
        block.process_tree(bundle.get_tree("pred"))
    count = block.total_count
    assert count["Words"] == sum(len(tree["head"]) for tree in references)
    return {
        "uas": prec_rec_f1(count["UAS"], count["pred"], count["gold"])[2],
        "las": prec_rec_f1(count["LAS"], count["pred"], count["gold"])[2],
        "clas": prec_rec_f1(count["CLAS"], count["pred_cont"], count["gold_cont"])[2],
    }


@settings(max_examples=50, deadline=None)
@given(st.lists(pairs(), min_size=1, max_size=3))
def test_scores_are_those_of_the_shared_task(sentences):
    references, predictions = map(list, zip(*sentences, strict=True))
    assert scores(predictions, references) == pytest.approx(udapi_scores(predictions, references))


@pytest.mark.parametrize("relation", RELATIONS)
def test_each_relation_counts_as_in_the_shared_task(relation):
    gold = {"head": [0, 1], "deprel": ["root", relation]}
    guesses = [{"head": [0, 1], "deprel": ["root", guess]} for guess in ("nsubj", "aux", f"{relation}:x")]
    assert scores(guesses, [gold] * 3) == pytest.approx(udapi_scores(guesses, [gold] * 3))


def test_a_word_without_a_prediction_is_wrong():
    gold = {"head": [2, 0], "deprel": ["nsubj", "root"]}
    guess = {"head": [-1, 0], "deprel": ["", "root"]}
    assert scores([guess], [gold]) == pytest.approx({"uas": 1 / 2, "las": 1 / 2, "clas": 2 / 3})


def test_nothing_to_count_is_no_error():
    gold = {"head": [0], "deprel": ["punct"]}
    assert scores([gold], [gold]) == {"uas": 1, "las": 1, "clas": 0}
    empty: dict[str, list] = {"head": [], "deprel": []}
    assert scores([empty], [empty]) == {"uas": 0, "las": 0, "clas": 0}
