"""
How long a pretraining takes to the loss that transformers' BART reaches in some minutes on the same text.

    python benchmarks/learning.py TEXTS COLUMN                 # BART gets 20 minutes; 22 to 38 in all
    python benchmarks/learning.py TEXTS COLUMN --minutes 60 --objective.name span_corruption

BART as documented: float32, dropout 0.1, AdamW without weight decay, gradients clipped at 1, 8 rows of one document
each, padded (`--batch` for others); learning rate 5e-4 (the default of 5e-5 is one for fine-tuning), linear with 5 % of
warm-up, by the clock, so that it ends with the minutes. Ours is `hftk pretrain pretrain/nsmc` with an eighth, a quarter
and a half of the minutes until one is enough, each a run of its own whose schedule ends with it. Both have the same
tokenizer and documents, the same noise (BART's infilling), the same width, number of layers and, within 5 %, of
parameters. Keys of the recipe follow the options.

The measure is bits per byte on the same held-out documents, each a row of its own, under the same noise. No clock runs
while text is prepared, libraries are imported, the losses are measured, or ours tries out what is fastest, which a run
does once, in some steps.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import AutoModelForSeq2SeqLM, BartConfig, BartForConditionalGeneration, PreTrainedModel, set_seed

from hftk.data.corpus import token_counts
from hftk.data.objectives import Objective
from hftk.data.packing import PackedRows, evaluation_rows
from hftk.data.preparation import prepare_corpus
from hftk.data.vocabulary import Vocabulary
from hftk.model.configuration_hftk import HftkConfig
from hftk.pretrain import build_model, make_tokenizer
from hftk.recipe import PretrainRecipe, load_recipe
from hftk.recipe_files import find_recipe
from hftk.training.pretraining import HeldOut, held_out, negative_log_likelihood, unigram_bits_per_byte

RECIPE = "pretrain/nsmc"
SHARES = (1 / 8, 1 / 4, 1 / 2)  # of BART's minutes
LEARNING_RATE, WARM_UP = 5e-4, 0.05
EVALUATED = 32  # rows at once
# of the recipe: a row for the decoder is as long as one for the encoder, since infilling predicts all of it
FIXED = {
    "objective.name": "infilling",
    "data.max_source_length": "256",
    "data.max_target_length": "256",
    "training.save_strategy": "no",
    "training.eval_strategy": "no",
    "training.disable_tqdm": "true",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", metavar="TEXTS")
    parser.add_argument("column", metavar="COLUMN")
    parser.add_argument("--minutes", type=float, default=20, help="of BART")
    parser.add_argument("--batch", type=int, default=8, help="rows of a step of BART, by default the Trainer's own")
    arguments, keys = parser.parse_known_args()

    with tempfile.TemporaryDirectory() as folder:
        fixed = FIXED | {"data.train_files": arguments.texts, "data.text_column": arguments.column}
        fixed |= {"data.cache_dir": f"{folder}/corpus", "output": folder}
        options = [word for key, value in fixed.items() for word in (f"--{key}", value)] + keys
        recipe = load_recipe(find_recipe(RECIPE), options, PretrainRecipe)
        tokenizer = make_tokenizer(recipe)
        corpus = prepare_corpus(recipe.data, tokenizer, Path(f"{folder}/corpus"))
        vocabulary = Vocabulary.from_tokenizer(tokenizer)
        objective = Objective(recipe.objective, vocabulary)
        lengths = recipe.data.max_source_length, recipe.data.max_target_length
        [name] = objective.names
        held = held_out(evaluation_rows(corpus.validation, objective, name, *lengths, packing=False), 1.0, vocabulary)

        ours = build_model(recipe, tokenizer, objective)
        set_seed(recipe.seed)
        bart = BartForConditionalGeneration(bart_config(ours.config, max(lengths)))
        print(f"parameters, M: hftk {ours.num_parameters() / 1e6:.2f}, BART {bart.num_parameters() / 1e6:.2f}")
        if abs(bart.num_parameters() / ours.num_parameters() - 1) > 0.05:
            sys.exit("their sizes differ by more than 5 %: choose widths of which that is not so")
        guess = unigram_bits_per_byte(held, token_counts(corpus, len(vocabulary.token_bytes)), vocabulary)
        print(f"{name}: {len(held.rows):,} held-out documents; a unigram guess has {guess:.3f} bits per byte")

        print("|  | minutes | steps | bits per byte |\n|---|---|---|---|")
        rows = PackedRows(corpus.train, objective, 1 << 62, arguments.batch, recipe.seed, *lengths, packing=False)
        steps = train(bart, rows, 60 * arguments.minutes)
        goal = bits_per_byte(bart, held)
        print(f"| BART | {arguments.minutes:.1f} | {steps:,} | {goal:.3f} |", flush=True)
        reached = None
        for share in SHARES:
            output = f"{folder}/{share}"
            given = ["--tokenizer.path", f"{folder}/tokenizer", "--budget.minutes", str(share * arguments.minutes)]
            pretrain = [sys.executable, "-m", "hftk", "pretrain", RECIPE, *options, "--output", output]
            subprocess.run([*pretrain, *given], check=True, stdout=subprocess.DEVNULL, env=os.environ)
            metrics = json.loads(Path(output, "metrics.json").read_text())
            bits = bits_per_byte(AutoModelForSeq2SeqLM.from_pretrained(output), held)
            print(f"| hftk | {metrics['minutes']:.1f} | {metrics['steps']:,} | {bits:.3f} |", flush=True)
            if bits <= goal:
                reached = metrics["minutes"]
                break
    told = f"{reached / arguments.minutes:.2f} of its minutes" if reached else "none of these shares of its minutes"
    print(f"hftk is at BART's loss or below it after {told}.")


def bart_config(config: HftkConfig, longest: int) -> BartConfig:
    """As wide and deep as ours; a gated feed-forward layer has three matrices, BART's has two."""
    matrices = 3 if config.gated_feed_forward else 2
    return BartConfig(
        vocab_size=config.vocab_size,
        d_model=config.d_model,
        encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers,
        encoder_attention_heads=config.encoder_attention_heads,
        decoder_attention_heads=config.decoder_attention_heads,
        encoder_ffn_dim=config.encoder_ffn_dim * matrices // 2,
        decoder_ffn_dim=config.decoder_ffn_dim * matrices // 2,
        max_position_embeddings=longest,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        decoder_start_token_id=config.eos_token_id,
    )


def train(model: PreTrainedModel, rows: PackedRows, budget: float) -> int:
    """As many steps as fit in `budget` seconds. Returns their number."""
    device = Accelerator().device
    optimizer = torch.optim.AdamW(model.to(device).train().parameters(), weight_decay=0.0)
    size, start, steps = rows.rows_per_batch, time.perf_counter(), 0
    while (past := (time.perf_counter() - start) / budget) < 1:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(past / WARM_UP, (1 - past) / (1 - WARM_UP))
        batch = rows.collate([rows[row] for row in range(steps * size, (steps + 1) * size)])
        model(**{name: tensor.to(device) for name, tensor in batch.items()}).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
    return steps


def bits_per_byte(model: PreTrainedModel, held: HeldOut) -> float:
    accelerator = Accelerator()
    nats = negative_log_likelihood(model.to(accelerator.device), held.rows, EVALUATED, accelerator)
    return nats / math.log(2) / held.label_bytes


if __name__ == "__main__":
    main()
