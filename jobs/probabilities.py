"""`microseg probabilities` as a script, for `ray job submit --working-dir . -- python jobs/probabilities.py CONFIG.yaml`."""

import sys

from microseg_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["probabilities", *sys.argv[1:]]))
