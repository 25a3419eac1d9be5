"""`python -m hftk`, so that `accelerate launch -m hftk pretrain …` works."""

import sys

from hftk.cli import main

sys.exit(main())
