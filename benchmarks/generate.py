"""
Generating, ours and BART of the same sizes with transformers' `generate()`, in turns: new tokens a second.

    python benchmarks/generate.py

Width 256, 4 + 4 layers, vocabulary 8,192, random weights; 32 rows of 64 source tokens and exactly 64 new ones, greedy
and with 4 beams. `as documented` is float32; `at its best` is bfloat16 autocast where that is faster.
"""

import time

import torch
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedModel
from turns import in_turns

from hftk.model.configuration_hftk import HftkConfig
from hftk.model.modeling_hftk import HftkForConditionalGeneration
from hftk.training.runtime import faster_dtype, keep_pages

ROWS, SOURCE, NEW = 32, 64, 64
SIZES = {
    "vocab_size": 8192,
    "d_model": 256,
    "encoder_layers": 4,
    "decoder_layers": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 1024,
    "decoder_ffn_dim": 1024,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def ours() -> dict[str, float]:
    keep_pages()
    config = HftkConfig.from_preset("modern", gated_feed_forward=False, decoder_start_token_id=1, **SIZES)
    return generated(HftkForConditionalGeneration(config), best=True)


def bart(best: bool) -> dict[str, float]:
    if best:
        keep_pages()
    return generated(BartForConditionalGeneration(BartConfig(decoder_start_token_id=2, **SIZES)), best)


@torch.no_grad()
def generated(model: PreTrainedModel, best: bool) -> dict[str, float]:
    torch.manual_seed(0)
    source = torch.randint(5, 8192, (ROWS, SOURCE))
    inputs = {"input_ids": source, "attention_mask": torch.ones_like(source)}
    bfloat16 = best and faster_dtype(torch.device("cpu")) == "bfloat16"
    rates = {}
    for name, beams in (("greedy", 1), ("4 beams", 4)):
        options = {"num_beams": beams, "do_sample": False, "min_new_tokens": NEW, "max_new_tokens": NEW}
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
                model.eval().generate(**inputs, **options)  # type: ignore[operator]
            seconds.append(time.perf_counter() - start)
        rates[f"{name}, tokens a second"] = ROWS * NEW / min(seconds)
    return rates


if __name__ == "__main__":
    in_turns(
        {
            "hftk": ours,
            "BART as documented": lambda: bart(best=False),
            "BART at its best": lambda: bart(best=True),
        },
        "greedy, tokens a second",
        "4 beams, tokens a second",
    )
