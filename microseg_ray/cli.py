"""The command line: `microseg JOB [CONFIG.yaml] [--option value ...]`.

Exit codes: 0 all done; 1 an error that stopped the job; 2 wrong usage or config; 3 finished, but some inputs were
quarantined; 130 interrupted, to be resumed with the same command.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from microseg_ray.errors import MicrosegError, SettingsError
from microseg_ray.settings import JOBS, JobSettings, RaySettings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

__all__ = ["main", "run_job"]

DONE, STOPPED, USAGE, QUARANTINED, INTERRUPTED = 0, 1, 2, 3, 130
# Outputs that a Ray job would write into its throw-away working directory.
YAML = {".yaml", ".yml"}
OUTPUT_KEYS = ("output", "run")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one job.

    Args:
        arguments: Without the program's name; default: the command line.

    Returns:
        The exit code.

    Example:
        >>> main(["no-such-job"])
        2
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    signal.signal(signal.SIGTERM, _interrupt)
    if not given or given[0] in {"-h", "--help", "help", "-V", "--version"}:
        _usage(Console())
        return DONE if given else USAGE
    try:
        return run_job(given[0], given[1:])
    except SettingsError as error:
        errors.print(f"[bold red]settings:[/] {_plain(error)}")
        return USAGE
    except (MicrosegError, OSError) as error:
        errors.print(f"[bold red]error:[/] {_plain(error)}")
        return STOPPED
    except KeyboardInterrupt:
        errors.print("interrupted; the same command goes on from here")
        return INTERRUPTED


def run_job(job: str, arguments: list[str]) -> int:
    """Load the settings of a job and run it; raises what the job raises.

    Args:
        job: A name in `settings.JOBS`.
        arguments: Config and options.

    Returns:
        The exit code.
    """
    from microseg_ray import jobs

    if job not in JOBS:
        raise SettingsError(f"microseg: no job {job!r}; there are {', '.join(JOBS)}")
    config: Path | None = None
    if job == "threshold" and arguments and not arguments[0].startswith("-") and Path(arguments[0]).suffix not in YAML:
        # `microseg threshold MAP --threshold 0.5`, as a viewer's script would have it.
        arguments = ["--probabilities", *arguments]
    if job != "info" and arguments and not arguments[0].startswith("-"):
        config, arguments = Path(arguments[0]), arguments[1:]
    if "--help" in arguments or "-h" in arguments:
        _job_help(JOBS[job])
        return DONE
    settings = load_settings(JOBS[job], arguments, config)
    _refuse_lost_output(settings)
    step: Callable[[Any, Callable[[], None]], int] = jobs.STEPS[job]
    return step(settings, lambda: _start_ray(getattr(settings, "ray", RaySettings())))


def _start_ray(settings: RaySettings) -> None:
    # Ray is imported by the jobs that use it only.
    from microseg_ray.on_ray.start import start_ray

    start_ray(settings)


def _refuse_lost_output(settings: JobSettings) -> None:
    """Inside `ray job submit` the working directory is a copy that is thrown away: relative outputs would vanish."""
    if not os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") and "runtime_resources" not in Path.cwd().parts:
        return
    for key in OUTPUT_KEYS:
        value = getattr(settings, key, None)
        if isinstance(value, str) and not os.path.isabs(value):  # noqa: PTH117 - may be a URL
            raise SettingsError(
                f"{settings.job}.{key}: {value!r} is relative, and a Ray job's working directory is thrown away with the job; "
                f"give an absolute path that all nodes see, as in --{key} /shared/{value}"
            )


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _usage(console: Console) -> None:
    from microseg_ray import __version__

    console.print(f"microseg {__version__}", highlight=False)
    console.print("usage: microseg JOB [CONFIG.yaml] [--option value ...]\n\njobs:", highlight=False, markup=False)
    for name, cls in JOBS.items():
        text = (cls.__doc__ or "").strip().splitlines()[0].partition(": ")[2]
        console.print(f"  {name:<10} {text}", highlight=False, markup=False)
    console.print("\n`microseg JOB --help` lists a job's options.", highlight=False, markup=False)


def _job_help(cls: type[JobSettings]) -> None:
    from pydantic_settings import CliApp

    try:
        CliApp.run(cls, cli_args=["--help"])
    except SystemExit:
        return


def _plain(error: BaseException) -> str:
    from rich.markup import escape

    return escape(str(error) or type(error).__name__)


if __name__ == "__main__":
    sys.exit(main())
