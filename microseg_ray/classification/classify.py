"""The classify job: an archive and a classifier -> a table of classes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microseg_ray.accounts import ACCOUNTS_FILE, Account, counted, file_account, write_accounts
from microseg_ray.classification.classifier import load_classifier
from microseg_ray.classification.judging import VERDICT_FILES, Verdict, write_table, write_verdict
from microseg_ray.classification.labelled import class_folder
from microseg_ray.errors import InputError, MicrosegError, SettingsError
from microseg_ray.files import sole_writer, write_json
from microseg_ray.outputs import Kind, claim, drop, settle
from microseg_ray.quarantine import Failure, write_failures
from microseg_ray.recognition import is_record, read_record
from microseg_ray.sources import survey_inputs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from microseg_ray.classification.classifier import Classifier
    from microseg_ray.classification.views import Views
    from microseg_ray.settings import ClassifySettings
    from microseg_ray.sources import Listing

__all__ = ["Classified", "classify"]

Report = Callable[[int, int], None]

RECORD = "classify.json"
_READERS = 2
_AHEAD = 8  # micrographs whose views are in memory at a time


@dataclass
class Classified:
    """Result of the classify job.

    Attributes:
        folder: Where the tables are.
        classes: Names.
        verdicts: A micrograph each, in the order of their names.
        failures: What could not be classified.
        metrics: metrics.json, where the truth was known.
        accounts: Files: seen = used + set aside + not taken.
    """

    folder: Path
    classes: tuple[str, ...]
    verdicts: list[Verdict] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    metrics: dict[str, Any] | None = None
    accounts: tuple[Account, ...] = ()


def classify(settings: ClassifySettings, report: Report = lambda *_: None) -> Classified:
    """Classify every micrograph of an archive; what cannot be is set aside with its reason.

    Args:
        settings: The job's settings.
        report: Called with (done, total) micrographs.

    Raises:
        CheckpointError: No classifier.
        InputError: The archive is missing or empty.
        SettingsError: The output holds classes by another model or of another archive.
        RunMismatchError: Another job is writing into the output, or something there is not ours.
    """
    device = "cuda" if settings.gpu else "cpu"
    classifier = load_classifier(
        settings.checkpoint,
        precision=settings.precision,
        threads=settings.threads,
        device=device,
        runtime=settings.runtime,
    )
    listing = survey_inputs(settings.archive)
    folder = Path(settings.output).absolute()
    with sole_writer(folder):
        return _classify(settings, classifier, listing, report)


def _classify(settings: ClassifySettings, classifier: Classifier, listing: Listing, report: Report) -> Classified:
    folder, inputs = Path(settings.output).absolute(), listing.entries
    _claim(folder, settings, classifier)
    done = Classified(folder, classifier.classes)
    for number, (name, views) in enumerate(_read(inputs, classifier, settings), 1):
        if isinstance(views, Failure):
            done.failures.append(views)
        else:
            truth = _truth(name, classifier.classes) if settings.truth else None
            try:
                found = classifier.probabilities(views)
            except MicrosegError as error:
                done.failures.append(Failure(name, "classify", str(error)))
                report(number, len(inputs))
                continue
            done.verdicts.append(Verdict(name, found, len(views.pixels), views.shape, truth))
            if settings.truth and truth is None:
                reason = f"lies in no folder called {' or '.join(classifier.classes)}, so its class is not judged"
                done.failures.append(Failure(name, "truth", reason))
        report(number, len(inputs))
    write_failures(folder / "failures.csv", done.failures)
    names, used = [name for name, _ in inputs], [verdict.micrograph for verdict in done.verdicts]
    done.accounts = (file_account(names, used, done.failures, counted(listing.not_taken)),)
    write_accounts(folder / ACCOUNTS_FILE, done.accounts)
    if settings.truth:
        done.metrics = write_verdict(folder, done.verdicts, classifier.classes)
    else:
        write_table(folder, done.verdicts, classifier.classes)
    settle(folder, "classify")
    return done


def _read(
    inputs: Sequence[tuple[str, str]], classifier: Classifier, settings: ClassifySettings
) -> Iterator[tuple[str, Views | Failure]]:
    """Views in the order of the inputs, read a few micrographs ahead."""

    def read(one: tuple[str, str]) -> Views | Failure:
        name, path = one
        try:
            return classifier.read(path, settings.source, settings.scale_tolerance, settings.on_scale_mismatch)
        except InputError as error:
            return Failure(name, "read", str(error).removeprefix(f"{path}: "))

    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(inputs), _AHEAD):
            part = inputs[start : start + _AHEAD]
            yield from zip((name for name, _ in part), pool.map(read, part), strict=True)


def _classified(table: Path) -> bool:
    """Whether a table has a row: an attempt that classified nothing binds nothing."""
    if not table.exists():
        return False
    with table.open("rb") as file:
        return sum(1 for _, _ in zip(range(2), file, strict=False)) > 1


def _truth(name: str, classes: Sequence[str]) -> int | None:
    _, folder = class_folder(name)
    return classes.index(folder) if folder in classes else None


def _archive_of(record: Mapping[str, Any]) -> object:
    settings = record["settings"]
    return settings.get("archive") if isinstance(settings, dict) else None


def _claim(folder: Path, settings: ClassifySettings, classifier: Classifier) -> None:
    """Classes of two models are never mixed."""
    digest = classifier.digest
    computed_with = {} if classifier.computing is None else dict(classifier.computing.record)
    record = {"model_digest": digest, "settings": settings.resolved(), "computed_with": computed_with}
    path = folder / RECORD
    files = (RECORD, "failures.csv", ACCOUNTS_FILE, *VERDICT_FILES)
    claim(folder, "classify", dict.fromkeys(files, Kind.FILE), proven=is_record(path, "model_digest", "settings"))
    made = not settings.overwrite and _classified(folder / "classes.csv")
    older = read_record(path, "model_digest", "settings") if made else None
    if older is not None and (older["model_digest"], _archive_of(older)) != (digest, settings.archive):
        raise SettingsError(
            f"classify.output: {folder} holds classes by another model or of another archive; give another output, or "
            "--overwrite"
        )
    drop(folder, "classify", ("metrics.json", "confusion.png"))
    write_json(path, record)
