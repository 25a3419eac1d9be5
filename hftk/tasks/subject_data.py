"""Rows for the restoration of subjects, made out of treebanks that do not have them; [`hftk.tasks.subjects`]."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from hftk.errors import UsageError
from hftk.tasks.rows import PlacedRow, Row

CONTEXT = 3  # sentences before the one with the predicate

NOUNS = {"ncn", "ncpa", "ncps", "nq", "npp", "f"}  # Kaist's tags: common, proper, personal pronouns, foreign
FORMS = {"내": "나", "제": "저", "네": "너"}  # before particles
PRONOUNS = dict.fromkeys(["나", "저", "우리", "우리+들", "저희", "저희+들", "필자"], "1") | dict.fromkeys(
    ["너", "자네", "당신", "그대", "너희", "너희+들", "여러분", "자네+들", "당신+들"], "2"
)

CLAUSES = {"root", "conj", "parataxis", "advcl", "ccomp"}  # relations of verbs that have a subject of their own


def kaist_rows(sentences: Iterable[PlacedRow]) -> tuple[list[Row], Counter[str]]:
    """
    Zero subjects out of UD_Korean-Kaist, which annotates none: a subject that people wrote is taken out of its
    sentence, and an earlier mention is what is to be found.

    Taken out is a noun or personal pronoun with 이/가 (`nsubj`) or with nothing but 은/는 (a topic, `dislocated`) that
    is the only subject or topic of its predicate; with it goes all that depends on it. It is mentioned where an earlier
    word of the sentence, or of the three before it in the document, has the same noun behind the same modifiers, not
    counting demonstratives. Sameness of words stands for sameness of reference, which nobody annotated. A pronoun of
    the first or second person without a mention is a person that is not in the text; no row has such a third person.
    Whoever wrote these subjects did not think that they could be left out: real zeros are easier to guess.

    Args:
        sentences (`Iterable[PlacedRow]`):
            Sentences of [`hftk.tasks.conllu`] in any order, all of each document; `idx` is `<document>-s<number>`.

    Returns:
        A row for each subject that was taken out, as [`hftk.tasks.subjects.Subjects`] reads it, with two more columns:
        `document` and `nearest_subject`, for each predicate the nearest word before it that is a subject, 0 for none.
        Then how many subjects were left as they are, by reason.

    Raises:
        UsageError: an `idx` that does not tell the document.
    """
    documents: dict[str, list[tuple[int, Row]]] = defaultdict(list)
    for where, sentence in sentences:
        match = re.fullmatch(r"(.+)-s([0-9]+)", sentence["idx"])
        if not match:
            raise UsageError(f"{where}: sent_id {sentence['idx']!r} names no document; write <document>-s<number>")
        documents[match[1]].append((int(match[2]), sentence))

    rows: list[Row] = []
    left_out: Counter[str] = Counter()
    for document, numbered in sorted(documents.items()):
        ordered = [sentence for _, sentence in sorted(numbered, key=lambda pair: pair[0])]
        for place, sentence in enumerate(ordered):
            for subject in range(len(sentence["tokens"])):
                if _is_subject(sentence, subject):
                    made = _without_subject(ordered[max(0, place - CONTEXT) : place], sentence, subject)
                    if isinstance(made, str):
                        left_out[made] += 1
                    else:
                        rows.append({"document": document, **made})
    return rows, left_out


def _without_subject(context: list[Row], sentence: Row, subject: int) -> Row | str:
    """The row without this subject, or why there is none. Words count from 0 but in the row."""
    heads, tags = sentence["head"], sentence["xpos"]
    predicate = heads[subject] - 1
    if predicate < subject or not re.search(r"\b(p|xsv|xsm|jp)", tags[predicate]):
        return "does not stand before a predicate"
    if any(head - 1 == predicate and _is_subject(sentence, i) for i, head in enumerate(heads) if i != subject):
        return "beside another subject"
    noun, rest = _noun(sentence, subject)
    if not noun or rest not in (["jcs"], ["jxt"]):
        return "no noun, or more than a particle behind it"
    dropped = [i for i in range(len(heads)) if subject in _ancestors(heads, i)]
    if dropped != list(range(dropped[0], dropped[-1] + 1)):
        return "not in one piece"

    kept = [(row, i) for row in [*context, sentence] for i in range(len(row["tokens"]))]
    kept = [(row, i) for row, i in kept if row is not sentence or i not in dropped]
    before = sum(row is not sentence or i < subject for row, i in kept)
    modifiers = [sentence["tokens"][i] for i in dropped if i < subject and tags[i] != "mmd"]
    mentions = [
        place
        for place, (row, i) in enumerate(kept[:before], start=1)
        if _noun(row, i)[0] == noun and row["tokens"][max(0, i - len(modifiers)) : i] == modifiers
    ][::-1]
    person = PRONOUNS.get(noun, "3")
    if not mentions and person == "3":
        return "not mentioned before"
    target = next(place for place, (row, i) in enumerate(kept, start=1) if row is sentence and i == predicate)
    return {
        "tokens": [row["tokens"][i] for row, i in kept],
        "misc": [row["misc"][i] if "SpaceAfter=No" in row["misc"][i] else "_" for row, i in kept],
        "predicates": [target],
        "subjects": [mentions[0] if mentions else 0],
        "persons": [person],
        "mentions": [mentions],
        "nearest_subject": [
            max((p for p, (row, i) in enumerate(kept[: target - 1], start=1) if _is_subject(row, i)), default=0)
        ],
    }


def _is_subject(sentence: Row, word: int) -> bool:
    """Whether it has the relation of a subject, or is a topic that has no case but that of its 은/는."""
    tags, relation = sentence["xpos"][word].split("+"), sentence["deprel"][word]
    bare_topic = tags[-1] == "jxt" and not any(tag.startswith("jc") for tag in tags)
    return relation == "nsubj" or (
        relation == "dislocated" and bare_topic and sentence["lemmas"][word].endswith(("+은", "+는", "+ㄴ"))
    )


def _noun(sentence: Row, word: int) -> tuple[str, list[str]]:
    """The noun that a word begins with, and the tags of what follows; none if it is the stem of a verb, or a number."""
    parts, tags = sentence["lemmas"][word].split("+"), sentence["xpos"][word].split("+")
    length = 0
    while length < len(tags) and (tags[length] in NOUNS or (length > 0 and tags[length] == "xsn")):
        length += 1
    if length == 0 or len(parts) != len(tags) or not all(tag.startswith("j") for tag in tags[length : length + 1]):
        return "", tags
    noun = "+".join(parts[:length])
    return FORMS.get(noun, noun) if tags[0] == "npp" else noun, tags[length:]


def _ancestors(heads: list[int], word: int) -> Iterator[int]:
    """The word, its head, the head of that, and so on."""
    while word >= 0:
        yield word
        word = heads[word] - 1


def turkish_rows(sentences: Iterable[PlacedRow]) -> tuple[list[Row], Counter[str]]:
    """
    Verbs without a subject out of the Turkish Web Treebank (package `turkish-treebanks`), whose endings tell the
    person: the treebank's feature `PersonNumber`, without the number.

    The subject of a verb that is coordinated with a later one is the later one's, if that stands before both and the
    persons agree: the treebank hangs what they share on the last. Any other is a person that is not in the text, as far
    as the treebank tells: it does not annotate reference, so that a third person may well be there. Its sentences do
    not follow each other, so that a row is one sentence. Pieces of a word (relation `ig`) are joined, as in
    [`hftk.data.packaged.turkish_web_treebank`].

    Args:
        sentences (`Iterable[PlacedRow]`):
            Sentences of [`hftk.tasks.conllu`]; `idx` is `<document>:S<number>`.

    Returns:
        A row for each sentence that has such a verb, with the columns of [`kaist_rows`], and how many verbs were left
        out, by reason.
    """
    rows: list[Row] = []
    left_out: Counter[str] = Counter()
    for _, sentence in sentences:
        words = _joined_words(sentence)
        subjects: dict[int, int] = {}  # by predicate, both counted from 1
        for i, word in enumerate(words, start=1):
            if word["person"]:
                subject = _shared_subject(words, i)
                if isinstance(subject, str):
                    left_out[subject] += 1
                else:
                    subjects[i] = subject
        if subjects:
            relations = [word["deprel"] for word in words]
            rows.append(
                {
                    "document": sentence["idx"].rpartition(":")[0],
                    "tokens": [word["token"] for word in words],
                    "misc": [word["misc"] for word in words],
                    "predicates": list(subjects),
                    "subjects": list(subjects.values()),
                    "persons": [words[i - 1]["person"] for i in subjects],
                    "mentions": [[subject] if subject else [] for subject in subjects.values()],
                    "nearest_subject": [
                        max((j for j in range(1, i) if relations[j - 1] == "nsubj"), default=0) for i in subjects
                    ],
                }
            )
    return rows, left_out


def _joined_words(sentence: Row) -> list[Row]:
    """The words of a sentence, each with its `token`, `misc`, `head` (from 1), `deprel` and, for a verb, `person`."""
    words: list[Row] = []
    owners = []  # the word of each piece, from 1
    token = ""
    for i, relation in enumerate(sentence["deprel"]):
        owners.append(len(words) + 1)
        token += sentence["tokens"][i]
        if relation != "ig":  # the last piece, whose relation is the word's
            person = re.search(r"\bPersonNumber=V([123])", sentence["feats"][i])
            verb = person is not None and sentence["upos"][i] == "VERB"
            words.append(
                {
                    "token": token,
                    "misc": sentence["misc"][i],
                    "head": sentence["head"][i],
                    "deprel": relation,
                    "person": person[1] if person and verb else "",
                }
            )
            token = ""
    for word in words:
        word["head"] = owners[word["head"] - 1] if word["head"] else 0
    return words


def _shared_subject(words: list[Row], verb: int) -> int | str:
    """The subject of a verb that has none of its own, from 1; 0 for a person not in the text; or why it is no row."""

    def dependents(head: int, relations: set[str]) -> list[int]:
        return [i for i, word in enumerate(words, start=1) if word["head"] == head and word["deprel"] in relations]

    word = words[verb - 1]
    if word["deprel"] not in CLAUSES:
        return "part of another word's clause"
    if dependents(verb, {"nsubj", "csubj"}):
        return "has a subject"
    if any(words[i - 1]["person"] for i in dependents(verb, {"aux"})):
        return "its auxiliary has a person too"
    if word["deprel"] != "conj" or not words[word["head"] - 1]["person"]:
        return 0
    if words[word["head"] - 1]["person"] != word["person"]:
        return "coordinated with another person"  # often the last verb's ending is meant for both
    shared = [i for i in dependents(word["head"], {"nsubj"}) if i < min(verb, word["head"])]
    return shared[-1] if shared else 0
