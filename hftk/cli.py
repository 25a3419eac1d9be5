"""
The command line. A command imports what it needs when it runs: torch takes seconds that `hftk --help` does not have.

Exit status: 0 when what was asked was done, 1 when a run of a comparison failed, converted weights are not proved equal
or a checkpoint is not what it was, 2 for a mistake that one line on standard error tells, 130 after Ctrl-C, 143 when
SIGTERM has ended a training, whose last step is saved.
"""

import argparse
import errno
import gc
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from hftk.errors import UsageError
from hftk.recipe_files import copy_recipe, find_recipe, list_recipes

NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
LONGEST = 1500  # characters of a message


def main(arguments: list[str] | None = None) -> int:
    """
    Runs one command.

    Args:
        arguments (`list[str]`, *optional*):
            By default those of the process.

    Returns:
        `int`: the exit status.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    try:
        options, overrides = _parser().parse_known_args([argument for argument in arguments if argument != "--debug"])
        if overrides and not options.takes_recipe:
            raise UsageError(f"unrecognized arguments: {' '.join(overrides)}; see hftk {options.command} --help")
        status: int | None = options.run(options, overrides)
        sys.stdout.flush()
        return status or 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough: `hftk recipes ls | head -1`
        _drop_output()
        return 0
    except UsageError as error:
        if debug:
            raise
        return _fail(str(error))
    except OSError as error:
        if debug or error.errno not in NOT_WRITABLE:
            raise
        if error.filename is None:
            _drop_output()
        return _fail(f"{os.strerror(error.errno)}: {error.filename or 'cannot write any further'}")


def _drop_output() -> None:
    """Forgets what waits to be printed: it has nowhere to go, and Python would fail on it once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str) -> int:
    """One line, whatever a broken file made a library say."""
    line = " ".join(message.split())
    line = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)
    print("hftk:", line if len(line) <= LONGEST else f"{line[:LONGEST]} …", file=sys.stderr)
    return 2


def quickstart(options: argparse.Namespace, overrides: list[str]) -> None:
    """The whole story on real text, in minutes, without a network."""
    from hftk.quickstart import quickstart

    quickstart(options.output)


def tokenizer(options: argparse.Namespace, overrides: list[str]) -> None:
    """Train the tokenizer of a pretraining recipe."""
    from hftk.pretrain import make_tokenizer

    make_tokenizer(_load(options, overrides))


def prepare(options: argparse.Namespace, overrides: list[str]) -> None:
    """Raw text of any size to the corpus of a pretraining, near-duplicates dropped."""
    from hftk.prepare import prepare

    recipe = _load(options, overrides)
    prepare(recipe, options.engine, options.tasks, options.workers, options.stage, options.rank)


def pretrain(options: argparse.Namespace, overrides: list[str]) -> None:
    """Raw text to a checkpoint."""
    from hftk.pretrain import pretrain
    from hftk.training.guards import in_one_line

    recipe = _load(options, overrides)
    with in_one_line(recipe.training):
        pretrain(recipe, resume=options.resume)


def finetune(options: argparse.Namespace, overrides: list[str]) -> None:
    """A checkpoint and labelled text to a task model."""
    from hftk.finetune import finetune
    from hftk.finetune_recipe import load_finetune_recipe
    from hftk.training.guards import in_one_line

    recipe = load_finetune_recipe(find_recipe(options.recipe), overrides)
    with in_one_line(recipe.training):
        finetune(recipe, resume=options.resume)


def evaluate(options: argparse.Namespace, overrides: list[str]) -> None:
    """The scores of a task model on labelled rows."""
    from hftk.evaluate import evaluate

    evaluate(options.directory, options.data, options.metric)


def predict(options: argparse.Namespace, overrides: list[str]) -> None:
    """Rows in, the same rows with a task model's predictions out."""
    gc.set_threshold(100_000, 50, 50)  # to search all that is imported takes as long as to predict hundreds of rows
    from hftk.predict import predict

    predict(options.directory, options.input, options.output, options.format)


def plan(options: argparse.Namespace, overrides: list[str]) -> None:
    """Parameters, memory, speed and hours of a recipe, before anything is spent."""
    from hftk.plan import plan

    for name, value in plan(find_recipe(options.recipe), overrides, options.gpu, options.gpus, options.price).items():
        print(f"{name}: {value:,.4g}" if isinstance(value, float) else f"{name}: {value}")


def compare(options: argparse.Namespace, overrides: list[str]) -> int:
    """One recipe, a key varied: what each value scores, costs and forgets."""
    from hftk.compare import compare, read_vary

    rows = compare(find_recipe(options.recipe), read_vary(options.vary), overrides, options.score)
    return int(any(row["error"] for row in rows))


def inspect(options: argparse.Namespace, overrides: list[str]) -> None:
    """Show which tensors a file or folder of weights holds."""
    from hftk.convert.listing import listing
    from hftk.convert.readers import open_weights

    for line in listing(open_weights(options.source)):
        print(line)


def convert(options: argparse.Namespace, overrides: list[str]) -> int:
    """Weights from one program's form to another's, with a proof."""
    from hftk.convert.conversion import convert, write_report
    from hftk.convert.printing import summary

    report = convert(
        options.source,
        options.target,
        names=options.names,
        to=options.to,
        arch=options.arch,
        config=options.config,
        reference=options.reference,
        atol=options.atol,
        dtype=options.dtype,
        allow=options.allow,
        max_new_tokens=options.max_new_tokens,
        dry_run=options.dry_run,
    )
    if options.report:
        write_report(report, options.report)
    for line in summary(report):
        print(line)
    return int(not report.ok)


def push(options: argparse.Namespace, overrides: list[str]) -> None:
    """A run's folder to the Hub: lists what goes and what stays, then sends it as one commit."""
    from hftk.hub.push import METRICS, push, push_metric

    if options.directory in METRICS:
        push_metric(options.directory, options.repo, options.private)
        return
    push(options.directory, options.repo, options.private, options.revision, options.base)


def verify(options: argparse.Namespace, overrides: list[str]) -> int:
    """Is a checkpoint still what was saved, and does it still answer the same?"""
    from hftk.hub.fingerprint import verify
    from hftk.hub.repository import folder_of

    differences = verify(folder_of(options.checkpoint, options.revision))
    for line in differences or [f"{options.checkpoint}: as it was saved"]:
        print(line)
    return int(bool(differences))


def recipes_ls(options: argparse.Namespace, overrides: list[str]) -> None:
    """List the recipes that hftk carries."""
    for name, comment in list_recipes():
        print(f"{name:24} {comment}")


def recipes_cp(options: argparse.Namespace, overrides: list[str]) -> None:
    """Copy one of them, to change it."""
    copy_recipe(options.name, options.file)


def _load(options: argparse.Namespace, overrides: list[str]) -> Any:
    from hftk.recipe import PretrainRecipe, load_recipe

    return load_recipe(find_recipe(options.recipe), overrides, PretrainRecipe)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


class _RecipeHelp(argparse.Action):
    """Prints the help of a command and of all the keys of its recipe."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> None:
        from hftk.finetune_recipe import RECIPES
        from hftk.recipe import PretrainRecipe, recipe_parser

        print(parser.format_help())
        if parser.prog.endswith("finetune"):
            for name, recipe_class in RECIPES.items():
                print(f"The keys of a recipe with task.name {name}:\n")
                print(recipe_parser(recipe_class).format_help())
        elif not parser.prog.endswith(("compare", "plan")):  # whose recipe is one of the others'
            print(recipe_parser(PretrainRecipe).format_help())
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="hftk", allow_abbrev=False, description="Pretrain a Transformer, fine-tune it, use it.")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(
        run: Any, to: Any = commands, name: str | None = None, takes_recipe: bool = False
    ) -> argparse.ArgumentParser:
        added = to.add_parser(
            name or run.__name__,
            help=run.__doc__,
            description=run.__doc__,
            allow_abbrev=False,
            add_help=not takes_recipe,
        )
        added.set_defaults(run=run, takes_recipe=takes_recipe)
        if takes_recipe:
            added.usage = "%(prog)s RECIPE [--key value …]"
            added.add_argument("-h", "--help", action=_RecipeHelp, nargs=0, help="show this, and the recipe's keys")
            added.add_argument(
                "recipe", metavar="RECIPE", help="a YAML file, a name that `hftk recipes ls` lists, or a repository"
            )
        return added

    add(quickstart).add_argument("--output", required=True, metavar="DIR", help="folder for all that it makes")
    add(tokenizer, takes_recipe=True)
    preparing = add(prepare, takes_recipe=True)
    preparing.usage = "%(prog)s RECIPE [--engine local|ray|slurm] [--key value …]"
    preparing.add_argument("--engine", default="local", metavar="ENGINE", help="local (default), ray or slurm")
    preparing.add_argument("--tasks", type=int, metavar="N", help="parts of the text, and shards (default: workers)")
    preparing.add_argument("--workers", type=int, metavar="N", help="tasks at once (default: one a processor)")
    preparing.add_argument("--stage", metavar="NAME", help="this one alone, as the Slurm scripts do, and of it")
    preparing.add_argument("--rank", type=int, metavar="N", help="this task alone")
    for training in (pretrain, finetune):
        add(training, takes_recipe=True).add_argument(
            "--resume", action="store_true", help="go on where a run was cut off"
        )
    evaluating = add(evaluate)
    evaluating.add_argument("directory", metavar="DIR_OR_REPO", help="what `hftk finetune` wrote")
    evaluating.add_argument("--data", nargs="+", required=True, metavar="FILE", help="labelled rows")
    evaluating.add_argument("--metric", metavar="REPO", help="one of the Hub too, for trees; its code is run")
    predicting = add(predict)
    predicting.add_argument(
        "directory", nargs="+", metavar="DIR_OR_REPO", help="what `hftk finetune` wrote; several over one backbone"
    )
    predicting.add_argument("--input", default="-", metavar="FILE", help="rows; - is standard input (default)")
    predicting.add_argument("--output", default="-", metavar="FILE", help="- is standard output (default)")
    predicting.add_argument(
        "--format",
        choices=["rows", "text", "svg"],
        help="rows as they came, or for the eye text (default on a terminal) or a drawing of trees or entities",
    )

    planning = add(plan, takes_recipe=True)
    planning.usage = "%(prog)s RECIPE [--gpu NAME --gpus N --price P] [--key value …]"
    planning.add_argument("--gpu", metavar="NAME", help="estimate it for these instead of measuring it here: h100, …")
    planning.add_argument("--gpus", type=int, default=1, metavar="N", help="how many (default 1)")
    planning.add_argument("--price", type=float, metavar="P", help="of an hour of one of them, or of this machine")

    comparing = add(compare, takes_recipe=True)
    comparing.usage = "%(prog)s RECIPE --vary KEY=A,B,… [--key value …]"
    comparing.epilog = "The recipe is one of hftk pretrain or hftk finetune; their --help lists its keys."
    comparing.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="KEY=A,B,…",
        help="transfer.method=full,lora; of several, all pairs",
    )
    comparing.add_argument("--score", metavar="NAME", help="a number of metrics.json, test_las for one")
    add(inspect).add_argument(
        "source", metavar="SRC", help="weights of torch, TensorFlow or Keras, or a folder with them"
    )
    converting = add(convert)
    converting.add_argument("source", metavar="SRC", help="what hftk inspect shows")
    converting.add_argument("target", metavar="DST", help="a new folder")
    converting.add_argument("--from", dest="names", metavar="NAMES", help="whose names SRC has: torch, tf, google, …")
    converting.add_argument(
        "--to",
        metavar="FORM",
        help="torch, hftk or tf; from hftk also keras, savedmodel, ctranslate2; from TensorFlow, torch is the default",
    )
    converting.add_argument(
        "--arch", metavar="CLASS", help="of transformers: BertForMaskedLM; by default that of the config"
    )
    converting.add_argument("--config", metavar="FILE", help="by default what lies beside the weights")
    converting.add_argument("--reference", metavar="io.npz", help="what the original computes, to compare with")
    converting.add_argument("--atol", type=float, default=2e-5, help="largest difference from it (default 2e-5)")
    converting.add_argument("--dtype", help="float32, float16 or bfloat16; by default as it is")
    converting.add_argument(
        "--allow", nargs="+", default=[], metavar="NAME", help="tensors that may be left over or missing"
    )
    converting.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="of a SavedModel's generate; by default as the model says"
    )
    converting.add_argument("--dry-run", action="store_true", help="read and write no tensor")
    converting.add_argument("--report", type=Path, metavar="FILE", help="as JSON; DST/conversion.json has it too")

    pushing = add(push)
    pushing.add_argument("directory", metavar="DIR", help="what hftk wrote; or parsing_scores, subject_scores")
    pushing.add_argument("repo", metavar="REPO", help="OWNER/NAME; is made if there is none")
    pushing.add_argument("--private", action="store_true", help="make it private")
    pushing.add_argument("--revision", metavar="BRANCH", help="is made if there is none (default: main)")
    pushing.add_argument("--base", metavar="REPO", help="where the checkpoint that the run started from was pushed")
    verifying = add(verify)
    verifying.add_argument("checkpoint", metavar="DIR_OR_REPO", help="what hftk wrote or pushed")
    verifying.add_argument("--revision", metavar="R", help="of a repository: a branch or a commit")

    recipes = commands.add_parser("recipes", help="List and copy the recipes that hftk carries.", allow_abbrev=False)
    recipes_commands = recipes.add_subparsers(required=True, metavar="ls | cp")
    add(recipes_ls, recipes_commands, "ls")
    copying = add(recipes_cp, recipes_commands, "cp")
    copying.add_argument("name", metavar="NAME", help="as `hftk recipes ls` lists it")
    copying.add_argument("file", metavar="FILE", help="where to; must not exist")
    return parser
