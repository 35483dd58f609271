"""`microseg recipe` as a script, for `ray job submit --working-dir . -- python jobs/recipe.py /shared/study.yaml`."""

import sys

from microseg_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["recipe", *sys.argv[1:]]))
