"""What is for `accelerate launch` is read as that reads it: a wrong key or value fails here."""

import re
import shlex

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from hftk.model.configuration_hftk import HftkConfig
from hftk.model.configuration_hftk_arc import HftkArcConfig
from hftk.model.modeling_hftk import HftkForConditionalGeneration, HftkForMaskedLM, HftkForPreTraining
from hftk.model.modeling_hftk_arc import HftkForArcPrediction
from hftk.recipe import PretrainRecipe, load_recipe
from hftk.recipe_files import find_recipe, list_recipes

NAMES = [name for name, _ in list_recipes() if name.startswith("accelerate/")]
SIZES = HftkConfig(
    vocab_size=8, d_model=8, encoder_layers=2, decoder_layers=3, encoder_attention_heads=2, decoder_attention_heads=2,
    encoder_ffn_dim=8, decoder_ffn_dim=8,
)  # fmt: skip


def launched(name: str, *more: str):
    """The arguments of `accelerate launch`, with those of a file of ours put in."""
    parser = launch_command_parser()
    args = parser.parse_args(["--config_file", str(find_recipe(name)), *more, "-m", "hftk", "pretrain", "RECIPE"])
    args, config, _ = _validate_launch_command(args)
    options = {action.dest for action in parser._actions}
    for section in (config.fsdp_config, config.deepspeed_config):
        assert section.keys() <= options  # the launcher would take any key, and look at none but its own
    return args


@pytest.mark.parametrize("name", NAMES)
def test_the_launcher_knows_each_key_and_the_head_tells_how_to_call_it(name):
    args = launched(name)
    assert (args.module, args.training_script) == (True, "hftk")
    assert args.num_processes % args.num_machines == 0
    head = re.sub(r"\\\n# *", "", find_recipe(name).read_text(encoding="utf-8"))
    file = f"{name.rpartition('/')[2]}.yaml"
    assert f"#   hftk recipes cp {name} {file}\n" in head
    assert re.search("^# Was run: ", head, re.M)
    [first, *_] = re.findall(rf"^#   accelerate launch --config_file {file} (.*)$", head, re.M)
    words = shlex.split(first)
    launch, command = words[: words.index("-m")], words[words.index("-m") + 2 :]
    launched(name, *launch)
    if command[0] == "pretrain":
        load_recipe(find_recipe("pretrain/debug"), command[2:], PretrainRecipe)


def test_the_processors_of_one_machine():
    args = launched("accelerate/cpu")
    assert (args.num_processes, args.use_cpu, args.multi_gpu) == (2, True, True)


def test_machines_are_told_apart_on_the_command_line():
    args = launched("accelerate/nodes", "--machine_rank", "1", "--main_process_ip", "10.0.0.1")
    prepare_multi_gpu_env(args)
    assert (args.nnodes, args.nproc_per_node, args.node_rank, args.rdzv_endpoint) == ("2", "8", 1, "10.0.0.1:29500")


def test_deepspeed_shares_the_weights_too():
    args = launched("accelerate/zero3")
    args.deepspeed_fields_from_accelerate_config = ""  # for the messages of a file of DeepSpeed's own
    _, environment = prepare_deepspeed_cmd_env(args)
    assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == "3"
    assert "ACCELERATE_GRADIENT_CLIPPING" not in environment  # the recipe's


@pytest.mark.parametrize(
    ("kind", "layers"),
    [(HftkForMaskedLM, 2), (HftkForPreTraining, 5), (HftkForConditionalGeneration, 5), (HftkForArcPrediction, 2)],
)
def test_fsdp2_finds_the_layers_of_each_model(kind, layers, monkeypatch):
    for name, value in prepare_multi_gpu_env(launched("accelerate/fsdp2")).items():
        if name.startswith("FSDP_"):
            monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward) == (2, True)
    with torch.device("meta"):
        model = kind(HftkArcConfig(backbone_config=SIZES) if kind is HftkForArcPrediction else SIZES)
    plugin.set_auto_wrap_policy(model)
    found = [module for module in model.modules() if fsdp2_prepare_auto_wrap_policy(plugin, model)(module)]
    assert {type(module).__name__ for module in found} <= {"HftkEncoderLayer", "HftkDecoderLayer"}
    assert len(found) == layers
