"""
A training step of a small encoder-decoder, ours and those of transformers, in turns: source tokens a second, memory,
and the share of the speed of this machine's bfloat16 matrix product.

    python benchmarks/step.py

Width 256, 4 + 4 layers, 4 heads, feed-forward 1024, vocabulary 8,192; 16 rows of 512 source and 128 target tokens.
`as documented` is the defaults: float32, dropout 0.1, AdamW as it is. `at its best` is bfloat16 autocast, no dropout,
the fused AdamW, and an allocator that keeps its pages.
"""

import resource
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedModel, T5Config, T5ForConditionalGeneration
from turns import in_turns

from hftk.model.configuration_hftk import HftkConfig
from hftk.model.modeling_hftk import HftkForConditionalGeneration
from hftk.training.runtime import RuntimeArguments, choose_runtime, give_back_pages, keep_pages

BATCH, SOURCE, TARGET, VOCABULARY = 16, 512, 128, 8192
SECONDS = 15.0
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WIDTHS = {"d_model": 256, "encoder_layers": 4, "decoder_layers": 4}
HEADS = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}


def ours(dropout: float = 0.0) -> dict[str, float]:
    keep_pages()
    config = HftkConfig.from_preset(
        "modern",
        vocab_size=VOCABULARY,
        **WIDTHS,
        **HEADS,
        **IDS,
        encoder_ffn_dim=1024,
        decoder_ffn_dim=1024,
        gated_feed_forward=False,
        decoder_start_token_id=1,
        dropout=dropout,
    )
    model = HftkForConditionalGeneration(config)
    runtime = choose_runtime(model, [batch(), batch()], RuntimeArguments(), torch.device("cpu"))
    assert runtime.attn_implementation is not None
    model.set_attn_implementation(runtime.attn_implementation)
    return trained(model, runtime.dtype == "bfloat16", fused=True, behind_first=give_back_pages)


def bart(best: bool, dropout: float = 0.1) -> dict[str, float]:
    if best:
        keep_pages()
    config = BartConfig(
        vocab_size=VOCABULARY,
        **WIDTHS,
        **HEADS,
        **IDS,
        encoder_ffn_dim=1024,
        decoder_ffn_dim=1024,
        dropout=dropout,
        max_position_embeddings=SOURCE,
        decoder_start_token_id=2,
    )
    return trained(BartForConditionalGeneration(config), bfloat16=best, fused=best)


def t5() -> dict[str, float]:
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=256,
        d_kv=64,
        d_ff=1024,
        num_layers=4,
        num_heads=4,
        decoder_start_token_id=0,
    )
    return trained(T5ForConditionalGeneration(config), bfloat16=False, fused=False)


def batch() -> dict[str, torch.Tensor]:
    source, target = (torch.randint(5, VOCABULARY, (BATCH, length)) for length in (SOURCE, TARGET))
    return {"input_ids": source, "attention_mask": torch.ones_like(source), "labels": target}


def trained(
    model: PreTrainedModel, bfloat16: bool, fused: bool, behind_first: Callable[[], None] | None = None
) -> dict[str, float]:
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-4, fused=fused)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            loss = model(**batch()).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    if behind_first is not None:  # what our Trainer does there
        behind_first()
    for _ in range(2):
        step()
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        step()
        steps += 1
    seconds = (time.perf_counter() - start) / steps
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with FlopCounterMode(display=False) as counter:
        step()
    return {
        "tokens a second": BATCH * SOURCE / seconds,
        "of the bf16 matrix product": counter.get_total_flops() / seconds / matrix_product(),
        "memory, MiB": memory,
        "parameters, M": model.num_parameters() / 1e6,
    }


def matrix_product(size: int = 2048, times: int = 8) -> float:
    """FLOP a second of a large bfloat16 matrix product."""
    left, right = (torch.randn(size, size).bfloat16() for _ in range(2))
    left @ right
    start = time.perf_counter()
    for _ in range(times):
        left @ right
    return 2 * size**3 * times / (time.perf_counter() - start)


if __name__ == "__main__":
    in_turns(
        {
            "hftk": ours,
            "hftk, dropout 0.1": lambda: ours(dropout=0.1),
            "BART as documented": lambda: bart(best=False),
            "T5 as documented": t5,
            "BART at its best, dropout 0.1": lambda: bart(best=True),
            "BART at its best": lambda: bart(best=True, dropout=0.0),
        },
        "tokens a second",
    )
