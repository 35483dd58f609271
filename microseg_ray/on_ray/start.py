"""Start Ray: connect to a cluster, or start a local one in this process."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microseg_ray.errors import MicrosegError

if TYPE_CHECKING:
    from microseg_ray.settings import RaySettings

__all__ = ["short_temporary_folder", "start_ray"]

# A socket's path may have 107 bytes (103 on macOS). Ray adds /ray/session_DATE_PID/sockets/plasma_store to the folder.
_LONGEST_FOLDER = 103 - 72
_LOCAL_TRIES = 2

_log = logging.getLogger(__name__)


def start_ray(settings: RaySettings) -> None:
    """Connect to the cluster given by settings or environment, or start a local one. Does nothing if Ray is initialised.

    A local cluster listens on this machine only, without dashboard and usage statistics, and ends with the process.

    Raises:
        MicrosegError: Ray cannot be started, or there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # Otherwise Train V2 warns at every start.
    os.environ.setdefault("RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        return
    address = settings.address or os.environ.get("RAY_ADDRESS")
    handler = signal.getsignal(signal.SIGTERM)
    chosen: dict[str, Any] = {"address": address, "logging_level": logging.WARNING}
    if not address:
        chosen = {
            "address": "local",
            "num_cpus": settings.num_cpus or os.cpu_count(),
            "object_store_memory": settings.object_store_memory,
            "include_dashboard": False,
            "_temp_dir": short_temporary_folder(),
            "logging_level": logging.ERROR,
        }
    try:
        _started(chosen, tries=1 if address else _LOCAL_TRIES)
    except SystemExit as error:
        # Ray's own handler of SIGTERM, which it installs before it has started, as a job's handler has it.
        raise KeyboardInterrupt from error
    except Exception as error:
        # Ray raises bare Exception, RuntimeError, ValueError and ConnectionError here.
        advice = (
            "check ray.address"
            if address
            else "is the machine very busy? run it again, or with --workers 0 without Ray"
        )
        raise MicrosegError(
            f"Ray cannot be started ({str(error).strip() or type(error).__name__}); {advice}"
        ) from error
    finally:
        _restore(handler)


def _restore(handler: Any) -> None:
    """Put back the handler of SIGTERM: Ray's own ends the process before a job can clean up."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _started(chosen: dict[str, Any], tries: int) -> None:
    """`ray.init`; again where the machine was too busy for Ray's processes to be up in the time that Ray gives them."""
    import ray

    for left in reversed(range(tries)):
        try:
            ray.init(log_to_driver=False, **chosen)
        except ValueError:
            # A setting that Ray refuses, which it would refuse again.
            raise
        except Exception as error:
            if not left:
                raise
            _log.warning("Ray did not start (%s); it is started once more", str(error).strip() or type(error).__name__)
            ray.shutdown()
        else:
            return


def short_temporary_folder() -> str | None:
    """A folder of this user for Ray's files where the usual one is too long for the path of a socket; else None."""
    folder = os.environ.get("RAY_TMPDIR") or (os.environ.get("TMPDIR") if sys.platform.startswith("linux") else None)
    if folder is None or len(os.fsencode(folder)) <= _LONGEST_FOLDER or sys.platform == "win32":
        return None
    short = Path(f"/tmp/ray-{os.getuid()}")  # noqa: S108 - made for this user alone, and checked
    try:
        short.mkdir(mode=0o700, exist_ok=True)
        found = short.lstat()
    except OSError:
        return None
    mine = found.st_uid == os.getuid() and not found.st_mode & 0o022 and short.is_dir() and not short.is_symlink()
    return str(short) if mine else None
