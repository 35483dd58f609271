"""`microseg threshold` as a script, for `ray job submit --working-dir . -- python jobs/threshold.py configs/NAME.yaml`."""

import sys

from microseg_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["threshold", *sys.argv[1:]]))
