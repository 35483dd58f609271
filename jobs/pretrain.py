"""`microseg pretrain` as a script, for `ray job submit --working-dir . -- python jobs/pretrain.py configs/NAME.yaml`."""

import sys

from microseg_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["pretrain", *sys.argv[1:]]))
