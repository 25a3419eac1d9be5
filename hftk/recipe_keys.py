"""What jsonargparse does not tell about a recipe: the line where a key stands, and the key that was probably meant."""

import difflib
import json
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from hftk.errors import UsageError
from hftk.model.configuration_hftk import HftkConfig

# A folder or a Hub id to start from; or what to build: a `preset`, and fields of `HftkConfig` laid over it.
ModelArguments = str | dict[str, Any]

# These two of `TrainingArguments` belong to every command, trainer or not, so a recipe gives them at its top.
GIVEN_ELSEWHERE = {"training.output_dir": "output", "training.seed": "seed"}


@dataclass
class Given:
    """Where a key was given (`recipes/x.yaml:12` or `command line`) and the text that stands there."""

    place: str
    text: str


def known_keys(recipe_class: type, section: str = "") -> dict[str, Any]:
    """
    Every key that a recipe may give, with its type.

    Args:
        recipe_class (`type`):
            A dataclass. Its fields are values or, for a section of the recipe, dataclasses.
        section (`str`, *optional*, defaults to `""`):
            What stands before each key, `training.` for one.

    Returns:
        `dict[str, Any]`: dotted key (`training.max_steps`) to type (`int`).
    """
    hints = get_type_hints(recipe_class)
    known: dict[str, Any] = {}
    for name in [field.name for field in fields(recipe_class) if field.init]:
        key, hint = section + name, hints[name]
        if isinstance(hint, type) and is_dataclass(hint):
            known |= known_keys(hint, f"{key}.")
        elif key not in GIVEN_ELSEWHERE:
            known[key] = hint
        if hint == ModelArguments:
            known |= {f"{key}.{name}": Any for name in ["preset", *(field.name for field in fields(HftkConfig))]}
    return known


def read_file_keys(path: Path, known: dict[str, Any]) -> dict[str, Given]:
    """
    What a recipe's file gives, read without building any value.

    Args:
        path (`Path`):
            A YAML file.
        known (`dict[str, Any]`):
            The result of [`known_keys`].

    Returns:
        `dict[str, Given]`: by dotted key.

    Raises:
        UsageError: If the file cannot be read, is not YAML, or holds a key that is unknown or there twice.
    """
    try:
        text = path.read_bytes().decode()
        root = yaml.SafeLoader(text).get_single_node()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{line}: this is not UTF-8; save the file as UTF-8") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UsageError(f"{path}:{line}: this is not YAML: {error.reason}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{path}:{line}: this is not YAML: {error.problem}") from error
    if not isinstance(root, yaml.MappingNode):
        raise UsageError(f"{path}:1: a recipe is lines of `key: value`; see the ones that `hftk recipes ls` lists")
    return dict(_given_below(root, "", path, text, known))


def _given_below(
    mapping: yaml.MappingNode, section: str, path: Path, text: str, known: dict[str, Any]
) -> Iterator[tuple[str, Given]]:
    names = set()
    for name_node, node in mapping.value:
        place = f"{path}:{name_node.start_mark.line + 1}"
        name = str(name_node.value)
        key = section + name
        if "." in name:
            raise UsageError(f"{place}: '{name}': in a file the keys of a section stand below it, indented")
        if not (key in known or _is_section(key, known)):
            raise UsageError(f"{place}: {_unknown(key, known)}")
        if name in names:
            raise UsageError(f"{place}: the key '{key}' is given twice; remove one of the lines")
        names.add(name)
        if _is_section(key, known) and isinstance(node, yaml.MappingNode):
            yield from _given_below(node, f"{key}.", path, text, known)
        elif key in known:
            yield key, Given(place, text[node.start_mark.index : node.end_mark.index])
        else:
            raise UsageError(f"{place}: '{key}' is a section; give keys below it, indented, or remove the line")


def read_overrides(
    overrides: Sequence[str], known: dict[str, Any], given: dict[str, Given]
) -> tuple[list[str], dict[str, Given]]:
    """
    What the command line gives: `--key value`, `--key=value`, for a list also `--key value value …` and `--key+ value`
    (one more).

    Args:
        overrides (`Sequence[str]`):
            The arguments after the recipe.
        known (`dict[str, Any]`):
            The result of [`known_keys`].
        given (`dict[str, Given]`):
            What the file gives.

    Returns:
        `tuple[list[str], dict[str, Given]]`: the arguments in the one form that jsonargparse reads, `--key=value` with
        a list as JSON; and what is given when they are laid over the file.

    Raises:
        UsageError: If a key is unknown, lacks a value, or is given more values than it holds.
    """
    arguments: list[str] = []
    given = dict(given)
    for option, values in _split_options(overrides):
        key = option.removesuffix("+")
        parent = key.rpartition(".")[0]
        if key not in known and _is_section(key, known):
            raise UsageError(f"command line: '{key}' is a section; give its keys, as --{key}.… value")
        if key not in known and not _is_free_mapping(parent, known):
            raise UsageError(f"command line: {_unknown(key, known)}")
        if _is_section(parent, known) and parent in given:
            whole = given[parent]
            raise UsageError(
                f"command line: '{key}' has no effect on '{parent}: {whole.text}' ({whole.place}); give one"
            )
        if not values:
            raise UsageError(f"command line: --{option} needs a value")
        if len(values) > 1 and not _accepts(known.get(key), list):
            raise UsageError(f"command line: --{key} takes one value, not {len(values)}: {' '.join(values)}")
        if option == key and _accepts(known.get(key), list) and not _is_whole_value(values, known[key]):
            arguments.append(f"--{key}={json.dumps(values, ensure_ascii=False)}")
        else:
            arguments += [f"--{option}={value}" for value in values]
        given = {other: where for other, where in given.items() if not other.startswith(f"{key}.")}
        given[key if key in known else parent] = Given("command line", " ".join(values))
    return arguments, given


def _split_options(overrides: Sequence[str]) -> list[tuple[str, list[str]]]:
    options: list[tuple[str, list[str]]] = []
    for argument in overrides:
        if argument.startswith("--"):
            name, equals, value = argument.removeprefix("--").partition("=")
            options.append((name, [value] if equals else []))
        elif options:
            options[-1][1].append(argument)
        else:
            raise UsageError(f"command line: '{argument}' follows no --key")
    return options


def type_name(hint: Any) -> str:
    """A type in a reader's words: `int or null`, `bpe or unigram`."""
    if get_origin(hint) is Literal:
        return " or ".join(str(choice) for choice in get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(type_name(member) for member in get_args(hint))
    if hint is types.NoneType:
        return "null"
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)


def accepts_null(hint: Any) -> bool:
    return hint is Any or _accepts(hint, types.NoneType)


def _accepts(hint: Any, kind: type) -> bool:
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return any((get_origin(member) or member) is kind for member in members)


def _is_whole_value(values: list[str], hint: Any) -> bool:
    """Whether one value is not the only item of a list but all that the key holds: `[a, b]`, `null`, `none`."""
    return len(values) == 1 and (values[0].startswith("[") or values[0] == "null" or _accepts(hint, str))


def _is_section(key: str, known: dict[str, Any]) -> bool:
    return any(other.startswith(f"{key}.") for other in known)


def _is_free_mapping(key: str, known: dict[str, Any]) -> bool:
    return not _is_section(key, known) and _accepts(known.get(key), dict)


def _unknown(key: str, known: dict[str, Any]) -> str:
    section, _, name = key.rpartition(".")
    prefix = f"{section}." if section else ""
    siblings = {other.removeprefix(prefix).partition(".")[0] for other in known if other.startswith(prefix)}
    nearest = [other for other in known if other.rpartition(".")[2] == name]  # the right name in a wrong place
    nearest = nearest or difflib.get_close_matches(name, sorted(siblings), n=1)
    if key in GIVEN_ELSEWHERE:
        nearest = [GIVEN_ELSEWHERE[key]]
    return f"unknown key '{key}'; " + (f"did you mean '{nearest[0]}'?" if nearest else "--help lists the keys")
