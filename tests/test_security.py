"""What a stranger's file must not do: no code of hftk unpickles, evaluates, or trusts what it was not told to trust."""

import ast
from pathlib import Path

import pytest

HFTK = Path(__file__).parents[1] / "hftk"
UNPICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
RUNS_CODE = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"}
# what a call must say, and what it must not
MUST_SAY = {"torch.load": ("weights_only", True)}
MUST_NOT_SAY = {"allow_pickle": True, "trust_remote_code": True, "weights_only": False, "shell": True}


def dotted(node: ast.expr) -> str:
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def dangers(code: str) -> list[str]:
    """What in this code could run what it reads, as `line: what`."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            names = {(module or alias.name).partition(".")[0] for alias in node.names}
            found += [f"{node.lineno}: imports {name}" for name in names & UNPICKLES]
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            said = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
            if name in RUNS_CODE:
                found.append(f"{node.lineno}: calls {name}")
            if name in MUST_SAY and (MUST_SAY[name][0], MUST_SAY[name][1]) not in said.items():
                found.append(f"{node.lineno}: {name} without {MUST_SAY[name][0]}={MUST_SAY[name][1]}")
            found += [f"{node.lineno}: {key}={value}" for key, value in MUST_NOT_SAY.items() if said.get(key) is value]
    return found


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "numpy.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "yaml.load(text, Loader)",
        "def answer(text):\n    return eval(text)",
    ],
)
def test_a_danger_is_seen(code):
    assert dangers(code)


@pytest.mark.parametrize("path", sorted(HFTK.rglob("*.py")), ids=lambda path: str(path.relative_to(HFTK)))
def test_nothing_runs_what_it_reads(path):
    assert not dangers(path.read_text(encoding="utf-8"))
