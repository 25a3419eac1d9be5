"""What many tasks prepare is what one pass over the text would prepare, without near-duplicates if so asked."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import cached_assets_path

from hftk.data.corpus import open_corpus, token_counts
from hftk.data.preparation import prepare_corpus
from hftk.data.tokenizer import load_tokenizer
from hftk.errors import UsageError
from hftk.prepare import prepare
from hftk.pretrain import make_tokenizer, pretrain
from hftk.recipe import PretrainRecipe, load_recipe

pytest.importorskip("datatrove")
from datatrove.utils.lid import FT176LID  # noqa: E402

WORDS = "the bird saw many boats under a grey sky while old men sang of rivers and of rain in May".split()


def sentences(count, seed=0):
    order = random.Random(seed)
    return [" ".join(order.choices(WORDS, k=order.randint(2, 40))) for _ in range(count)]


@pytest.fixture
def recipe(tmp_path):
    """Two files, with copies within and across them, empty and broken lines, and one of validation."""
    texts = sentences(400)
    for name, part in (("a", texts[:250] + texts[:20] + [" "]), ("b", texts[200:] + ["\ufffd broken"])):
        (tmp_path / f"{name}.txt").write_text("\n".join(part) + "\n", encoding="utf-8")
    (tmp_path / "validation.txt").write_text("\n".join(texts[30:40] + sentences(20, seed=1)) + "\n", encoding="utf-8")
    (tmp_path / "pretrain.yaml").write_text(
        f"""
output: {tmp_path}/run
model: {{d_model: 32, encoder_layers: 1, decoder_layers: 1, encoder_attention_heads: 2, decoder_attention_heads: 2,
  encoder_ffn_dim: 48, decoder_ffn_dim: 48}}
tokenizer: {{vocab_size: 400}}
data: {{train_files: [{tmp_path}/a.txt, {tmp_path}/b.txt], validation_share: 0.1, max_source_length: 64,
  max_target_length: 64}}
training: {{max_steps: 2, per_device_train_batch_size: 2, use_cpu: true, disable_tqdm: true}}
"""
    )

    def load(*overrides):
        return load_recipe(tmp_path / "pretrain.yaml", overrides, PretrainRecipe)

    return load


def prepared(*args, **options):
    """The corpus, where one call prepares it."""
    corpus = prepare(*args, **options)
    assert corpus is not None
    return corpus


def texts_of(recipe, corpus):
    tokenizer = load_tokenizer(f"{recipe.output}/tokenizer")
    return {
        split: sorted(tokenizer.decode(documents[index]) for index in range(len(documents)))
        for split, documents in (("train", corpus.train), ("validation", corpus.validation))
    }


@pytest.mark.parametrize("validation", [False, True], ids=["share", "files"])
@pytest.mark.parametrize("tasks", [1, 2, 3])
def test_tasks_prepare_what_one_pass_prepares(recipe, tmp_path, tasks, validation):
    loaded = recipe(*(["--data.validation_files", f"[{tmp_path}/validation.txt]"] if validation else []))
    corpus = prepared(loaded, tasks=tasks, workers=1)
    whole = prepare_corpus(loaded.data, load_tokenizer(f"{loaded.output}/tokenizer"), tmp_path / "whole")
    assert texts_of(loaded, corpus) == texts_of(loaded, whole)
    assert len(corpus.manifest["shards"]) == tasks
    for part in ("train", "validation"):
        counts = dict(corpus.manifest[part])
        assert counts == whole.manifest[part]
    # copies of a validation text are counted as one or as the other
    reasons = Counter(corpus.manifest["dropped"]), Counter(whole.manifest["dropped"])
    copies = [found.pop("duplicate") + found.pop("in_validation", 0) for found in reasons]
    assert copies[0] == copies[1] and reasons[0] == reasons[1]
    assert prepared(loaded).folder == corpus.folder


def shares(text):
    words = text.split()
    return {tuple(words[first : first + 5]) for first in range(len(words) - 4)}


def likeness(one, other):
    return len(shares(one) & shares(other)) / len(shares(one) | shares(other))


def test_one_of_texts_that_are_much_alike_is_kept(recipe, tmp_path):
    order = random.Random(3)
    texts = [" ".join(order.choices(WORDS, k=60)) for _ in range(60)]
    changed = [" ".join([*text.split()[:-1], "Boats!"]) for text in texts[:30]]
    short = ["3 boats", "4 boats", "Boats, 4"]
    (tmp_path / "a.txt").write_text("\n".join(texts + short) + "\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("\n".join(changed) + "\n", encoding="utf-8")
    loaded = recipe("--data.near_duplicates", "true")
    kept = texts_of(loaded, prepared(loaded, tasks=2, workers=2))
    kept = {text for part in kept.values() for text in part}
    assert kept >= {*texts[30:], *short}
    assert all((one in kept) != (other in kept) for one, other in zip(texts[:30], changed, strict=True))
    assert all(likeness(*pair) > 0.9 for pair in zip(texts[:30], changed, strict=True))


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.suffix in (".tokens", ".starts")}


def test_a_preparation_that_is_killed_goes_on_with_the_tasks_that_are_not_done(recipe, tmp_path):
    command = [sys.executable, "-m", "hftk", "prepare", str(tmp_path / "pretrain.yaml"), "--tasks", "30"]
    process = subprocess.Popen([*command, "--workers", "1"], stdout=subprocess.DEVNULL, start_new_session=True)
    while not (done := [*tmp_path.glob("run/data/*/logs/shards/completions/*")]):
        assert process.poll() is None
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (unfinished,) = tmp_path.glob("run/data/*.30-tasks")
    shards = [unfinished / "shards" / mark.name / "train.tokens" for mark in done]
    written = [shard.stat().st_mtime_ns for shard in shards]
    assert 0 < len(done) < 30

    corpus = prepared(recipe(), tasks=30, workers=1)
    assert [(corpus.folder / shard.relative_to(unfinished)).stat().st_mtime_ns for shard in shards] == written
    whole = prepared(recipe("--data.cache_dir", str(tmp_path / "whole")), tasks=30, workers=2)
    assert contents(corpus.folder) == contents(whole.folder)
    assert corpus.manifest == whole.manifest


def test_what_a_task_cannot_read_is_said_in_one_line(recipe, tmp_path, capfd):
    loaded = recipe()
    make_tokenizer(loaded)
    (tmp_path / "b.txt").write_bytes(b"\x00")
    with pytest.raises(UsageError, match="b.txt: this is a binary file"):
        prepare(loaded, tasks=3, workers=2, stage="signatures", rank=1)
    assert capfd.readouterr().err == ""


def run(tmp_path, *options):
    """`hftk prepare`, where huggingface_hub has its assets in a folder of the test."""
    command = [sys.executable, "-m", "hftk", "prepare", str(tmp_path / "pretrain.yaml"), *options]
    environment = os.environ | {"HF_ASSETS_CACHE": str(tmp_path / "assets")}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_languages_are_told_apart(recipe, tmp_path):
    """A model of fastText that knows two, where the one of 176 would lie after its download."""
    fasttext = pytest.importorskip("fasttext")
    korean = (Path(__file__).parent / "korean.txt").read_text(encoding="utf-8").splitlines()
    lines = [f"__label__en {text}" for text in sentences(300)] + [f"__label__ko {text}" for text in korean]
    (tmp_path / "labels").write_text("\n".join(lines) + "\n", encoding="utf-8")
    model = fasttext.train_supervised(str(tmp_path / "labels"), minn=1, maxn=3, epoch=20, verbose=0, thread=1)
    folder = cached_assets_path("datatrove", "lid", "ft176", assets_dir=tmp_path / "assets")
    file = folder / FT176LID.MODEL_URL.replace("/", "_")
    model.save_model(str(file))
    Path(f"{file}.completed").touch()
    (tmp_path / "b.txt").write_text("\n".join(korean[-100:]) + "\n", encoding="utf-8")

    done = run(tmp_path, "--tasks", "2", "--data.languages", "[ko]")
    assert done.returncode == 0, done.stderr
    (manifest,) = tmp_path.glob("run/data/*/manifest.json")
    corpus = open_corpus(manifest.parent)
    tokens = corpus.train.tokens[:]  # of both shards
    assert token_counts(corpus, 1 << 16).tolist() == np.bincount(tokens, minlength=1 << 16).tolist()
    kept = texts_of(recipe(), corpus)
    assert {*kept["train"], *kept["validation"]} == set(korean[-100:])
    assert corpus.manifest["dropped"]["language"] == 270

    wrong = run(tmp_path, "--data.languages", "[ko, kr]")
    assert (wrong.returncode, wrong.stderr) == (2, "hftk: data.languages: kr: fastText's model knows en, ko\n")


def test_languages_without_a_model_are_refused(recipe, tmp_path):
    recipe()
    done = run(tmp_path, "--data.languages", "[ko]")
    assert done.returncode == 2 and "lid.176.bin cannot be fetched" in done.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ray", "slurm"])
def test_every_engine_prepares_the_same(recipe, tmp_path, engine):
    whole = prepared(recipe("--data.cache_dir", str(tmp_path / "whole")), tasks=2, workers=2)
    corpus = prepare(recipe(), engine, tasks=2, workers=2)
    if corpus is None:
        assert engine == "slurm"
        (scripts,) = tmp_path.glob("run/data/*/slurm")
        corpus = run_as_slurm(scripts)
    assert contents(corpus.folder) == contents(whole.folder)
    assert corpus.manifest == whole.manifest


def run_as_slurm(scripts):
    """Runs what submit.sh submits, one task after another."""
    submitted = re.findall(r"sbatch .*?(\S+\.sbatch)\)", (scripts / "submit.sh").read_text())
    assert len(submitted) == 5
    for script in map(Path, submitted):
        subprocess.run(["bash", "-n", script], check=True)
        (last,) = re.findall(r"#SBATCH --array=0-(\d+)%2$", script.read_text(), re.MULTILINE)
        for rank in range(int(last) + 1):
            subprocess.run(["bash", script], env=os.environ | {"SLURM_ARRAY_TASK_ID": str(rank)}, check=True)
    (manifest,) = scripts.parents[1].glob("*/manifest.json")
    return open_corpus(manifest.parent)


def test_a_recipe_that_must_be_prepared_says_so_and_then_trains(recipe, tmp_path):
    loaded = recipe("--data.near_duplicates", "true")
    with pytest.raises(UsageError, match="run hftk prepare with this recipe first"):
        pretrain(loaded)
    corpus = prepared(recipe("--data.near_duplicates", "true"), tasks=3, workers=2)
    assert pretrain(recipe("--data.near_duplicates", "true"))["steps"] == 2
    assert corpus.folder.parent == tmp_path / "run" / "data"
