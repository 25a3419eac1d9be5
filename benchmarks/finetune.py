"""
Fine-tuning a text classifier from random weights, by `hftk finetune` and by transformers' Trainer with a BERT of the
same size, in turns: trainings an hour, rows a second while it trains, and the accuracy that comes out.

    python benchmarks/finetune.py TRAIN.parquet VALIDATION.parquet TEXT_COLUMN

Width 256, 4 layers, 4 heads, feed-forward 1024, vocabulary 8,192; the first 2,000 rows in batches of 32, three epochs,
learning rate 5e-4. `as documented` pads to 128 tokens, as transformers' run_glue.py does by default; `dynamic padding`
is DataCollatorWithPadding.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from datasets import load_dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)
from turns import arguments_of, in_turns

from hftk.data.tokenizer import TokenizerArguments, load_tokenizer, train_tokenizer
from hftk.model.configuration_hftk import HftkConfig
from hftk.model.modeling_hftk import HftkForPreTraining

TRAIN, VALIDATION, COLUMN = arguments_of(3)
ROWS, BATCH, LENGTH = 2000, 32, 128
EPOCHS, LEARNING_RATE = 3, 5e-4
SEED = int(os.environ.get("TURN", 0))  # another one in each turn
TOKENIZER = Path(tempfile.gettempdir()) / "hftk-benchmark-tokenizer"


def rows(file: str, count: int | None = None):
    return load_dataset("parquet", data_files=file, split=f"train[:{count}]" if count else "train")


def tokenizer():
    if not TOKENIZER.exists():
        texts = rows(TRAIN)[COLUMN]
        train_tokenizer(texts, TokenizerArguments(vocab_size=8192)).save_pretrained(TOKENIZER)
    return load_tokenizer(str(TOKENIZER))


def ours() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        encode = tokenizer()
        config = HftkConfig.from_preset(
            "modern",
            vocab_size=len(encode),
            d_model=256,
            encoder_layers=4,
            decoder_layers=1,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=1024,
            decoder_ffn_dim=1024,
            gated_feed_forward=False,
            dropout=0.1,
            pad_token_id=encode.pad_token_id,
            bos_token_id=encode.bos_token_id,
            eos_token_id=encode.eos_token_id,
            decoder_start_token_id=encode.bos_token_id,
        )
        set_seed(SEED)
        HftkForPreTraining(config).save_pretrained(f"{folder}/model")
        encode.save_pretrained(f"{folder}/model")
        keys = {
            "model": f"{folder}/model",
            "output": f"{folder}/run",
            "seed": SEED,
            "task.text_column": COLUMN,
            "data.train_files": f"[{TRAIN}]",
            "data.validation_files": f"[{VALIDATION}]",
            "data.max_train_samples": ROWS,
            "data.max_length": LENGTH,
            "data.word_dropout": 0,
            "config_overrides": "{}",
            "training.num_train_epochs": EPOCHS,
            "training.per_device_train_batch_size": BATCH,
            "training.learning_rate": LEARNING_RATE,
            "training.adam_beta2": 0.999,
        }
        options = [word for key, value in keys.items() for word in (f"--{key}", str(value))]
        command = [sys.executable, "-m", "hftk", "finetune", "n21/nsmc", *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ)
        metrics = json.loads(Path(folder, "run", "metrics.json").read_text())
    return figures(metrics["train_samples_per_second"], metrics["eval_accuracy"])


def bert(padded: bool) -> dict[str, float]:
    set_seed(SEED)
    encode = tokenizer()
    padding = "max_length" if padded else False

    def encoded(file: str, count: int | None = None):
        def features(row):
            return {**encode(row[COLUMN], truncation=True, max_length=LENGTH, padding=padding), "labels": row["label"]}

        source = rows(file, count)
        return source.map(features, remove_columns=source.column_names)

    config = BertConfig(
        vocab_size=len(encode),
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
        pad_token_id=encode.pad_token_id,
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            BertForSequenceClassification(config),
            TrainingArguments(
                output_dir=folder,
                seed=SEED,
                num_train_epochs=EPOCHS,
                per_device_train_batch_size=BATCH,
                per_device_eval_batch_size=128,
                learning_rate=LEARNING_RATE,
                use_cpu=True,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=encoded(TRAIN, ROWS),
            eval_dataset=encoded(VALIDATION),
            data_collator=default_data_collator if padded else DataCollatorWithPadding(encode),
            compute_metrics=lambda of: {"accuracy": float((of.predictions.argmax(-1) == of.label_ids).mean())},
        )
        speed = trainer.train().metrics["train_samples_per_second"]
        return figures(speed, trainer.evaluate()["eval_accuracy"])


def figures(speed: float, accuracy: float) -> dict[str, float]:
    return {"trainings an hour": 3600 * speed / (EPOCHS * ROWS), "rows a second": speed, "accuracy": accuracy}


if __name__ == "__main__":
    in_turns(
        {
            "hftk finetune": ours,
            "Trainer, BERT as documented": lambda: bert(padded=True),
            "Trainer, BERT, dynamic padding": lambda: bert(padded=False),
        },
        "trainings an hour",
        "rows a second",
    )
