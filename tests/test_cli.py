import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

from hftk.cli import main
from hftk.errors import UsageError

# hftk/__init__.py registers models and so imports torch; what cli.py itself costs shows without it.
WITHOUT_INIT = """
import importlib.util, sys
spec = importlib.util.find_spec("hftk")
sys.modules["hftk"] = importlib.util.module_from_spec(spec)
from hftk.cli import main
status = main(sys.argv[1:])
assert not {"torch", "transformers", "yaml", "jsonargparse"} & set(sys.modules)
sys.exit(status)
"""


def run(*arguments: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", WITHOUT_INIT, *arguments]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60, env=buffered)


def test_recipes_are_listed_without_heavy_imports():
    done = run("recipes", "ls")
    assert (done.returncode, done.stderr) == (0, "")
    assert any(line.startswith("pretrain/debug ") for line in done.stdout.splitlines())


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--help"])
    assert exit.value.code == 0
    help = capsys.readouterr().out
    for command in ("quickstart", "tokenizer", "pretrain", "finetune", "predict", "recipes"):
        assert re.search(rf"\n    {command}\s+\S", help)


@pytest.mark.parametrize("command", ["tokenizer", "pretrain", "finetune"])
def test_help_of_a_recipes_command_lists_its_keys(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    help = capsys.readouterr().out
    assert help.startswith(f"usage: hftk {command} RECIPE")
    assert "--data.train_files" in help
    assert "--training.learning_rate" in help


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND; see hftk --help"),
        (["pretran"], "invalid choice: 'pretran'"),
        (["pretrain"], "required: RECIPE; see hftk pretrain --help"),
        (["pretrain", "no/such"], "no/such: no such file and no such recipe"),
        (["predict", "run", "--intput", "x"], "unrecognized arguments: --intput x; see hftk predict --help"),
        (["quickstart"], "required: --output"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(arguments, message, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("hftk: ") and err.count("\n") == 1
    assert message in err


def test_a_mistake_in_a_recipe_names_file_and_line(tmp_path, capsys):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("output: run\nmodel:\n  d_modle: 64\n")
    assert main(["pretrain", str(recipe)]) == 2
    assert capsys.readouterr().err == f"hftk: {recipe}:3: unknown key 'model.d_modle'; did you mean 'd_model'?\n"


def test_debug_shows_the_traceback(tmp_path):
    for arguments in (["--debug", "pretrain", "no/such"], ["pretrain", "no/such", "--debug"]):
        with pytest.raises(UsageError):
            main(arguments)


def test_copying_refuses_to_overwrite(tmp_path, capsys):
    copy = str(tmp_path / "copy.yaml")
    assert main(["recipes", "cp", "pretrain/debug", copy]) == 0
    assert main(["recipes", "cp", "pretrain/debug", copy]) == 2
    assert f"{copy} exists" in capsys.readouterr().err


def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        done = run("recipes", "ls", stdout=full.fileno())
    assert done.returncode == 2
    assert done.stderr == "hftk: No space left on device: cannot write any further\n"


def test_an_unwritable_place_is_one_line(capsys):
    assert main(["recipes", "cp", "pretrain/debug", "/sys/copy"]) == 2
    assert re.fullmatch(
        r"hftk: (Permission denied|Read-only file system|.* not permitted): /sys/copy\n", capsys.readouterr().err
    )


def test_a_reader_that_stops_reading_is_no_error():
    command = f"{sys.executable} -c '{WITHOUT_INIT}' recipes ls | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_exits_with_130(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("hftk.cli.list_recipes", interrupted)
    assert main(["recipes", "ls"]) == 130


def test_the_module_runs_too():
    assert find_spec("hftk.__main__") is not None
