"""A model that two processes share (FSDP2) trains as one that a process has to itself, tied embeddings included."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch import distributed, multiprocessing
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from hftk.model.configuration_hftk import HftkConfig
from hftk.model.modeling_hftk import HftkDecoderLayer, HftkEncoderLayer, HftkForMaskedLM, HftkForPreTraining
from hftk.training.optimizer import HftkOptimizer

PROCESSES, STEPS, ROWS, LENGTH, TOKENS = 2, 6, 4, 12, 50
PARTS = [slice(0, 2), slice(2, 4)]  # of the rows, by process


def build(kind: type, dtype: torch.dtype, tied: bool) -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = {f"{stack}_{size}": 2 for stack in ("encoder", "decoder") for size in ("layers", "attention_heads")}
    config = HftkConfig(
        vocab_size=TOKENS, d_model=16, encoder_ffn_dim=24, decoder_ffn_dim=24, dropout=0.0, attention_dropout=0.0,
        ngram_order=2, ngram_vocab_size=32, ngram_dim=8, tie_lm_head=tied,
        init_std=0.25, **sizes,
    )  # fmt: skip
    return kind(config).to(dtype).train()


def batch(step: int, kind: type) -> dict[str, torch.Tensor]:
    """Masked words and, for a model of both stacks, in every other step a text to be written."""
    generator = torch.Generator().manual_seed(step)
    ids, labels = (torch.randint(5, TOKENS, (ROWS, LENGTH), generator=generator) for _ in range(2))
    hidden = torch.rand(ROWS, LENGTH, generator=generator) < 0.3
    if step % 2 and kind is HftkForPreTraining:
        return {"input_ids": ids, "labels": labels, "decoder_input_ids": labels.roll(1, 1)}
    return {"input_ids": ids.masked_fill(hidden, 4), "labels": ids.masked_fill(~hidden, -100)}


def train(model: torch.nn.Module, kind: type, parts: list[slice], muon: bool) -> torch.Tensor:
    """The loss of each step over the rows of all processes, of which this one has `parts`, one after another."""
    # 0.9: a row of a table, when it is read for the first time, goes 1 / √(1 - 0.9) steps, with what Muon rounds
    optimizer = HftkOptimizer(model, lr=1e-2, betas=(0.9, 0.9), muon=muon)
    losses = torch.zeros(STEPS, dtype=torch.float64)
    for step in range(STEPS):
        rows = batch(step % 2, kind)  # the same two again and again
        labels = (rows["labels"] != -100).sum() / PROCESSES * len(parts)  # gradients are averaged over the processes
        for part in parts:
            loss = model(**{name: tensor[part] for name, tensor in rows.items()}, num_items_in_batch=labels).loss
            loss.backward()
            losses[step] += loss.detach()
        optimizer.step()
        optimizer.zero_grad()
    return losses


def shard(model: torch.nn.Module, by: str) -> None:
    if by == "layers":
        mesh = init_device_mesh("cpu", (PROCESSES,))
        for module in model.modules():
            if isinstance(module, (HftkEncoderLayer, HftkDecoderLayer)):
                fully_shard(module, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return
    # as accelerate does on GPUs with recipes/accelerate/fsdp2; on processors its Accelerator would take DDP instead
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
    fsdp2_prepare_model(SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin), mixed_precision="no"), model)


def one_process(rank: int, folder: Path, kind: type, dtype: torch.dtype, by: str, tied: bool, muon: bool) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=PROCESSES)
    model = build(kind, dtype, tied)
    shard(model, by)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    whole = StateDictOptions(full_state_dict=True)
    begun = get_model_state_dict(model, options=whole)
    losses = train(model, kind, [PARTS[rank]], muon)
    distributed.all_reduce(losses)
    ended = get_model_state_dict(model, options=whole)
    if rank == 0:
        torch.save({"begun": begun, "losses": losses / PROCESSES, "ended": ended}, folder / "sharded.pt")
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "dtype", "by", "tied", "muon"),
    [
        (HftkForPreTraining, torch.float64, "layers", True, False),
        (HftkForPreTraining, torch.float64, "accelerate", True, False),
        (HftkForPreTraining, torch.float32, "accelerate", False, False),
        (HftkForMaskedLM, torch.float64, "accelerate", True, False),
        (HftkForPreTraining, torch.float64, "accelerate", True, True),
    ],
)
def test_a_shared_model_trains_as_a_whole_one(kind, dtype, by, tied, muon, tmp_path):
    multiprocessing.spawn(one_process, (tmp_path, kind, dtype, by, tied, muon), nprocs=PROCESSES)
    sharded = torch.load(tmp_path / "sharded.pt", weights_only=True)
    model = build(kind, dtype, tied)
    expected = model.state_dict()
    assert sharded["begun"].keys() == expected.keys()
    assert all(torch.equal(sharded["begun"][name], tensor) for name, tensor in expected.items())

    # Muon makes its updates orthogonal in bfloat16, whatever the weights are
    tolerance = 1e-2 if muon else 1e-9 if dtype == torch.float64 else 1e-4
    losses = train(model, kind, PARTS, muon)
    torch.testing.assert_close(sharded["losses"], losses, rtol=tolerance, atol=0)
    assert losses[-2] < losses[0] and losses[-1] < losses[1]
    # AdamW goes a whole step of 1e-2 wherever a gradient is not 0, however much of it is rounding
    moved = tolerance if dtype == torch.float64 and not muon else 2e-3
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(sharded["ended"][name], tensor, rtol=tolerance, atol=moved)
    assert torch.equal(sharded["ended"]["shared.weight"], sharded["ended"]["encoder.embed_tokens.weight"])
    assert tied == torch.equal(sharded["ended"]["shared.weight"], sharded["ended"]["lm_head.weight"])
