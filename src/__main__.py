"""`python -m tapetum VERB …`."""

import sys

from .cli import main

sys.exit(main())
