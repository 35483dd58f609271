"""`microseg postprocess` as a script, for `ray job submit -- python jobs/postprocess.py --run /shared/A --output /shared/B`."""

import sys

from microseg_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["postprocess", *sys.argv[1:]]))
