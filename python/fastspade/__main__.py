"""`python -m fastspade`."""

import sys

from fastspade.cli import main

sys.exit(main())
