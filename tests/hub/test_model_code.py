"""What a run saves loads where hftk is not installed, by the code that lies beside the weights, to the same bits."""

import json
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, pipeline

import hftk
from hftk.model.configuration_hftk import AUTO_MAP
from hftk.model.pipeline_hftk import HftkParsingPipeline, HftkText2TextPipeline
from hftk.predict import load_task_model

HEADS = [
    "AutoModel",
    "AutoModelForPreTraining",
    "AutoModelForMaskedLM",
    "AutoModelForSeq2SeqLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
]
OUTPUTS = """
import torch, transformers
from safetensors.torch import load_file, save_file
def outputs(folder, heads, inputs):
    found = {}
    for head in heads:
        torch.manual_seed(0)  # the weights of a classifier that is new
        model = getattr(transformers, head).from_pretrained(folder, trust_remote_code=True).eval()
        given = {"input_ids": inputs["source"]}
        if model.get_decoder() is not None and head != "AutoModelForPreTraining":
            given["decoder_input_ids"] = inputs["target"]
        with torch.no_grad():
            found[head] = model(**given)[0]
        if model.can_generate():
            found[f"{head} generates"] = model.generate(inputs["source"], num_beams=2, max_new_tokens=8).contiguous()
        found[f"{head} origin"] = torch.tensor(type(model).__module__.startswith("transformers_modules."))
    return found
"""


def test_each_head_that_auto_classes_know_is_named_in_the_config():
    for auto_class, where in AUTO_MAP.items():
        module, _, name = where.partition(".")
        head = (
            hftk.HftkConfig
            if auto_class == "AutoConfig"
            else getattr(transformers, auto_class)._model_mapping[hftk.HftkConfig]
        )
        assert (head.__module__, head.__name__) == (f"hftk.model.{module}", name)
    assert set(HEADS) == set(AUTO_MAP) - {"AutoConfig"}


def test_every_head_loads_from_one_folder_without_hftk(runs, tmp_path, elsewhere):
    inputs = {"source": torch.randint(110, 300, (2, 9)), "target": torch.randint(110, 300, (2, 5))}
    save_file(inputs, tmp_path / "inputs")
    code = OUTPUTS + "save_file(outputs(sys.argv[1], sys.argv[4:], load_file(sys.argv[2])), sys.argv[3])"
    elsewhere(code, runs / "pretrained", tmp_path / "inputs", tmp_path / "outputs", *HEADS)
    there = load_file(tmp_path / "outputs")
    names: dict = {}
    exec(OUTPUTS, names)
    here = names["outputs"](runs / "pretrained", HEADS, inputs)
    assert set(here) == set(there) and len(here) > 2 * len(HEADS)
    for name in here:
        if name.endswith("origin"):
            assert there[name] and not here[name], "remote code there, and none where hftk is imported"
        else:
            assert torch.equal(here[name], there[name]), name


PIPELINES = """
import json
from transformers import pipeline
for line in json.loads(sys.argv[1]):
    print(json.dumps(pipeline(**line["make"], trust_remote_code=True)(line["of"]), default=float))
assert not any(name.partition(".")[0] == "hftk" for name in sys.modules)
"""


def test_pipelines_of_all_shapes_work_without_hftk(runs, elsewhere):
    text, words = "고양이가 먹는다", [["고양이가", "먹는다"]]
    lines: list[dict[str, Any]] = [
        {"make": {"task": "fill-mask", "model": f"{runs}/pretrained"}, "of": "고양이가 <mask>"},
        {"make": {"task": "text-classification", "model": f"{runs}/n21"}, "of": text},
        {"make": {"task": "token-classification", "model": f"{runs}/n2n"}, "of": text},
        {"make": {"task": "text2text-generation", "model": f"{runs}/n2m"}, "of": text},
        {"make": {"task": "dependency-parsing", "model": f"{runs}/n2path"}, "of": words},
    ]
    there = [json.loads(line) for line in elsewhere(PIPELINES, json.dumps(lines)).splitlines()]
    ours = {"text2text-generation": HftkText2TextPipeline, "dependency-parsing": HftkParsingPipeline}
    for line, found in zip(lines, there, strict=True):
        # ours run no code out of the folder here, once their class is given
        here = pipeline(**line["make"], pipeline_class=ours.get(line["make"]["task"]))(line["of"])
        assert json.loads(json.dumps(here, default=float)) == found


def test_a_custom_pipeline_is_remote_code_even_here(runs):
    with pytest.raises(ValueError, match="trust_remote_code"):
        pipeline("dependency-parsing", model=str(runs / "n2path"))


PEFT = """
import torch, transformers
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoConfig, AutoTokenizer
folder, base, head, text, out = sys.argv[1:]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
whole = getattr(transformers, head).from_pretrained(base, config=config, trust_remote_code=True)
model = PeftModel.from_pretrained(whole, folder).eval()
inputs = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
save_file({"logits": model(**inputs).logits.detach()}, out)
"""


def test_adapters_load_without_hftk(runs, tmp_path, elsewhere):
    text = "고양이가 먹는다"
    head = "AutoModelForSequenceClassification"
    elsewhere(PEFT, runs / "adapters", runs / "pretrained", head, text, tmp_path / "out")
    task_model = load_task_model(str(runs / "adapters"))
    with torch.no_grad():
        logits = task_model.model(**AutoTokenizer.from_pretrained(runs / "adapters")(text, return_tensors="pt")).logits
    assert torch.equal(load_file(tmp_path / "out")["logits"], logits)


def test_no_config_tells_where_another_folder_lay(runs):
    for config in runs.glob("*/config.json"):
        assert str(runs) not in config.read_text(encoding="utf-8")
