"""`python train.py model=npr data=synthetic` is `tapetum train model=npr data=synthetic`."""

import sys

from tapetum.cli import program

if __name__ == "__main__":
    program(["train", *sys.argv[1:]])
