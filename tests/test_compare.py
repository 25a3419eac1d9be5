"""One recipe, a key varied: what runs, what is taken from before, and what the table and the picture say."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftk import HftkConfig, HftkModel
from hftk.cli import main
from hftk.compare import PRINTED, compare, planned_runs, read_vary
from hftk.data.tokenizer import TokenizerArguments, train_tokenizer
from hftk.errors import UsageError
from hftk.report.plots import frontier
from hftk.tasks.rows import write_rows

KOREAN = Path(__file__).with_name("korean.txt")
SIZES = {name: 1 for name in ("encoder_layers", "decoder_layers")} | {
    name: 2 for name in ("encoder_attention_heads", "decoder_attention_heads")
}
SIZES |= {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
QUIET = "use_cpu: true, disable_tqdm: true, save_strategy: 'no'"


@pytest.fixture
def pretraining(tmp_path):
    """The file of a tiny recipe of pretraining; its text is `tmp_path`/text.txt."""
    (tmp_path / "text.txt").write_text(KOREAN.read_text("utf-8"), "utf-8")
    path = tmp_path / "pretrain.yaml"
    path.write_text(f"""
output: {tmp_path}/runs
model: {json.dumps(SIZES)}
tokenizer: {{vocab_size: 500}}
data: {{train_files: [{tmp_path}/text.txt], validation_share: 0.2, max_source_length: 64, max_target_length: 64}}
runtime: {{dtype: float32, attn_implementation: sdpa, seconds_per_step: 1.0}}
training: {{max_steps: 2, per_device_train_batch_size: 2, logging_steps: 1, {QUIET}}}
""")
    return path


@pytest.fixture
def finetuning(tmp_path):
    """The file of a tiny recipe of fine-tuning, from the checkpoint `tmp_path`/model."""
    rows = [{"text": f"{word} {place}", "label": word} for word in ("good", "bad") for place in range(8)]
    write_rows(rows, tmp_path / "rows.jsonl")
    tokenizer = train_tokenizer(iter([row["text"] for row in rows]), TokenizerArguments(vocab_size=400), 64)
    tokenizer.save_pretrained(tmp_path / "model")
    HftkModel(HftkConfig(vocab_size=len(tokenizer), **SIZES)).save_pretrained(tmp_path / "model")
    path = tmp_path / "finetune.yaml"
    path.write_text(f"""
output: {tmp_path}/runs
model: {tmp_path}/model
task: {{name: n21}}
data: {{train_files: [{tmp_path}/rows.jsonl], test_files: [{tmp_path}/rows.jsonl], validation_share: 0.2}}
training: {{max_steps: 2, per_device_train_batch_size: 4, {QUIET}}}
""")
    return path


def made_before(recipe: Path, vary: dict[str, list[str]], *metrics: dict[str, float]) -> None:
    """Leaves what runs with these metrics would have left."""
    for run, numbers in zip(planned_runs(recipe, vary, []), metrics, strict=True):
        run.folder.mkdir(parents=True)
        (run.folder / PRINTED).touch()
        (run.folder / "depends.json").write_text(run.depends, "utf-8")
        (run.folder / "metrics.json").write_text(json.dumps(numbers))


def depends(recipe: Path, *overrides: str) -> str:
    [run] = planned_runs(recipe, {"seed": ["1"]}, list(overrides))
    return run.depends


def folders(recipe: Path, **vary: list[str]) -> list[str]:
    return [run.folder.name for run in planned_runs(recipe, {key.replace("__", "."): vary[key] for key in vary}, [])]


def test_values_are_parted_by_the_commas_between_them():
    vary = read_vary(["transfer={method: lora},{method: full, peft: {r: 8, a: [1, 2]}}, {}", "seed=1", "seed=2"])
    assert vary == {
        "transfer": ["{method: lora}", "{method: full, peft: {r: 8, a: [1, 2]}}", "{}"],
        "seed": ["1", "2"],
    }
    assert read_vary(["a=1e-3,null,'x,y',[b, c],한국어"]) == {"a": ["1e-3", "null", "x,y", "[b, c]", "한국어"]}


@pytest.mark.parametrize("option", ["seed", "seed=", "seed=1,,2", "seed=[1", "seed={a: 1"])
def test_what_cannot_be_parted_is_refused(option):
    with pytest.raises(UsageError, match="KEY=A,B"):
        read_vary([option])


def test_several_keys_are_combined_and_a_mapping_is_laid_over_the_recipe(pretraining):
    runs = planned_runs(pretraining, {"model": ["{norm_type: rms_norm, dropout: 0.1}", "{}"], "seed": ["1", "2"]}, [])
    assert [run.values["seed"] for run in runs] == ["1", "2", "1", "2"]
    assert [run.folder.name for run in runs][1:3] == ["model-norm_type_rms_norm_dropout_0.1_seed-2", "model-_seed-1"]
    recipe = json.loads(runs[1].depends)["recipe"]
    assert recipe["seed"] == 2 and recipe["model"] == SIZES | {"norm_type": "rms_norm", "dropout": 0.1}
    assert json.loads(runs[2].depends)["recipe"]["model"] == SIZES


def test_a_mapping_may_be_laid_over_the_whole_recipe(pretraining):
    [run] = planned_runs(pretraining, {".": ["{model.norm_type: rms_norm, training: {learning_rate: 0.5}}"]}, [])
    recipe = json.loads(run.depends)["recipe"]
    assert recipe["model"] == SIZES | {"norm_type": "rms_norm"} and recipe["training"]["learning_rate"] == 0.5
    assert run.folder.name == "model.norm_type_rms_norm_training_learning_rate_0.5"


def test_folders_are_short_and_each_value_has_its_own(pretraining):
    assert folders(pretraining, data__text_column=["a b", "a/b", "c"]) == ["text_column-a_b", "text_column-a_b_"] + [
        "text_column-c"
    ]
    assert len(folders(pretraining, data__text_column=["x" * 300])[0]) == 60
    assert len(folders(pretraining, seed=["1", "1", "2"])) == 2


def test_a_run_depends_on_its_recipe_and_on_what_is_in_its_files(finetuning, tmp_path):
    known = depends(finetuning)
    assert depends(finetuning, "--output", "elsewhere") == known
    assert depends(finetuning, "--training.learning_rate", "0.1") != known
    rows = (tmp_path / "rows.jsonl").read_text()
    (tmp_path / "rows.jsonl").write_text(rows.replace("good", "nice"))
    assert depends(finetuning) != known
    (tmp_path / "rows.jsonl").write_text(rows)
    (tmp_path / "model" / "log.jsonl").write_text("{}")
    assert depends(finetuning) == known
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()
    (tmp_path / "model" / "model.safetensors").write_bytes(weights[:-1] + b"?")
    assert depends(finetuning) != known


def test_a_folder_and_a_glob_stand_for_their_files(pretraining, tmp_path):
    for place in (tmp_path, f"{tmp_path}/t*.txt"):
        assert list(json.loads(depends(pretraining, f"--data.train_files={place}"))["files"]).count(
            f"{tmp_path}/text.txt"
        )


def test_the_table_tells_score_cost_and_forgetting(finetuning, tmp_path, capsys):
    vary = {"training.learning_rate": ["1e-3", "1e-4"]}
    both = {"eval_loss": 1.0, "eval_accuracy": 0.1, "test_loss": 1.0}
    seeds = {"minutes_std": 0.5, "trainable_parameters_std": 0.0, "retention_after_std": 0.25}
    made_before(
        finetuning,
        vary,
        both
        | seeds
        | {"test_accuracy": 0.75, "test_f1": 0.5, "test_accuracy_std": 0.125, "minutes": 2.0, "peak_memory_gb": 1.5}
        | {"trainable_parameters": 12345, "retention_before": 2.0, "retention_after": 2.5},
        both | {"test_accuracy": 0.5, "test_f1": 0.625},
    )
    first, second = compare(finetuning, vary, [])
    assert first["test_accuracy"] == 0.75 and first["test_accuracy_std"] == 0.125 and first["error"] is None
    assert first["forgetting"] == 0.5 and first["forgetting_std"] == 0.25 and second["forgetting"] is None
    runs = tmp_path / "runs"
    assert json.loads((runs / "compare.json").read_text()) == [first, second]
    table = (runs / "compare.md").read_text().splitlines()
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]] == [
        ["1e-3", "0.75 ± 0.12", "2.00 ± 0.5", "12,345", "1.50", "+0.500 ± 0.25"],
        ["1e-4", "0.5", "–", "–", "–", "–"],
    ]
    assert len({len(line) for line in table}) == 1
    assert (runs / "compare.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert printed.count("taken from before") == 2 and table[0] in printed

    assert [row["test_f1"] for row in compare(finetuning, vary, [], "test_f1")] == [0.5, 0.625]
    with pytest.raises(UsageError, match="--score test_las: .*test_accuracy"):
        compare(finetuning, vary, [], "test_las")
    compare(finetuning, {"training.learning_rate": ["1e-4"]}, [])
    assert not (runs / "compare.png").exists()  # forgetting was not measured


def test_the_same_run_is_not_made_again_for_another_key(pretraining, tmp_path):
    made_before(pretraining, {"seed": ["42"]}, {"eval_bits_per_byte": 2.0})
    [row] = compare(pretraining, {"training.max_steps": ["2"]}, [])
    assert row["eval_bits_per_byte"] == 2.0 and row["folder"] == f"{tmp_path}/runs/seed-42"


def test_pictures_are_drawn_of_what_was_logged(pretraining, tmp_path):
    vary, runs = {"model.residual": ["true", "false"]}, tmp_path / "runs"
    made_before(pretraining, vary, {"eval_bits_per_byte": 2.0}, {"eval_bits_per_byte": 3.0})
    steps = [{"step": 1, "loss": 3.0, "grad_norm": 2.0}, {"step": 2, "loss": 1.0, "grad_norm": float("nan")}]
    layers = {"grad_norm_encoder.layers.0": 0.1, "grad_norm_encoder.layers.1": 0.0}
    log = [*[line | layers for line in steps], {"step": 2, "eval_loss": 3.0, "eval_shuffled_loss": 3.5}]
    for name, lines in (("true", log), ("false", steps)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (runs / f"residual-{name}" / "log.jsonl").write_text(text)
    compare(pretraining, vary, [])
    for picture in ("compare.png", "gradients.png"):
        assert (runs / picture).read_bytes().startswith(b"\x89PNG")
    compare(pretraining, {"model.residual": ["false"]}, [])
    assert (runs / "compare.png").exists() and not (runs / "gradients.png").exists()


def test_without_test_rows_the_score_is_that_of_the_validation_rows(finetuning):
    made_before(finetuning, {"seed": ["1"]}, {"train_loss": 1.0, "eval_loss": 1.0, "eval_uas": 0.5, "eval_las": 0.25})
    [row] = compare(finetuning, {"seed": ["1"]}, [])
    assert row["eval_uas"] == 0.5 and "eval_las" not in row


@given(st.lists(st.tuples(*2 * [st.integers(0, 4).map(float)]), min_size=1, max_size=8), st.booleans())
def test_the_frontier_is_what_no_other_point_beats(points, lower):
    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        better = one[1] <= other[1] if lower else one[1] >= other[1]
        return one != other and one[0] <= other[0] and better

    found = [points[index] for index in frontier(points, lower)]
    assert set(found) == {point for point in points if not any(beats(other, point) for other in points)}
    assert found == sorted(set(found))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--vary KEY=A,B"),
        (["--vary", "output=a,b"], "but for output"),
        (["--vary", "model.norm_tpye=a"], "unknown key 'model.norm_tpye'; did you mean 'norm_type'?"),
        (["--vary", "model={norm_tpye: a}"], "unknown key 'model.norm_tpye'; did you mean 'norm_type'?"),
        (["--vary", "seed=1,x"], "seed: expected int, not x"),
        (["--vary", "seed=1", "--data.packing", "perhaps"], "data.packing: expected bool, not perhaps"),
    ],
)
def test_a_mistake_is_one_line_before_anything_runs(arguments, message, pretraining, tmp_path, capsys):
    assert main(["compare", str(pretraining), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
    assert not (tmp_path / "runs").exists()


def test_what_is_not_of_a_comparison_is_left_alone(pretraining, tmp_path, capsys):
    precious = tmp_path / "runs" / "seed-2" / "model.safetensors"
    precious.parent.mkdir(parents=True)
    precious.touch()
    assert main(["compare", str(pretraining), "--vary", "seed=1,2"]) == 2
    assert "seed-2 was not made by a comparison" in capsys.readouterr().err
    assert precious.exists() and not (tmp_path / "runs" / "seed-1").exists()


def test_help_says_what_is_varied(capsys):
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    help = capsys.readouterr().out
    assert help.startswith("usage: hftk compare RECIPE --vary KEY=A,B,…") and "hftk finetune" in help


@pytest.mark.slow
def test_only_what_is_new_runs_and_one_that_fails_leaves_the_others(pretraining, tmp_path, capsys):
    def stamp() -> int:
        return (tmp_path / "runs" / "norm_type-rms_norm" / "metrics.json").stat().st_mtime_ns

    command = ["compare", str(pretraining), "--vary"]
    assert main([*command, "model.norm_type=rms_norm"]) == 0
    first = stamp()
    assert main([*command, "model.norm_type=rms_norm,batch_norm"]) == 1
    assert stamp() == first
    rms_norm, batch_norm = json.loads((tmp_path / "runs" / "compare.json").read_text())
    assert rms_norm["eval_bits_per_byte"] > 0 and rms_norm["minutes"] > 0 and rms_norm["error"] is None
    assert batch_norm["eval_bits_per_byte"] is None
    assert batch_norm["error"].startswith("exit status 2: model.norm_type: batch_norm would mix")
    printed = capsys.readouterr().out
    assert "rms_norm: taken from before" in printed and batch_norm["error"] in printed
    assert (tmp_path / "runs" / "compare.png").exists()
    with (tmp_path / "text.txt").open("a", encoding="utf-8") as text:
        text.write("한 줄이 더 있다.\n")
    assert main([*command, "model.norm_type=rms_norm"]) == 0
    assert stamp() > first


@pytest.mark.slow
def test_fine_tuning_is_compared_too(finetuning, tmp_path, capsys):
    command = ["compare", str(finetuning), "--vary", "training.learning_rate=1e-2,0.0"]
    assert main(command) == 0
    assert main(command) == 0
    assert capsys.readouterr().out.count("taken from before") == 2
    rows = json.loads((tmp_path / "runs" / "compare.json").read_text())
    for row in rows:
        metrics = json.loads(Path(row["folder"], "metrics.json").read_text())
        assert row["test_accuracy"] == metrics["test_accuracy"]
    assert (tmp_path / "runs" / "learning_rate-1e-2" / "recipe.yaml").exists()
