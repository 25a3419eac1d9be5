"""Predictions to look at: a row as text for a terminal, rows as a drawing."""

import json
import re
from html import escape
from unicodedata import category, east_asian_width, normalize

from hftk.errors import UsageError
from hftk.tasks.alignment import running_text, spans_and_gaps
from hftk.tasks.morphemes import Morphemes
from hftk.tasks.n2m import N2M
from hftk.tasks.n2n import N2N
from hftk.tasks.n21 import N21
from hftk.tasks.rows import Row
from hftk.tasks.task import Task

LABEL, PLAIN = "\x1b[36m", "\x1b[0m"  # cyan, and what the terminal had
REPLACEMENT = "\ufffd"
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# sizes of a drawing in pixels
FONT, SMALL = 16, 11  # of words, of labels
LINE = 26  # from one height of arcs to the next
GAP = 14  # between words
TURN = 6  # of an arc's corners
MARGIN = 12
COLOURS = ["#bfe1d9", "#fdd9a0", "#d8cdf0", "#f9c3c3", "#c3dcf9", "#e2e6a8", "#f3cbe6", "#d9d9d9"]

Drawing = tuple[list[str], float, float]  # elements, width and height


def as_text(task: Task, row: Row, colour: bool = False, read: Row | None = None) -> str:
    """
    A predicted row for a terminal: a text with an arrow to its label, words with their labels, a text with its entities
    in brackets, a tree with a word on each line and an empty line at the end, or a text with an arrow to its target. Of
    any other task it is the row as JSON.

    Args:
        task ([`Task`]):
            The task that the row is of.
        row (`Row`):
            What [`hftk.predict.predict_rows`] gives.
        colour (`bool`, defaults to `False`):
            Whether labels are coloured, for a terminal that has colours.
        read (`Row`, *optional*):
            The row before its prediction. A model that translates both ways predicts a row's sources too, and only here
            they still are. By default `row`.
    """

    def paint(label: str) -> str:
        return f"{LABEL}{label}{PLAIN}" if colour else label

    if task.trees:
        longest = max(map(width, row["deprel"]))
        return "".join(
            f"{line} {paint(relation)}{' ' * (longest - width(relation))} {word}\n"
            for line, relation, word in zip(tree_lines(row["head"]), row["deprel"], row["tokens"], strict=True)
        )
    if isinstance(task, Morphemes):
        return " ".join(f"{word}/{paint(tags)}" for word, tags in zip(row["tokens"], row["xpos"], strict=True))
    if isinstance(task, N2N):
        units, labels = row[task.tokens_column], row[task.labels_column]
        if task.unit == "span":
            *pieces, rest = spans_and_gaps(units, row[task.spans_column])
            labelled = zip(pieces[::2], pieces[1::2], labels, strict=True)
            spans = [
                f"{gap}{span[: -len(span.lstrip())]}[{span.lstrip()} {paint(label)}]" for gap, span, label in labelled
            ]
            return "".join([*spans, rest])
        if task.entities(labels) or set(labels) == {"O"}:
            parts = text_with_entities(task, row)
            return "".join(f"[{part} {paint(label)}]" if label else part for part, label in parts)
        # for a space nothing, so that two of them stand between words
        return " ".join(
            "" if unit.isspace() else f"{unit}/{paint(label)}" for unit, label in zip(units, labels, strict=True)
        )
    if isinstance(task, N2M):
        sources = row if read is None else read
        return "\n".join(
            f"{sources[direction['source']]}\n→ {row[direction['target']]}"
            for direction in task.directions
            if direction["source"] in sources
        )
    if not isinstance(task, N21):
        return json.dumps(row, ensure_ascii=False)
    label = row[task.label_column]
    if isinstance(label, float):
        label = f"{label:.4g}"
    elif isinstance(label, list):
        label = ", ".join(label) or "none"
    texts = [row[name] for name in (task.text_column, task.second_text_column) if name]
    return f"{' | '.join(texts)} → {paint(label)}"


def as_svg(task: Task, rows: list[Row]) -> str:
    """
    Predicted rows, below each other, as one SVG: trees as arcs above the words, each with an arrow at the dependent, or
    texts with coloured entities.

    Args:
        task ([`N2Path`], or [`N2N`] if the labels are entities):
            The task that the rows are of.
        rows (`list[Row]`):
            What [`hftk.predict.predict_rows`] gives.

    Raises:
        UsageError: there is no drawing for rows of this kind.
    """
    has_labels = isinstance(task, N2N) and not isinstance(task, Morphemes)
    labels = sorted({label for row in rows for label in task.labels(row)} - {"O"}) if has_labels else []
    if task.trees:
        drawings = [_draw_tree(row) for row in rows]
    elif isinstance(task, N2N) and has_labels and (not labels or task.entities(labels)):
        kinds = sorted({label[2:] for label in labels})
        colours = {kind: COLOURS[i % len(COLOURS)] for i, kind in enumerate(kinds)}
        drawings = [_draw_entities(task, row, colours) for row in rows]
    else:
        raise UsageError(
            f"there is no drawing for these predictions of {task.name}, only for trees (n2path) and for entities "
            "(n2n with labels O, B-… and I-…); choose the format text"
        )
    elements, y = [], float(MARGIN)
    for drawn, _, height in drawings:
        elements += [f'<g transform="translate({MARGIN} {y:.0f})">', *drawn, "</g>"]
        y += height + 2 * MARGIN
    whole = 2 * MARGIN + max((width for _, width, _ in drawings), default=0)
    size = f'width="{whole:.0f}" height="{y:.0f}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="{FONT}">',
            f'<rect {size} fill="white"/>',
            *elements,
            "</svg>\n",
        ]
    )


def width(text: str) -> int:
    """How many columns of a terminal a text takes: Hangul and Chinese characters take two, accents none."""
    return sum(
        0 if category(character) in ("Mn", "Me", "Cf") else 2 if east_asian_width(character) in "WF" else 1
        for character in normalize("NFC", text)
    )


def tree_lines(heads: list[int]) -> list[str]:
    """
    A tree in box characters, lying on its side: a line for each word, in the order of the sentence. From a word a line
    leads left to the column of its head (`╭`, `├`, `╰`), and along it to the head (`┬`, `┼`, `┴`). A `│` in a line
    passes over it, which only non-projective trees need.

    Args:
        heads (`list[int]`):
            The head of each word, counted from 1; 0 for the root. They must make a tree.

    Returns:
        `list[str]` of length words, all equally wide.
    """
    dependents: list[list[int]] = [[] for _ in range(len(heads) + 1)]  # of the root's 0, too
    for word, head in enumerate(heads, start=1):
        dependents[head].append(word)
    order = list(dependents[0])  # heads before their dependents
    for word in order:
        order += dependents[word]

    spans = {word: (min(word, *dependents[word]), max(word, *dependents[word])) for word in order if dependents[word]}
    columns = {0: -1}
    for word, (first, last) in spans.items():
        taken = {
            columns[other]
            for other in spans
            if other in columns and spans[other][0] <= last and first <= spans[other][1]
        }
        column = columns[heads[word - 1]] + 1
        while column in taken:
            column += 1
        columns[word] = column

    lines = []
    for word, head in enumerate(heads, start=1):
        line = ""
        for column in range(max(columns.values()) + 1):
            passing = "─" if column > columns[head] else " "
            line += passing
            for owner, (first, last) in spans.items():
                if columns[owner] == column and first <= word <= last:
                    corners = {word: "┬┼┴", head: "╭├╰"}.get(owner, "│││")
                    line += corners[(word > first) + (word == last)]
                    break
            else:
                line += passing
        lines.append(line + "─")
    return lines


def text_with_entities(task: N2N, row: Row) -> list[tuple[str, str]]:
    """The parts of a row's text, in order: each an entity and its label, or what is between entities and `""`."""
    units = row[task.tokens_column]
    spaced = running_text(units, row.get("misc")) if task.unit == "word" else units
    parts: list[tuple[str, str]] = []
    before = "O"
    for unit, piece, label in zip(units, spaced, row[task.labels_column], strict=True):
        space = piece[: len(piece) - len(unit)]
        if parts and (label == before == "O" or (label[0] == "I" and label[1:] == before[1:])):
            parts[-1] = (parts[-1][0] + piece, label[2:])
        else:
            parts += [(space, "")] * bool(space) + [(unit, label[2:])]
        before = label
    return parts


def _draw_tree(row: Row) -> Drawing:
    words, heads, relations = row["tokens"], row["head"], row["deprel"]
    heights = _arc_heights(heads)
    widths = [_pixels(word, FONT) for word in words]
    centres: list[float] = []  # so far apart that words, and the labels on arcs, have room
    for word, wide in enumerate(widths, start=1):
        least = [centres[-1] + (widths[word - 2] + wide) / 2 + GAP if centres else wide / 2 + GAP]
        for other, centre in enumerate(centres, start=1):
            if other == heads[word - 1]:
                least.append(centre + _pixels(relations[word - 1], SMALL) + 4 * TURN)
            elif word == heads[other - 1]:
                least.append(centre + _pixels(relations[other - 1], SMALL) + 4 * TURN)
        centres.append(max(least))

    base = LINE * (max(heights.values(), default=0) + 1) + SMALL
    lines, labels = [], []
    for word, (head, relation, end) in enumerate(zip(heads, relations, centres, strict=True), start=1):
        if head:
            top = base - LINE * heights[word]
            turn = TURN if word > head else -TURN
            start = centres[head - 1] + turn  # beside the arrow that ends there
            path = (
                f"M{start:.1f} {base}V{top + TURN}Q{start:.1f} {top} {start + turn:.1f} {top}"
                f"H{end - turn:.1f}Q{end:.1f} {top} {end:.1f} {top + TURN}V{base - TURN}"
            )
            middle = (start + end) / 2
        else:
            path, middle, top = f"M{end:.1f} {SMALL}V{base - TURN}", end, SMALL
        lines += [
            f'<path d="{path}" fill="none" stroke="#666"/>',
            f'<path d="M{end - 4:.1f} {base - 7}h8l-4 7z" fill="#666"/>',
        ]
        wide = _pixels(relation, SMALL) + 4
        labels += [
            f'<rect x="{middle - wide / 2:.1f}" y="{top - 6}" width="{wide:.1f}" height="12" fill="white"/>',
            _text(relation, middle, top + 4, f'text-anchor="middle" font-size="{SMALL}" fill="#06c"'),
        ]
    texts = [_text(word, x, base + FONT + 2, 'text-anchor="middle"') for word, x in zip(words, centres, strict=True)]
    return lines + labels + texts, centres[-1] + widths[-1] / 2 + GAP, base + FONT * 1.5


def _arc_heights(heads: list[int]) -> dict[int, int]:
    """How high above its words the arc to each dependent is: above all shorter ones that it shares a place with."""
    heights: dict[int, int] = {}
    spans = {word: (min(word, head), max(word, head)) for word, head in enumerate(heads, start=1) if head}
    for word in sorted(spans, key=lambda word: spans[word][1] - spans[word][0]):
        first, last = spans[word]
        heights[word] = 1 + max((heights[o] for o in heights if spans[o][0] < last and first < spans[o][1]), default=0)
    return heights


def _draw_entities(task: N2N, row: Row, colours: dict[str, str]) -> Drawing:
    elements = []
    x = 0.0
    for part, label in text_with_entities(task, row):
        wide = _pixels(part, FONT)
        start = x
        if label:
            start += 5
            box = wide + _pixels(label, SMALL) + 16
            elements += [
                f'<rect x="{x + 1:.1f}" width="{box - 2:.1f}" height="{FONT + 8}" rx="4" fill="{colours[label]}"/>',
                _text(label, start + wide + 5, FONT, f'font-size="{SMALL}" textLength="{_pixels(label, SMALL):.1f}"'),
            ]
        # its length is given, since fonts differ from what was estimated
        elements.append(_text(part, start, FONT + 1, f'textLength="{wide:.1f}" xml:space="preserve"'))
        x += box if label else wide
    return elements, x, FONT + 8


def _pixels(text: str, font: int) -> float:
    """About how wide a text is in letters of so many pixels."""
    return font * sum(
        (0, 0.7 if character.isupper() else 0.55, 0.95)[width(character)] for character in normalize("NFC", text)
    )


def _text(text: str, x: float, y: float, how: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" {how}>{escape(NOT_XML.sub(REPLACEMENT, text))}</text>'
