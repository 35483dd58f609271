"""`microseg export-run` as a script, for `ray job submit --working-dir . -- python jobs/export_run.py --run /shared/NAME`."""

import sys

from microseg_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["export-run", *sys.argv[1:]]))
