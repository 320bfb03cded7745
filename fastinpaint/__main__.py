import sys

from fastinpaint.cli import main

sys.exit(main())
