"""Every field of every settings class: read by its job, and every number with its bounds."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import types
import typing
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import annotated_types
import pytest

import microseg_ray.settings
from microseg_ray.errors import SettingsError
from microseg_ray.settings import JOBS, DataSettings, JobSettings, load_settings
from microseg_ray.settings.base import Frozen
from microseg_ray.settings.data import DataFields

PACKAGE = Path(microseg_ray.settings.__file__).resolve().parent.parent

# A job that makes other settings out of its own, which are then read.
HANDED_ON = {"TuneSettings": ("TrainSettings",), "RecipeSettings": ("TrainSettings",)}
# Read while the settings are made.
AT_ONCE = {("AnnotateSettings", "preset"), ("ModelSettings", "architecture_file")}
# Any number means something: an intensity, or a value that the trial's own settings check.
ANY_NUMBER = {
    *((cls, name) for cls in ("Scaling", "Space") for name in ("low", "high")),
    *(("ThresholdRule", name) for name in ("above", "at_least", "below", "at_most")),
}
# Bounds that a validator of the model checks, with a message that shows the form; see `test_bounds_of_a_validator`.
BY_VALIDATOR = {"splits", "box", "columns"}


@cache
def settings_classes() -> dict[str, type[Frozen]]:
    found: dict[str, type[Frozen]] = {}
    for module in pkgutil.iter_modules(microseg_ray.settings.__path__):
        for name, value in vars(importlib.import_module(f"microseg_ray.settings.{module.name}")).items():
            if isinstance(value, type) and issubclass(value, Frozen):
                found[name] = value
    return found


class _Reads(ast.NodeVisitor):
    """Which attributes of which settings class a module reads.

    `settings.x` counts for the class that the parameter is annotated with; `anything.settings.x`, `x` of a local name
    `settings`, and the name of a field in a tuple count for all classes that the module names.
    """

    def __init__(self, reads: dict[str, set[str]], loose: set[str], named: set[str]) -> None:
        self._reads, self._loose, self._named = reads, loose, named
        self._scopes: list[dict[str, set[str]]] = [{}]

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        scope = dict(self._scopes[-1])
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            scope.pop(argument.arg, None)
            if argument.annotation is not None:
                names = {part.id for part in ast.walk(argument.annotation) if isinstance(part, ast.Name)}
                if names & set(self._reads):
                    scope[argument.arg] = names & set(self._reads)
        self._scopes.append(scope)
        self.generic_visit(node)
        self._scopes.pop()

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._loose.add(node.attr)
        if isinstance(node.value, ast.Name):
            # A local `settings` is taken out of an object that holds them.
            local = self._named if node.value.id == "settings" else set()
            for name in self._scopes[-1].get(node.value.id, local):
                self._reads[name].add(node.attr)
        elif isinstance(node.value, ast.Attribute) and node.value.attr in {"settings", "_settings"}:
            for name in self._named:
                self._reads[name].add(node.attr)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self._loose.add(node.value)

    def visit_Tuple(self, node: ast.Tuple) -> None:
        words = {part.value for part in node.elts if isinstance(part, ast.Constant) and isinstance(part.value, str)}
        for name in self._named:
            self._reads[name] |= words
        self.generic_visit(node)


@cache
def reads_outside_settings() -> tuple[dict[str, set[str]], set[str]]:
    classes = settings_classes()
    reads: dict[str, set[str]] = {name: set() for name in classes}
    loose: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name == "settings":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} & set(classes)
        _Reads(reads, loose, named).visit(tree)
    return reads, loose


def used(cls: type[Frozen]) -> set[str]:
    """Attributes that are read of a class, of its bases, and of what it is handed on as; properties stand for their fields."""
    classes, (reads, _) = settings_classes(), reads_outside_settings()
    own = [name for name, other in classes.items() if issubclass(cls, other)]
    found = set().union(*(reads[name] for name in (*own, *HANDED_ON.get(cls.__name__, ()))))
    for ancestor in cls.__mro__:
        for name, value in vars(ancestor).items():
            if isinstance(value, property) and name in found and value.fget is not None:
                found |= set(value.fget.__code__.co_names)
    if issubclass(cls, DataFields) and "data" in found:
        found |= used(DataSettings)
    return found


@pytest.mark.parametrize("name", JOBS)
def test_every_option_is_read_by_its_job(name: str) -> None:
    cls = JOBS[name]
    # The command line starts Ray with `ray`.
    unread = set(cls.model_fields) - used(cls) - {"ray"}
    assert {field for field in unread if (cls.__name__, field) not in AT_ONCE} == set()


@pytest.mark.parametrize("name", sorted(settings_classes()))
def test_every_field_of_a_section_is_read(name: str) -> None:
    cls = settings_classes()[name]
    if not issubclass(cls, JobSettings):
        _, loose = reads_outside_settings()
        codes = [value.fget.__code__ for value in vars(cls).values() if isinstance(value, property)]
        constants = {
            item for code in codes for part in code.co_consts for item in (part if isinstance(part, tuple) else ())
        }
        inside = constants.union(*(code.co_names for code in codes))
        options = {"options"} & set(vars(cls))  # handed to the architecture as a whole
        unread = set() if options else set(cls.model_fields) - loose - inside
        assert {field for field in unread if (name, field) not in AT_ONCE} == set()


@pytest.mark.parametrize(
    ("job", "options"),
    [
        ("segment", ["--seed", "1"]),
        ("plan", ["--seed", "1"]),
        ("audit", ["--audit", "off"]),
        ("catalog", ["--audit", "off"]),
        ("divide", ["--stratify"]),
        ("divide", ["--splits", "val=0.2"]),
        ("divide", ["--seed", "1"]),
        ("divide", ["--audit", "off"]),
        ("evaluate", ["--audit", "off"]),
        ("classifier", ["--masks", "m"]),
        ("classifier", ["--table", "t"]),
        ("classifier", ["--mask_suffix", "_m"]),
        ("tune", ["--gpu"]),
        ("tune", ["--workers", "2"]),
    ],
)
def test_what_a_job_would_ignore_is_no_option_of_it(job: str, options: list[str]) -> None:
    with pytest.raises(SettingsError, match=rf"{options[0]}: no such option of `{job}`"):
        load_settings(JOBS[job], options)


RUN = ["--run", "r", "--output", "o"]
JUDGED = ["--predictions", "p", "--masks", "m"]


@pytest.mark.parametrize(
    ("job", "options", "message"),
    [
        ("evaluate", [*JUDGED, "--tta"], "tta: goes with checkpoint"),
        ("evaluate", [*JUDGED, "--blend", "hann"], "blend: goes with checkpoint"),
        (
            "evaluate",
            ["--checkpoint", "c", "--images", "i", "--masks", "m", "--prediction_suffix", "x"],
            "prediction_suffix: ",
        ),
        (
            "threshold",
            [*RUN, "--threshold", "0.5", "--class_name", "a", "--scale", "255"],
            "scale: goes with probabilities",
        ),
        ("threshold", [*RUN, "--threshold", "0.5", "--class_name", "a", "--format", "tiff"], "format: goes with"),
        ("probabilities", [*RUN, "--format", "npy", "--csv_pixels", "5"], "csv_pixels: goes with format auto"),
    ],
)
def test_an_option_that_another_one_makes_useless_is_refused(job: str, options: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_settings(JOBS[job], options)


@pytest.mark.parametrize("key", ["workers", "tiles", "ray.num_cpus", "output"])
def test_a_search_over_what_all_trials_share_is_refused(key: str, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"tune: {{tiles: t, output: o, search: {{{key}: [1, 2]}}}}\n")
    with pytest.raises(SettingsError, match=rf"search\.{key}: is the same for all trials"):
        load_settings(JOBS["tune"], [], config)


# --- bounds ---------------------------------------------------------------------------------------------------------
def numbers(annotation: Any, metadata: tuple[Any, ...]) -> list[tuple[type, bool, bool]]:
    """The int and float members of a field's type, each with whether it has a lower and an upper bound."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        unpacked = [part for item in more for part in (item, *getattr(item, "metadata", ()))]
        return numbers(inner, (*metadata, *unpacked))
    if annotation in {int, float}:
        lower = any(isinstance(item, annotated_types.Ge | annotated_types.Gt) for item in metadata)
        upper = any(isinstance(item, annotated_types.Le | annotated_types.Lt) for item in metadata)
        return [(annotation, lower, upper)]
    if origin is Literal:
        return []
    kept = metadata if origin in {typing.Union, types.UnionType} else ()
    return [found for inner in get_args(annotation) for found in numbers(inner, kept)]


def numeric_fields() -> list[tuple[str, str]]:
    return [
        (name, field)
        for name, cls in sorted(settings_classes().items())
        for field, info in cls.model_fields.items()
        if numbers(info.annotation, tuple(info.metadata))
    ]


@pytest.mark.parametrize(("name", "field"), numeric_fields())
def test_every_number_has_its_bounds(name: str, field: str) -> None:
    info = settings_classes()[name].model_fields[field]
    if (name, field) not in ANY_NUMBER and field not in BY_VALIDATOR:
        assert all(lower for _, lower, _ in numbers(info.annotation, tuple(info.metadata)))


@pytest.mark.parametrize(
    "name", ["tile", "halo", "shard", "batch", "workers", "threads", "epochs", "seed", "size", "crop", "memory"]
)
def test_what_takes_memory_or_processes_has_an_upper_bound(name: str) -> None:
    for cls in settings_classes().values():
        if name in cls.model_fields:
            info = cls.model_fields[name]
            assert all(upper for _, _, upper in numbers(info.annotation, tuple(info.metadata))), cls


SEGMENT = ["--archive", "a", "--checkpoint", "c", "--output", "o"]


@pytest.mark.parametrize(
    ("job", "options", "message"),
    [
        (
            "segment",
            ["--batch", "0"],
            r"segment\.batch: Input should be greater than or equal to 1, or 'auto' \(got '0'\)",
        ),
        ("segment", ["--halo", "-5"], r"segment\.halo: Input should be greater than or equal to 0, or 'auto'"),
        ("segment", ["--tile", "0"], r"segment\.tile: Input should be greater than or equal to 8, or 'auto'"),
        ("segment", ["--tile", "1000000000"], r"segment\.tile: Input should be less than or equal to 65536"),
        ("segment", ["--workers", "-1"], r"segment\.workers: "),
        ("segment", ["--source.channel", "-1"], r"segment\.source\.channel: "),
        ("plan", ["--batch", "0"], r"plan\.batch: "),
        ("simulate", ["--seed", "-1"], r"simulate\.seed: "),
        ("simulate", ["--size", "0"], r"simulate\.size: "),
        ("simulate", ["--size", "400,0"], r"simulate\.size"),
        ("simulate", ["--seed", str(1 << 70)], r"simulate\.seed: "),
        ("tile", ["--seed", "-1"], r"tile\.seed: "),
        ("verify", ["--seed", "-1"], r"verify\.seed: "),
        ("train", ["--class_weights", "1,-1"], r"train\.class_weights"),
        ("train", ["--optimizer.betas", "0.9,1"], r"train\.optimizer\.betas"),
        ("annotate", ["--offset", "300"], r"annotate\.offset: "),
    ],
)
def test_a_number_out_of_bounds_is_refused_and_named(job: str, options: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_settings(JOBS[job], [*(SEGMENT if job in {"segment", "plan"} else []), *options])


@pytest.mark.parametrize(
    ("job", "options", "message"),
    [
        ("tile", ["--splits", "val=-0.1"], "must lie between 0 and 1"),
        ("segment", ["--source.columns", "9,3"], "give .first, after the last"),
        ("divide", ["--regions", '[{"name": "a", "split": "train", "box": [0, 0, 2, 1]}]'], "must be y0, x0, y1, x1"),
    ],
)
def test_bounds_of_a_validator(job: str, options: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_settings(JOBS[job], [*(SEGMENT if job == "segment" else ["--output", "o"]), *options])
