"""`microseg divide` as a script, for `ray job submit --working-dir . -- python jobs/divide.py configs/NAME.yaml`."""

import sys

from microseg_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["divide", *sys.argv[1:]]))
