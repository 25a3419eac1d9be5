import platform
import subprocess
import sys

import pytest
import torch

from hftk import HftkConfig, HftkForConditionalGeneration
from hftk.training.runtime import KERNELS, RuntimeArguments, choose_runtime, faster_dtype, seconds_per_step


def small_model(**fields) -> HftkForConditionalGeneration:
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    return HftkForConditionalGeneration(HftkConfig(vocab_size=50, **sizes, **heads, **fields))


def test_a_batch_that_gives_no_number_leaves_the_model_as_it_was():
    model = small_model()
    with torch.no_grad():
        model.shared.weight[9] = torch.nan
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batches = [{"input_ids": torch.full((5, 7), 9), "labels": torch.full((5, 4), 8)}] * 2
    for muon in (False, True):
        choose_runtime(model, batches, RuntimeArguments(), torch.device("cpu"), muon)
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True, msg=name)


def test_choosing_leaves_the_model_and_the_random_numbers_as_they_were():
    model = small_model(norm_type="batch_norm", use_bias=True, dropout=0.1).eval()
    model.set_attn_implementation("sdpa")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    batches = [{"input_ids": torch.full((5, 7), 9), "labels": torch.full((5, 4), 8)}] * 2
    for muon in (False, True):
        chosen = choose_runtime(model, batches, RuntimeArguments(), torch.device("cpu"), muon)
        assert chosen.dtype and chosen.attn_implementation in KERNELS and chosen.seconds_per_step
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[name]), name
        assert torch.equal(torch.get_rng_state(), random_state)
        assert model.config._attn_implementation == "sdpa" and not model.training
        assert all(parameter.grad is None for parameter in model.parameters())
    kept = RuntimeArguments(dtype="float32", attn_implementation="eager")
    chosen = choose_runtime(model, batches, kept, torch.device("cpu"))
    assert (chosen.dtype, chosen.attn_implementation) == ("float32", "eager")


def test_a_batch_counts_by_how_often_the_run_sees_its_like():
    short, long = ({"input_ids": torch.full((rows, 20), 9), "labels": torch.full((rows, 20), 8)} for rows in (1, 400))
    model, device = small_model(), torch.device("cpu")
    rarely, often = (
        seconds_per_step(model, [short, long], torch.float32, device, weights=weights) for weights in ((1, 0), (0, 1))
    )
    assert often > 2 * rarely


def test_choosing_a_dtype_leaves_the_number_of_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    faster_dtype(torch.device("cpu"))
    assert torch.get_num_threads() == threads + 1
    torch.set_num_threads(threads)


# every other megabyte stays, so that none of what is freed lies at the heap's end
FREE_IN_PIECES = """
from transformers import TrainerControl, TrainerState
from hftk.training.runtime import keep_pages
from hftk.training.trainer import FirstStep
import torch
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 // 2**20
keep_pages()
pieces = [torch.zeros(2**18) for _ in range(200)]
full = resident()
del pieces[::2]
kept, callback, state = resident(), FirstStep(), TrainerState(global_step=7)
callback.on_train_begin(None, state, TrainerControl())
state.global_step = 8
callback.on_step_end(None, state, TrainerControl())
print(full - kept, full - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="elsewhere an allocator keeps or gives what it likes")
def test_what_is_free_behind_the_first_step_goes_back_to_the_kernel():
    printed = subprocess.run([sys.executable, "-c", FREE_IN_PIECES], capture_output=True, text=True, check=True).stdout
    freed, given_back = map(int, printed.split())
    assert freed < 10 and given_back > 80
