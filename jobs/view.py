"""`microseg view` as a script, for `ray job submit --working-dir . -- python jobs/view.py RUN`."""

import sys

from microseg_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["view", *sys.argv[1:]]))
