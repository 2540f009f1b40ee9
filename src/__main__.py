"""`python -m tapetum VERB …`."""

from .cli import program

program()
