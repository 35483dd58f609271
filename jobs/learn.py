"""`microseg learn` as a script, for `ray job submit --working-dir . -- python jobs/learn.py --run /shared/NAME`."""

import sys

from microseg_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["learn", *sys.argv[1:]]))
