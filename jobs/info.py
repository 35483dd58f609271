"""`microseg info` as a script, for `ray job submit --working-dir . -- python jobs/info.py FILE ...`."""

import sys

from microseg_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["info", *sys.argv[1:]]))
