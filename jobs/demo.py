"""`microseg demo` as a script, for `ray job submit --working-dir . -- python jobs/demo.py --output /shared/NAME`."""

import sys

from microseg_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
