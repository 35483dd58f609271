"""The command line: `microseg JOB [CONFIG.yaml] [--option value ...]`.

Exit codes: 0 all done; 1 an error that stopped the job; 2 wrong usage or config; 3 finished, but some inputs were
quarantined; 130 interrupted, to be resumed with the same command.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from microseg_ray.errors import MicrosegError, SettingsError
from microseg_ray.names import never_raise
from microseg_ray.settings.registry import JOBS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from microseg_ray.settings import JobSettings, RaySettings

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
    signal.signal(signal.SIGTERM, _interrupt)
    never_raise(sys.stdout, sys.stderr)
    if not given or given[0] in {"-h", "--help", "help", "-V", "--version"}:
        _usage()
        return DONE if given else USAGE
    try:
        return run_job(given[0], given[1:])
    except SettingsError as error:
        _print_error("[bold red]settings:[/] ", error)
        return USAGE
    except (MicrosegError, OSError) as error:
        _print_error("[bold red]error:[/] ", error)
        return STOPPED
    except KeyboardInterrupt:
        # Another signal while the interpreter ends is no error to be shown: it ends the process at once.
        for number in (signal.SIGINT, signal.SIGTERM):
            atexit.register(signal.signal, number, _leave)
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED


def run_job(job: str, arguments: list[str]) -> int:
    """Load the settings of a job and run it; raises what the job raises.

    Args:
        job: A name in `settings.JOBS`.
        arguments: Config and options.

    Returns:
        The exit code.
    """
    if job not in JOBS:
        raise SettingsError(f"microseg: no job {job!r}; there are {', '.join(JOBS)}")
    # Imported here, so that `microseg --help` is quick.
    from microseg_ray.jobs import job_step
    from microseg_ray.jobs.devices import require_local_gpu
    from microseg_ray.settings import RaySettings, load_settings, print_options

    config: Path | None = None
    leading = JOBS[job].leading
    if leading and arguments and not arguments[0].startswith("-") and Path(arguments[0]).suffix not in YAML:
        # `microseg status RUN`, `microseg threshold MAP --threshold 0.5`.
        arguments = [f"--{leading}", *arguments]
    if job != "info" and arguments and not arguments[0].startswith("-"):
        config, arguments = Path(arguments[0]), arguments[1:]
    if "--help" in arguments or "-h" in arguments:
        print_options(JOBS[job])
        return DONE
    settings = load_settings(JOBS[job], arguments, config)
    _refuse_lost_output(settings)
    require_local_gpu(settings)
    return job_step(job)(settings, lambda: _start_ray(getattr(settings, "ray", RaySettings())))


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


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    os._exit(INTERRUPTED)


def _usage() -> None:
    from microseg_ray import __version__

    print(f"microseg {__version__}\nusage: microseg JOB [CONFIG.yaml] [--option value ...]\n\njobs:")
    for name in JOBS:
        print(f"  {name:<13} {JOBS.summary(name)}")
    print("\n`microseg JOB --help` lists a job's options.")


def _print_error(title: str, error: BaseException) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"{title}{escape(str(error) or type(error).__name__)}")


if __name__ == "__main__":
    sys.exit(main())
