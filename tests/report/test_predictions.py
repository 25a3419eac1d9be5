import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftk.errors import UsageError
from hftk.report.predictions import as_svg, as_text, tree_lines
from hftk.tasks.alignment import running_text
from hftk.tasks.morphemes import Morphemes
from hftk.tasks.n2m import N2M
from hftk.tasks.n2n import N2N
from hftk.tasks.n2path import N2Path
from hftk.tasks.n21 import N21

TREES, WORDS, CHARACTERS = N2Path("n2path"), N2N("n2n"), N2N("n2n", unit="character")
SENTENCE = {
    "tokens": ["비가", "와서", "꽃이", "피었다"],
    "head": [2, 4, 4, 0],
    "deprel": ["주어", "advcl", "nsubj", "root"],
}
LETTERS = st.text("가나다 a", min_size=1, max_size=4)
SVG = "{http://www.w3.org/2000/svg}"


@st.composite
def trees(draw):
    """The heads of a tree, projective or not."""
    order = draw(st.integers(1, 12).flatmap(lambda count: st.permutations(range(1, count + 1))))
    heads = [0] * len(order)
    for place, word in enumerate(order[1:], start=1):
        heads[word - 1] = draw(st.sampled_from(order[:place]))
    return heads


def follow(lines: list[str], word: int) -> int:
    """The head that a reader of the drawing finds for a word."""
    line = lines[word - 1]
    column = max([line.rfind(corner) for corner in "╭├╰"])
    if column < 0:
        return 0
    found = []
    for step, on, ends in ((-1, "├│┼╰┴", "┬┼┴"), (1, "├│┼╭┬", "┬┼┴")):
        row = word - 1
        while lines[row][column] in on and (row == word - 1 or lines[row][column] not in ends):
            row += step
        if row != word - 1 and lines[row][column] in ends:
            found.append(row + 1)
    [head] = found
    return head


@given(trees())
def test_the_lines_of_a_tree_lead_from_each_word_to_its_head(heads):
    lines = tree_lines(heads)
    assert [follow(lines, word) for word in range(1, len(heads) + 1)] == heads
    assert len({len(line) for line in lines}) == 1 and [line[0] for line in lines].count("─") == 1


def test_a_tree_stands_in_aligned_columns_where_hangul_is_two_wide():
    assert as_text(TREES, SENTENCE) == (
        "   ╭─ 주어  비가\n"
        " ╭─┴─ advcl 와서\n"
        " ├─── nsubj 꽃이\n"
        "─┴─── root  피었다\n"
    )  # fmt: skip


def test_a_line_that_another_one_passes_over_is_not_joined_to_it():
    assert tree_lines([4, 3, 0, 3, 4]) == [
        "   ╭─",
        " ╭─│─",
        "─┼─│─",
        " ╰─┼─",
        "   ╰─",
    ]


@given(trees())
def test_each_arc_is_drawn_once_from_its_head_to_its_dependent(heads):
    words = [f"낱말{i}" for i in range(len(heads))]
    svg = ElementTree.fromstring(as_svg(TREES, [{"tokens": words, "head": heads, "deprel": ["관계"] * len(heads)}]))
    centres = {text.text: float(text.attrib["x"]) for text in svg.iter(f"{SVG}text") if text.text != "관계"}
    drawn = []
    for path in svg.iter(f"{SVG}path"):
        if path.get("fill") == "none":
            numbers = [float(number) for number in re.findall(r"[\d.]+", path.attrib["d"])]
            start, end = numbers[0], numbers[-3] if "H" in path.attrib["d"] else numbers[0]
            head, dependent = (min(words, key=lambda word: abs(centres[word] - x)) for x in (start, end))
            assert (centres[head] < start) == (centres[head] < end), "an arc leaves its head on the dependent's side"
            drawn.append((0 if head == dependent else words.index(head) + 1, words.index(dependent) + 1))
    assert sorted(drawn) == sorted((head, word) for word, head in enumerate(heads, start=1))
    assert len(list(svg.iter(f"{SVG}text"))) == 2 * len(heads)


@given(st.lists(st.tuples(LETTERS, st.sampled_from(["PS", "LC", ""])), min_size=1))
def test_entities_of_characters_stand_in_brackets(parts):
    labels = [
        label
        for text, kind in parts
        for label in ([f"B-{kind}"] + [f"I-{kind}"] * (len(text) - 1) if kind else ["O"] * len(text))
    ]
    row = {"tokens": list("".join(text for text, _ in parts)), "labels": labels}
    assert as_text(CHARACTERS, row) == "".join(f"[{text} {kind}]" if kind else text for text, kind in parts)
    svg = ElementTree.fromstring(as_svg(CHARACTERS, [row]))
    assert [rect.get("rx") for rect in svg.iter(f"{SVG}rect")].count("4") == sum(bool(kind) for _, kind in parts)


def test_spans_stand_in_brackets_and_the_text_between_them_as_it_was():
    row = {"tokens": "경찰은 서울에  갔다.", "spans": [[0, 2], [4, 6], [9, 11]], "labels": ["OG", "LC", "V"]}
    assert as_text(N2N("n2n", unit="span"), row) == "[경찰 OG]은 [서울 LC]에  [갔다 V]."


@given(
    st.lists(
        st.tuples(
            st.text("가나다a", min_size=1, max_size=4),
            st.sampled_from(["B-PS", "I-PS", "I-LC", "O"]),
            st.sampled_from(["_", "SpaceAfter=No"]),
        ),
        min_size=1,
    )
)
def test_without_its_brackets_a_text_is_what_it_was(units):
    words, labels, misc = (list(column) for column in zip(*units, strict=True))
    labels[0] = "B-PS"
    text = as_text(WORDS, {"tokens": words, "labels": labels, "misc": misc})
    assert re.sub(r"\[([^]]*) (PS|LC)\]", r"\1", text) == "".join(running_text(words, misc))
    assert "[ " not in text


def test_an_entity_of_several_words_has_one_pair_of_brackets():
    row = {"tokens": ["어제", "김", "철수", "씨가"], "labels": ["O", "B-PS", "I-PS", "O"]}
    assert as_text(WORDS, row) == "어제 [김 철수 PS] 씨가"
    assert as_text(WORDS, {**row, "labels": ["O", "B-PS", "I-LC", "O"]}) == "어제 [김 PS] [철수 LC] 씨가"
    assert as_text(WORDS, {**row, "labels": ["O"] * 4}) == "어제 김 철수 씨가"


def test_other_labels_stand_behind_each_word_or_character():
    assert as_text(WORDS, {"tokens": ["나는", "갔다"], "labels": ["NP", "VV"]}) == "나는/NP 갔다/VV"
    row = {"tokens": ["나는", "갔다"], "xpos": ["NP+JX", "VV+EP+EF"]}
    assert as_text(Morphemes("morphemes"), row) == "나는/NP+JX 갔다/VV+EP+EF"
    row = {"tokens": list("나는 갔"), "labels": ["NP", "JX", "O", "VV"]}
    assert as_text(CHARACTERS, row) == "나/NP 는/JX  갔/VV"


@pytest.mark.parametrize(
    ("label", "shown"), [("좋음", "좋음"), (["a", "b"], "a, b"), ([], "none"), (3.14159, "3.142"), (2, "2")]
)
def test_an_arrow_leads_to_the_label_of_a_text(label, shown):
    assert as_text(N21("n21"), {"text": "참 좋다", "label": label}) == f"참 좋다 → {shown}"
    pair = N21("n21", second_text_column="more")
    assert as_text(pair, {"text": "참 좋다", "more": "별로다", "label": label}) == f"참 좋다 | 별로다 → {shown}"


def test_a_translation_both_ways_shows_what_was_read_and_not_what_replaced_it():
    both = N2M("n2m", directions=[{"source": "en", "target": "ko"}, {"source": "ko", "target": "en"}])
    read, predicted = {"en": "a cat", "ko": "고양이"}, {"en": "one cat", "ko": "한 고양이"}
    assert as_text(both, predicted, read=read) == "a cat\n→ 한 고양이\n고양이\n→ one cat"
    assert as_text(both, {"en": "a cat", "ko": "고양이"}, read={"en": "a cat"}) == "a cat\n→ 고양이"
    assert as_text(N2M("n2m"), {"source": "a cat", "target": "고양이"}) == "a cat\n→ 고양이"


@pytest.mark.parametrize(
    ("task", "row", "labels"),
    [
        (TREES, SENTENCE, SENTENCE["deprel"]),
        (WORDS, {"tokens": ["나는", "갔다"], "labels": ["NP", "VV"]}, ["NP", "VV"]),
        (CHARACTERS, {"tokens": list("철수가"), "labels": ["B-PS", "I-PS", "O"]}, ["PS"]),
        (N21("n21"), {"text": "참 좋다", "label": "좋음"}, ["좋음"]),
    ],
    ids=["trees", "words", "entities", "text"],
)
def test_colour_changes_labels_alone(task, row, labels):
    coloured = as_text(task, row, colour=True)
    assert re.findall("\x1b\\[36m(.*?)\x1b\\[0m", coloured) == labels
    assert re.sub("\x1b\\[[0-9]+m", "", coloured) == as_text(task, row)


@given(st.lists(st.text(min_size=1, max_size=5), min_size=2, max_size=2))
def test_a_drawing_is_well_formed_whatever_stands_in_a_text(words):
    ElementTree.fromstring(as_svg(TREES, [{"tokens": words, "head": [0, 1], "deprel": ["<root>", words[0]]}]))
    ElementTree.fromstring(as_svg(WORDS, [{"tokens": words, "labels": ["B-<&>", "O"]}]))


def test_sentences_stand_below_each_other():
    svg = ElementTree.fromstring(as_svg(TREES, [SENTENCE, {"tokens": ["<네>"], "head": [0], "deprel": ["root"]}]))
    groups = svg.findall(f"{SVG}g")
    tops = [float(re.findall(r"[\d.]+", group.attrib["transform"])[1]) for group in groups]
    lowest = max(float(text.attrib["y"]) for text in groups[0].iter(f"{SVG}text"))
    assert tops[0] + lowest < tops[1] < float(svg.attrib["height"])
    assert [text.text for text in groups[1].iter(f"{SVG}text")] == ["root", "<네>"]


@pytest.mark.parametrize(
    ("task", "rows"),
    [
        (N21("n21"), []),
        (N2M("n2m"), []),
        (Morphemes("morphemes"), []),
        (WORDS, [{"tokens": ["나는"], "labels": ["NP"]}]),
    ],
)
def test_what_has_no_drawing_is_refused_in_one_line(task, rows):
    with pytest.raises(UsageError, match=r"^there is no drawing [^\n]*; choose the format text$"):
        as_svg(task, rows)
