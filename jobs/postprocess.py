"""`microseg postprocess` as a script, for `ray job submit --working-dir . -- python jobs/postprocess.py --run RUN ...`."""

import sys

from microseg_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["postprocess", *sys.argv[1:]]))
