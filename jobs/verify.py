"""`microseg verify` as a script, for `ray job submit --working-dir . -- python jobs/verify.py --run /shared/NAME`."""

import sys

from microseg_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["verify", *sys.argv[1:]]))
