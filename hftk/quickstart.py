"""
`hftk quickstart --output DIR`: the whole story on real text, in minutes on two CPU cores, without a network.

Raw text and an easy task make a pretrained model; a few labelled rows turn it into a model for each shape of task. What
would the same rows have come to without pretraining, and what without a model?
"""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from hftk.data.packaged import dialogues, korean_messages, turkish_web_treebank
from hftk.finetune import finetune
from hftk.finetune_recipe import load_finetune_recipe
from hftk.pretrain import pretrain
from hftk.recipe import PretrainRecipe, load_recipe
from hftk.report.folder import write_metrics
from hftk.tasks.n2m import N2M
from hftk.tasks.n2n import N2N
from hftk.tasks.n2path import N2Path
from hftk.tasks.n21 import N21
from hftk.tasks.rows import Row, write_rows

PRETRAINING_MINUTES = 2.0
TEST_SENTENCES, TEST_MESSAGES, TEST_TURNS = 485, 200, 200
TAGGED_SENTENCES, PARSED_SENTENCES, LABELLED_TURNS = 300, 500, 300  # with labels to learn from
FREQUENT = 40  # conversations of a topic that is to be told

RELOAD = """
import sys, hftk
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1])
print(f"{type(model).__name__} with {model.num_parameters():,} parameters")
"""

# What each shape of task is shown on, its score, and what guessing without a model means there.
SHAPES = {
    "n21": ("topic of a question, accuracy", "accuracy", "the most frequent topic"),
    "n2n": ("part of speech of a word, accuracy", "accuracy", "each word's most frequent tag"),
    "n2path": ("dependency tree, LAS", "las", "each word hangs on the next one"),
    "n2m": ("English message in Korean, chrF++", "chrf", "leave it in English"),
}

# Chosen on other sentences than those that are tested.
NOT_BY_HEART = {"data": {"word_dropout": 0.2}, "config_overrides": {"dropout": 0.2}}  # the few rows there are
FINETUNING: dict[str, dict[str, dict[str, Any]]] = {
    "n21": {"training": {"num_train_epochs": 20, "per_device_train_batch_size": 16}},
    "n2n": {
        "task": {"label_token": "last"},  # the end of a Turkish word tells most of its part of speech
        "training": {"num_train_epochs": 20, "per_device_train_batch_size": 16},
        **NOT_BY_HEART,
    },
    "n2path": {"training": {"num_train_epochs": 20, "per_device_train_batch_size": 16}, **NOT_BY_HEART},
    "n2m": {
        "task": {"num_beams": 1, "max_target_length": 64},
        "training": {"num_train_epochs": 15, "per_device_train_batch_size": 32, "learning_rate": 2e-3},
    },
}


def quickstart(output: str) -> dict[str, float]:
    """
    Pretrains on text in three languages, then fine-tunes a model for each shape of task, once from the pretrained
    weights and once from random ones, and prints what they score on rows that they never saw.

    Args:
        output (`str`):
            Folder for text, recipes, models and logs.

    Returns:
        `dict[str, float]`: the scores, as `metrics.json` in the folder holds them.

    Raises:
        UsageError: a package that brings text is not installed.
    """
    start = time.perf_counter()
    os.environ["HF_HUB_OFFLINE"] = "1"
    folder = Path(output)
    rows = write_data(folder / "data")
    recipes = write_recipes(folder)
    print(
        f"Turkish sentences, English and Korean messages and dialogues, as raw text and as labelled rows: {folder}/data"
    )

    print(f"{PRETRAINING_MINUTES:.0f} minutes of filling gaps in the raw text: hftk pretrain {recipes['pretrain']}")
    with log_of(folder, "pretrain"):
        pretrain(load_recipe(recipes["pretrain"], [], PretrainRecipe))
    print(f"A fresh process loads it: AutoModel.from_pretrained('{folder}/pretrained')")
    loading = [sys.executable, "-c", RELOAD, f"{folder}/pretrained"]
    print("  " + subprocess.run(loading, check=True, capture_output=True, text=True).stdout.strip())

    metrics: dict[str, float] = {}
    for shape, (described, score, _) in SHAPES.items():
        print(f"{described.rpartition(',')[0]}, with and without pretraining: hftk finetune {recipes[shape]}")
        for start_from, overrides in (
            ("pretrained", []),
            ("scratch", ["--from_scratch", "true", "--output", f"{folder}/{shape}_from_scratch"]),
        ):
            with log_of(folder, f"{shape}_{start_from}"):
                scores = finetune(load_finetune_recipe(recipes[shape], overrides))
            metrics[f"{shape}_{start_from}"] = scores[f"test_{score}"]
        metrics[f"{shape}_guess"] = GUESSES[shape](rows[shape], rows[f"{shape}_test"])
    metrics["minutes"] = (time.perf_counter() - start) / 60
    write_metrics(metrics, folder / "metrics.json")
    print(table(metrics, folder))
    return metrics


def table(metrics: dict[str, float], folder: Path) -> str:
    """The scores of all shapes, in percent, and how long it took."""
    lines = ["", f"{'On rows that were never seen, in %:':38}pretrained  from scratch  guess"]
    for shape, (described, score, guess) in SHAPES.items():
        scale = 1 if score == "chrf" else 100
        scores = [scale * metrics[f"{shape}_{kind}"] for kind in ("pretrained", "scratch", "guess")]
        lines.append(f"{described:38}{scores[0]:10.1f}{scores[1]:14.1f}{scores[2]:7.1f}  ({guess})")
    lines += ["", f"{metrics['minutes']:.1f} minutes. Change a recipe in {folder}/recipes and run its command again:"]
    lines.append(f'  echo \'{{"text": "who wrote hamlet?"}}\' | hftk predict {folder}/n21')
    return "\n".join(lines)


def write_data(folder: Path) -> dict[str, list[Row]]:
    """
    Writes raw text and, for each shape, rows to learn from and to test on. No text to test on is among the others, even
    with other spaces, signs or capitals.

    Returns:
        `dict[str, list[Row]]`: by shape the rows to learn from, and as `<shape>_test` those to test on.
    """
    sentences = mixed(turkish_web_treebank(), lambda sentence: sentence.text)
    trees = [
        {"tokens": s.words, "labels": s.tags, "head": s.heads, "deprel": s.relations}
        for s in sentences[:TEST_SENTENCES] + sentences[-PARSED_SENTENCES:]
    ]
    messages = mixed(korean_messages(), lambda pair: pair[0])
    pairs = [{"source": english, "target": korean} for english, korean in messages]
    conversations = mixed(dialogues("english"), lambda conversation: conversation[1][0])
    counts = Counter(topic for topic, _ in conversations)
    topics = [
        {"text": turns[0], "label": topic, "turns": turns}
        for topic, turns in conversations
        if counts[topic] >= FREQUENT
    ]

    raw = [sentence.text for sentence in sentences[TEST_SENTENCES:]]
    raw += [text for pair in pairs[TEST_MESSAGES:] for text in pair.values()]
    raw += [turn for row in topics[TEST_TURNS:] for turn in row.pop("turns")]
    raw += [turn for _, turns in dialogues("korean") for turn in turns]
    tested = {letters(text) for text in [s.text for s in sentences[:TEST_SENTENCES]]}
    tested |= {letters(text) for pair in pairs[:TEST_MESSAGES] for text in pair.values()}
    tested |= {letters(turn) for row in topics[:TEST_TURNS] for turn in row.pop("turns")}
    folder.mkdir(parents=True, exist_ok=True)
    lines = [" ".join(text.split()) for text in raw if letters(text) not in tested]
    (folder / "raw.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    rows = {
        "n21": topics[-LABELLED_TURNS:],
        "n21_test": topics[:TEST_TURNS],
        "n2n": trees[-TAGGED_SENTENCES:],
        "n2n_test": trees[:TEST_SENTENCES],
        "n2path": trees[TEST_SENTENCES:],
        "n2path_test": trees[:TEST_SENTENCES],
        "n2m": pairs[TEST_MESSAGES:],
        "n2m_test": pairs[:TEST_MESSAGES],
    }
    for name, part in rows.items():
        write_rows(part, folder / f"{name}.jsonl")
    return rows


def mixed(items: list[Any], text: Callable[[Any], str]) -> list[Any]:
    """Items in an order that hashes give, the same every time; of those with the same letters the last."""
    by_letters = {letters(text(item)): item for item in items}
    return [by_letters[key] for key in sorted(by_letters, key=lambda key: sha256(key.encode()).digest())]


def letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.lower()))


def write_recipes(folder: Path) -> dict[str, str]:
    """Writes the recipe of each run; returns their files by name."""
    folder = folder.resolve()  # so that they run from anywhere
    quiet = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 20}
    contents: dict[str, dict[str, Any]] = {
        "pretrain": {
            "output": f"{folder}/pretrained",
            "model": {
                "d_model": 128,
                "encoder_layers": 3,
                "decoder_layers": 3,
                "encoder_attention_heads": 4,
                "decoder_attention_heads": 4,
                "encoder_ffn_dim": 384,
                "decoder_ffn_dim": 384,
            },
            "tokenizer": {"vocab_size": 4096},
            "data": {
                "train_files": [f"{folder}/data/raw.txt"],
                "validation_share": 0.05,
                "max_source_length": 128,
                "max_target_length": 64,
            },
            "objective": {"name": "mixture", "weights": {"masked_lm": 1.0, "span_corruption": 1.0}},
            "budget": {"minutes": PRETRAINING_MINUTES},
            "muon": True,
            "training": {
                "per_device_train_batch_size": 8,
                "learning_rate": 3e-3,
                "lr_scheduler_type": "cosine",
                "warmup_steps": 0.05,
                "weight_decay": 0.05,
                **quiet,
            },
        }
    }
    for shape, sections in FINETUNING.items():
        contents[shape] = {
            "output": f"{folder}/{shape}",
            "model": f"{folder}/pretrained",
            "task": {"name": shape},
            "transfer": {"retention_rows": 32},  # a few, for a few seconds
            "data": {
                "train_files": [f"{folder}/data/{shape}.jsonl"],
                "test_files": [f"{folder}/data/{shape}_test.jsonl"],
                "validation_share": 0.0,
            },
            "training": {"learning_rate": 1e-3, "warmup_steps": 0.1, "weight_decay": 0.01, **quiet},
        }
        for section, keys in sections.items():
            contents[shape][section] = contents[shape].get(section, {}) | keys
    (folder / "recipes").mkdir(parents=True, exist_ok=True)
    for name, recipe in contents.items():
        (folder / "recipes" / f"{name}.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return {name: f"{folder}/recipes/{name}.yaml" for name in contents}


@contextmanager
def log_of(folder: Path, name: str) -> Iterator[None]:
    """What is printed within goes to a file in the folder's `logs`."""
    path = folder / "logs" / f"{name}.txt"
    path.parent.mkdir(exist_ok=True)
    with open(path, "w", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        yield


def most_frequent_topic(train: list[Row], test: list[Row]) -> float:
    [(topic, _)] = Counter(row["label"] for row in train).most_common(1)
    return N21("n21").score([topic] * len(test), test)["accuracy"]


def most_frequent_tag(train: list[Row], test: list[Row]) -> float:
    """Unknown words get the most frequent tag of all."""
    pairs = [pair for row in train for pair in zip(row["tokens"], row["labels"], strict=True)]
    [(most_frequent, _)] = Counter(tag for _, tag in pairs).most_common(1)
    by_word = {word: tag for (word, tag), _ in reversed(Counter(pairs).most_common())}  # the most frequent comes last
    return N2N("n2n").score([[by_word.get(word, most_frequent) for word in row["tokens"]] for row in test], test)[
        "accuracy"
    ]


def next_word(train: list[Row], test: list[Row]) -> float:
    """The last word is the root; the relation is the most frequent one."""
    [(relation, _)] = Counter(relation for row in train for relation in row["deprel"]).most_common(1)
    trees = [
        {"head": [*range(2, len(row["tokens"]) + 1), 0], "deprel": [relation] * len(row["tokens"])} for row in test
    ]
    return N2Path("n2path").score(trees, test)["las"]


def left_in_english(train: list[Row], test: list[Row]) -> float:
    return N2M("n2m").score([[row["source"]] for row in test], test)["chrf"]


GUESSES = {"n21": most_frequent_topic, "n2n": most_frequent_tag, "n2path": next_word, "n2m": left_in_english}
