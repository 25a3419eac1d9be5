"""A run on the Hub: what goes there, what stays, who may push, and what others load is what was pushed."""

import json
import re

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

from hftk.errors import UsageError
from hftk.hub.push import METRICS, what_goes
from hftk.model.pipeline_hftk import HftkParsingPipeline, HftkText2TextPipeline
from hftk.predict import load_task_model

TEXT = "고양이가 먹는다"
PIPELINES = {"n2n": "token-classification", "n2m": "text2text-generation", "n2path": "dependency-parsing"}
ARRIVED = """
import json
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline
from transformers.utils import cached_file

text, out, trust = sys.argv[1], sys.argv[2], {"trust_remote_code": True}
inputs = AutoTokenizer.from_pretrained("me/pretrained")(text, return_tensors="pt")
model = AutoModelForSeq2SeqLM.from_pretrained("me/pretrained", **trust)
found = {"generated": model.generate(**inputs, num_beams=2, max_new_tokens=8).contiguous()}
for name, revision in (("n21", "main"), ("second", "second")):
    classifier = AutoModelForSequenceClassification.from_pretrained("me/n21", revision=revision, **trust)
    found[name] = classifier.eval()(**inputs).logits.detach()
config = AutoConfig.from_pretrained("me/adapters", **trust)
base = AutoModelForSequenceClassification.from_pretrained("me/pretrained", config=config, **trust)
found["adapters"] = PeftModel.from_pretrained(base, "me/adapters").eval()(**inputs).logits.detach()
config = AutoConfig.from_pretrained("me/last_layer", **trust)
model = AutoModelForTokenClassification.from_pretrained("me/pretrained", config=config, **trust)
model.load_state_dict(load_file(cached_file("me/last_layer", "last_layer.safetensors")), strict=False)
found["last_layer"] = model.eval()(**inputs).logits.detach()
save_file(found, out)
pipelines = json.loads(sys.argv[3]).items()
answers = [pipeline(task, model=f"me/{name}", **trust)(text) for name, task in pipelines]
with open(f"{out}.json", "w") as file:
    json.dump(answers, file, default=float)
assert not any(name.partition(".")[0] == "hftk" for name in sys.modules)
"""


@pytest.mark.slow
def test_what_was_pushed_loads_without_hftk_and_answers_the_same(runs, pushed, tmp_path, elsewhere):
    elsewhere(ARRIVED, TEXT, tmp_path / "found", json.dumps(PIPELINES), **pushed.environment(token=None))
    found = load_file(tmp_path / "found")
    inputs = AutoTokenizer.from_pretrained(runs / "pretrained")(TEXT, return_tensors="pt")
    model = AutoModelForSeq2SeqLM.from_pretrained(runs / "pretrained")
    assert torch.equal(found["generated"], model.generate(**inputs, num_beams=2, max_new_tokens=8))
    for name, folder in (("n21", "n21"), ("second", "n21"), ("adapters", "adapters"), ("last_layer", "last_layer")):
        logits = load_task_model(str(runs / folder)).model(**inputs).logits
        assert torch.equal(found[name], logits), name
    answers = json.loads((tmp_path / "found.json").read_text())
    for (name, task), there in zip(PIPELINES.items(), answers, strict=True):
        ours = {"n2m": HftkText2TextPipeline, "n2path": HftkParsingPipeline}.get(name)
        here = pipeline(task, model=str(runs / name), pipeline_class=ours)(TEXT)
        assert json.loads(json.dumps(here, default=float)) == there, name


@pytest.mark.slow
def test_nothing_but_the_model_and_what_tells_of_it_goes(runs, pushed):
    for name in ("pretrained", "n21", "n2path", "adapters", "last_layer"):
        files = pushed.files(f"me/{name}")
        assert {"README.md", "recipe.yaml", "run.json", "metrics.json", "fingerprint.json", "log.jsonl"} <= set(files)
        assert "plots/loss.png" in files and "config.json" in files and "tokenizer.json" in files
        for path, data in files.items():
            assert not re.search(r"checkpoint|optimizer|predictions|^data/|\.lock$|\.bin$|\.pt$", path)
            assert str(runs).encode() not in data and b"/tmp/" not in data, f"{name}/{path}"
        assert json.loads(files["config.json"])["auto_map"]["AutoModel"]
    assert set(pushed.files("me/n21", "second")) == set(pushed.files("me/n21"))


@pytest.mark.slow
def test_the_backbone_is_a_repository_in_all_that_names_it(pushed, tmp_path):
    adapters, last = pushed.files("me/adapters"), pushed.files("me/last_layer")
    assert json.loads(adapters["adapter_config.json"])["base_model_name_or_path"] == "me/pretrained"
    (tmp_path / "last").write_bytes(last["last_layer.safetensors"])
    with safe_open(tmp_path / "last", "pt") as weights:
        assert weights.metadata()["backbone"] == "me/pretrained"
    for files in (adapters, last):
        card = ModelCard(files["README.md"].decode())
        assert card.data.to_dict()["base_model"] == "me/pretrained" and '"me/pretrained"' in card.text
        assert (
            "\nmodel: me/pretrained\n" in files["recipe.yaml"].decode() and files["recipe.yaml"].decode() in card.text
        )


def test_a_backbone_that_nobody_has_is_refused(runs):
    for name in ("adapters", "last_layer"):
        with pytest.raises(UsageError, match=r"needs the weights of .*pretrained.*--base OWNER/NAME"):
            what_goes(runs / name, f"me/{name}", None)


def test_a_token_or_a_place_of_this_machine_is_refused_by_its_line(runs, tmp_path):
    for path in (runs / "n21").iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    what_goes(tmp_path, "me/n21", None)
    log = tmp_path / "log.jsonl"
    written = log.read_text()
    log.write_text(written + '{"token": "hf_' + "a" * 34 + '"}\n')
    with pytest.raises(UsageError, match=rf"log.jsonl:{len(written.splitlines()) + 1}: this looks like a token"):
        what_goes(tmp_path, "me/n21", None)
    log.write_text(f'{{"file": "{tmp_path}/rows"}}\n')
    with pytest.raises(UsageError, match="log.jsonl:1: .* is a place on this machine"):
        what_goes(tmp_path, "me/n21", None)


@pytest.mark.slow
def test_who_may_not_push_leaves_nothing_and_is_told_which_right_is_missing(runs, hub, command, tmp_path):
    push = ["push", f"{runs}/n21", "me/refused", "--private"]
    hub.objects.clear()  # of other tests
    tokens = [{"HF_TOKEN": token} for token in ("looks", "other", "unknown")]
    first = hub.environment("looks") | {"HF_HOME": str(tmp_path)}
    process = command([push] * 3, first, *tokens[1:])
    said, errors = process.communicate(timeout=300)
    assert [line for line in said.splitlines() if line.isdigit()] == ["2", "2", "2"], errors
    looks, other, unknown = [line for line in errors.splitlines() if line.startswith("hftk: ")]
    assert "lacks the right to write to repositories of me (Forbidden: this token of me has no write access)" in looks
    assert "somebody has no write access to the namespace me" in other and "hf auth login" in unknown
    assert ("models", "me/refused") not in hub.repositories and not hub.objects


@pytest.mark.slow
def test_a_private_repository_is_no_ones_elses(runs, hub, command, tmp_path):
    push = ["push", f"{runs}/n21", "me/hidden", "--private"]
    verify = ["verify", "me/hidden"]
    mine, theirs = ({"HF_TOKEN": token, "HF_HOME": str(tmp_path / token)} for token in ("mine", "other"))
    process = command([push, verify, push, verify], hub.environment() | mine, mine, theirs, theirs)
    said, errors = process.communicate(timeout=300)
    assert hub.repositories["models", "me/hidden"].private
    assert [line for line in said.splitlines() if line.isdigit()][:3] == ["0", "0", "2"], errors


@pytest.mark.slow
def test_a_push_that_was_killed_is_made_whole_by_another(runs, hub, command):
    push = ["push", f"{runs}/pretrained", "me/killed"]
    hub.stops_at = 1000
    process = command([push], hub.environment())
    assert hub.stopped.wait(300), process.communicate()
    process.kill()
    process.communicate()
    assert hub.files("me/killed") == {}
    hub.stops_at = None
    hub.cuts = [1000]  # and the next loses a connection, which it takes up again by itself
    said, errors = command([push], hub.environment()).communicate(timeout=300)
    assert said.splitlines()[-1] == "0", errors
    files = hub.files("me/killed")
    assert files["model.safetensors"] == (runs / "pretrained" / "model.safetensors").read_bytes()
    assert set(files) == set(what_goes(runs / "pretrained", "me/killed", None)[0])


@pytest.mark.slow
def test_a_full_hub_is_told_and_nothing_changes(runs, hub, command):
    hub.objects.clear()
    hub.room = 1000
    push = ["push", f"{runs}/n2n", "me/full"]
    said, errors = command([push], hub.environment()).communicate(timeout=300)
    hub.room = None
    assert said.splitlines()[-1] == "2"
    assert "the Hub has no room for this (Insufficient Storage)" in errors and hub.files("me/full") == {}


@pytest.mark.slow
def test_a_file_that_a_later_push_no_longer_has_is_deleted(runs, pushed, command, tmp_path):
    for path in (runs / "n21").iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    save_file({"weight": torch.zeros(3)}, tmp_path / "model-00001-of-00001.safetensors")
    pushes = [["push", str(tmp_path), "me/again"], ["push", f"{runs}/n21", "me/again"]]
    said, errors = command(pushes, pushed.environment()).communicate(timeout=300)
    assert [line for line in said.splitlines() if line.isdigit()] == ["0", "0"], errors
    assert "model-00001-of-00001.safetensors" not in pushed.files("me/again")


@pytest.mark.slow
def test_a_run_is_repeated_and_scored_from_its_repository(runs, pushed, command, tmp_path):
    rows = [f"--data.{split}_files" for split in ("train", "validation", "test")]
    data = [word for key in rows for word in (key, f"{runs}/n21.jsonl")]
    again = ["finetune", "me/n21", "--output", str(tmp_path / "again"), *data]
    scored = [["evaluate", place, "--data", f"{runs}/n21.jsonl"] for place in ("me/n21", f"{runs}/n21")]
    said, errors = command([again, *scored], pushed.environment()).communicate(timeout=300)
    assert said.splitlines()[-1] == "0", errors
    here, there = re.findall(r"^\{$.*?^\}$", said, re.DOTALL | re.MULTILINE)
    assert here == there and "accuracy" in here
    first, second = (load_file(folder / "model.safetensors") for folder in (runs / "n21", tmp_path / "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_a_training_pushes_its_model_as_it_goes_and_all_of_it_at_the_end_and_no_token(runs, hub, command, tmp_path):
    live = tmp_path / "live"
    token, unused = "hf_" + "Qx7" * 12, "hf_" + "Zk3" * 12
    hub.tokens |= {token: ("me", "write"), unused: ("me", "read")}
    keys = ["--training.push_to_hub", "true", "--training.hub_model_id", "me/live", "--training.hub_token", token]
    keys += ["--training.hub_revision", "trial"]
    process = command([["pretrain", f"{runs}/pretrain.yaml", "--output", str(live), *keys]], hub.environment(unused))
    said, errors = process.communicate(timeout=300)
    assert said.splitlines()[-1] == "0", errors
    files = hub.files("me/live", "trial")
    assert set(files) == set(what_goes(live, "me/live", None)[0])
    assert b"hub_" not in files["recipe.yaml"] and b"push_to_hub" not in files["recipe.yaml"]
    _, step, *_ = hub.repositories["models", "me/live"].commits.values()
    assert "model.safetensors" in step and not {"README.md", "recipe.yaml", "optimizer.pt"} & set(step)
    assert not list(live.rglob("training_args.bin")) and list(live.glob("checkpoint-*/optimizer.pt"))
    written = [path.read_bytes() for path in live.rglob("*") if path.is_file()]
    sent = [file.data for commit in hub.repositories["models", "me/live"].commits.values() for file in commit.values()]
    for text in (*written, *sent, said.encode(), errors.encode()):
        assert token.encode() not in text and unused.encode() not in text


@pytest.mark.slow
def test_a_metric_is_pushed_and_used_by_a_command_each(runs, hub, command, tmp_path):
    push = ["push", "parsing_scores", "me/trees"]
    used = ["evaluate", str(runs / "n2path"), "--data", str(runs / "n2path.conllu"), "--metric", "me/trees"]
    said, errors = command([push, used], hub.environment() | {"HF_HOME": str(tmp_path)}).communicate(timeout=300)
    assert said.splitlines()[-1] == "0", errors
    assert set(hub.files("me/trees", kind="spaces")) == {"README.md", "trees.py"}
    scores = json.loads(said[said.index("{") : said.rindex("}") + 1])
    assert {"uas", "las", "clas"} <= set(scores) and "/spaces/me/trees/resolve/main/trees.py" in hub.asked


def test_each_metric_stands_alone(elsewhere):
    subjects = {"subjects": [2, 0], "persons": ["3", "1"]}
    said = elsewhere(
        "import evaluate, json\n"
        "parsing, restored = (evaluate.load(file, keep_in_memory=True) for file in sys.argv[1:3])\n"
        "trees, found, gold = (json.loads(text) for text in sys.argv[3:])\n"
        "print(parsing.compute(predictions=trees, references=trees)['las'])\n"
        "print(restored.compute(predictions=found, references=gold)['f1'])\n",
        *[METRICS[name].__file__ for name in ("parsing_scores", "subject_scores")],
        json.dumps([{"head": [2, 0], "deprel": ["nsubj", "root"]}]),
        json.dumps([subjects]),
        json.dumps([{**subjects, "subjects": [1, 0], "mentions": [[], []]}]),
    )
    assert said.split() == ["1.0", "0.5"]
