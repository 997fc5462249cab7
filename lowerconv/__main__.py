"""``python -m lowerconv`` is the command ``lowerconv``."""

import sys

from lowerconv.cli.main import main

sys.exit(main())
