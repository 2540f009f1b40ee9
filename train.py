"""`python train.py model=npr data=synthetic` is `tapetum train model=npr data=synthetic`."""

import sys

from tapetum.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
