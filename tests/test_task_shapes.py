"""Each shape of task, on our model and on others that transformers knows, from rows to predictions."""

import json
import random

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    AutoModelForTokenClassification,
    BartConfig,
    BertConfig,
    PreTrainedTokenizerFast,
    T5Config,
    pipeline,
)

from hftk import HftkConfig
from hftk.cli import main
from hftk.errors import UsageError
from hftk.evaluate import evaluate
from hftk.finetune import finetune
from hftk.finetune_recipe import load_finetune_recipe
from hftk.predict import predict
from hftk.tasks.conllu import read_sentences
from hftk.tasks.rows import write_rows

SIZES = {
    "vocab_size": 300,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "dropout": 0.0,
}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
CONFIGS = {
    "hftk": lambda: HftkConfig(**SIZES, **IDS, init_std=0.1),
    "bert": lambda: BertConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        hidden_dropout_prob=0, attention_probs_dropout_prob=0, initializer_range=0.1,
    ),
    "t5": lambda: T5Config(
        vocab_size=300, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, dropout_rate=0.0, **IDS
    ),
    "bart": lambda: BartConfig(**SIZES, **IDS, max_position_embeddings=64, forced_eos_token_id=None, init_std=0.1),
}  # fmt: skip

order = random.Random(0)
ANIMALS, VERBS = ["고양이가", "개가", "새가"], ["잔다", "먹는다", "운다"]
ENGLISH = {"고양이가": "the cat", "개가": "the dog", "새가": "a bird"}
PAIRS = [(order.choice(ANIMALS), order.choice(VERBS)) for _ in range(48)]
TEXTS = [f"{animal} {verb}" for animal, verb in PAIRS]

ROWS: dict[str, list[dict]] = {
    "n21": [{"text": text, "label": verb} for text, (_, verb) in zip(TEXTS, PAIRS, strict=True)],
    "n2n": [{"tokens": [animal, verb], "labels": ["N", "V"]} for animal, verb in PAIRS],
    "n2m": [{"source": animal, "target": ENGLISH[animal]} for animal, _ in PAIRS],
}
CONLLU = "".join(
    f"# text = {animal} {verb}.\n1\t{animal}\t_\tNOUN\t_\t_\t2\tnsubj\t_\t_\n"
    f"2\t{verb}\t_\tVERB\t_\t_\t0\troot\t_\tSpaceAfter=No\n3\t.\t_\tPUNCT\t_\t_\t2\tpunct\t_\t_\n\n"
    for animal, verb in PAIRS
)
SCORES = {"n21": "accuracy", "n2n": "accuracy", "n2path": "las", "n2m": "chrf"}
MODELS = {
    "n21": ["hftk", "bert", "t5", "bart"],
    "n2n": ["hftk", "bert", "t5"],
    "n2path": ["hftk", "bert", "t5", "bart"],
    "n2m": ["hftk", "t5", "bart"],
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A folder for each type of model, with random weights and one tokenizer for all."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=64
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, config in CONFIGS.items():
        AutoModel.from_config(config()).save_pretrained(folder / name)
        fast.save_pretrained(folder / name)
    return folder


def recipe_for(folder, checkpoints, shape, model, task="", **training):
    if shape == "n2path":
        data = folder / "rows.conllu"
        data.write_text(CONLLU, encoding="utf-8")
    else:
        data = folder / "rows.jsonl"
        write_rows(ROWS[shape], data)
    keys = {"max_steps": 120, "learning_rate": 1.5e-3, "per_device_train_batch_size": 8, "save_strategy": "no"}
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"""
output: {folder}/run
model: {checkpoints}/{model}
task: {{name: {shape}{task}}}
data: {{train_files: [{data}], validation_files: [{data}]}}
training: {json.dumps(keys | {"use_cpu": True, "disable_tqdm": True} | training)}
"""
    )
    return load_finetune_recipe(recipe, [])


@pytest.mark.parametrize(("shape", "model"), [(shape, model) for shape in MODELS for model in MODELS[shape]])
def test_every_shape_learns_on_every_model_and_predicts_what_it_scored(shape, model, checkpoints, tmp_path, capsys):
    metrics = finetune(recipe_for(tmp_path, checkpoints, shape, model))
    name = SCORES[shape]
    assert metrics[f"eval_{name}"] >= (0.9 if name != "chrf" else 60), "a few words could not be learned"

    [data] = tmp_path.glob("rows.*")
    scores = evaluate(str(tmp_path / "run"), [str(data)])
    assert scores[name] == pytest.approx(metrics[f"eval_{name}"])

    out = tmp_path / f"out{data.suffix}"
    predict(str(tmp_path / "run"), str(data), str(out))
    if shape == "n2path":
        trees = [row for _, row in read_sentences(str(out), trees=True)]  # each is one tree with one root
        assert [row["head"] for row in trees].count([2, 0, 2]) >= 0.9 * len(trees)
        [words] = pipeline(model=str(tmp_path / "run"), trust_remote_code=True)([trees[0]["tokens"]])
        assert [(word["word"], word["head"]) for word in words] == list(
            zip(trees[0]["tokens"], trees[0]["head"], strict=True)
        )
    else:
        predicted = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        column = {"n21": "label", "n2n": "labels", "n2m": "target"}[shape]
        same = [row[column] == gold[column] for row, gold in zip(predicted, ROWS[shape], strict=True)]
        assert sum(same) >= 0.8 * len(PAIRS)
    if shape == "n2m":
        translate = pipeline("text2text-generation", model=str(tmp_path / "run"), trust_remote_code=True)
        [text] = translate(predicted[0]["source"], num_beams=4, early_stopping=True, max_new_tokens=128)
        assert text == {"generated_text": predicted[0]["target"]}


@pytest.mark.parametrize("model", ["hftk", "t5", "bart"])
def test_a_target_is_chosen_among_those_of_training_rows_that_stay_with_the_model(model, checkpoints, tmp_path):
    recipe = recipe_for(tmp_path, checkpoints, "n2m", model, max_steps=20)
    recipe.task.candidates = 3
    metrics = finetune(recipe)
    scores = evaluate(str(tmp_path / "run"), [str(tmp_path / "rows.jsonl")])
    assert scores["loss"] == pytest.approx(metrics["eval_loss"], rel=3e-3)
    assert metrics["eval_chrf"] == scores["chrf"] == 100, "each row is among those that it learned"
    assert "among what the 3 training rows most like a text say" in (tmp_path / "run" / "README.md").read_text()
    (tmp_path / "run" / "candidates.jsonl").unlink()
    with pytest.raises(UsageError, match="candidates.jsonl: cannot be read"):
        evaluate(str(tmp_path / "run"), [str(tmp_path / "rows.jsonl")])


def test_a_model_type_without_the_head_is_refused_in_one_line(checkpoints, tmp_path):
    for shape, model in (("n2n", "bart"), ("n2m", "bert")):
        with pytest.raises(UsageError, match=rf"^[^\n]*{model} cannot be loaded for {shape}: [^\n]*$"):
            finetune(recipe_for(tmp_path, checkpoints, shape, model))


def test_a_tree_that_is_none_is_named_by_its_line(checkpoints, tmp_path):
    recipe = recipe_for(tmp_path, checkpoints, "n2path", "hftk")
    broken = CONLLU.splitlines(keepends=True)
    broken[7] = broken[7].replace("\t0\troot", "\t1\troot")  # word 2 of the second sentence
    (tmp_path / "rows.conllu").write_text("".join(broken), encoding="utf-8")
    with pytest.raises(UsageError, match=r"^[^\n]*rows.conllu:[678]: [^\n]*heads must make a tree with one root$"):
        finetune(recipe)


def test_several_labels_and_numbers_are_learned_too(checkpoints, tmp_path):
    recipe = recipe_for(tmp_path, checkpoints, "n21", "hftk", ", problem_type: multi_label_classification")
    write_rows([{"text": f"{a} {v}", "label": [a, v]} for a, v in PAIRS], tmp_path / "rows.jsonl")
    assert finetune(recipe)["eval_f1"] > 0.9
    recipe = recipe_for(tmp_path, checkpoints, "n21", "hftk", ", problem_type: regression")
    write_rows([{"text": f"{a} {v}", "label": len(a) + 0.5} for a, v in PAIRS], tmp_path / "rows.jsonl")
    assert finetune(recipe)["eval_pearson"] > 0.9


def test_pairs_of_texts_are_read_together(checkpoints, tmp_path):
    recipe = recipe_for(tmp_path, checkpoints, "n21", "hftk", ", second_text_column: more", max_steps=80)
    rows = [{"text": a, "more": b, "label": str(a == b)} for a, _ in PAIRS[:12] for b in ANIMALS]
    write_rows(rows, tmp_path / "rows.jsonl")
    assert finetune(recipe)["eval_accuracy"] > 0.85


def test_entities_are_found_character_by_character(checkpoints, tmp_path):
    recipe = recipe_for(tmp_path, checkpoints, "n2n", "hftk", ", unit: character")
    lines = [
        {
            "tokens": text,
            "labels": ["B-PS", *["I-PS"] * (text.index("가") - 1), *["O"] * (len(text) - text.index("가"))],
        }
        for text in TEXTS
    ]
    write_rows(lines, tmp_path / "rows.jsonl")
    assert finetune(recipe)["eval_f1"] > 0.9
    assert AutoModelForTokenClassification.from_pretrained(tmp_path / "run").config.id2label[0] == "B-PS"


def test_training_stops_when_it_gets_no_better_and_keeps_the_best(checkpoints, tmp_path):
    training = {"max_steps": 200, "eval_strategy": "steps", "eval_steps": 5, "save_strategy": "steps", "save_steps": 5}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "accuracy"}
    recipe = recipe_for(tmp_path, checkpoints, "n21", "hftk", **training, **best)
    recipe.early_stopping_patience = 2
    metrics = finetune(recipe)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    scores = [line["eval_accuracy"] for line in log if "eval_accuracy" in line]
    assert len(scores) < 40 and max(scores) == metrics["eval_accuracy"]


def test_predictions_are_shown_as_text_and_as_a_drawing(checkpoints, tmp_path, capsys):
    finetune(recipe_for(tmp_path, checkpoints, "n2path", "hftk", max_steps=1))
    command = ["predict", str(tmp_path / "run"), "--input", str(tmp_path / "rows.conllu")]
    capsys.readouterr()
    assert main([*command, "--format", "text"]) == 0
    trees = capsys.readouterr().out.removesuffix("\n\n").split("\n\n")
    assert [[line.split()[-1] for line in tree.splitlines()] for tree in trees] == [[*pair, "."] for pair in PAIRS]
    assert main([*command, "--format", "svg", "--output", str(tmp_path / "trees.svg")]) == 0
    assert (tmp_path / "trees.svg").read_text(encoding="utf-8").count("<g ") == len(PAIRS)
