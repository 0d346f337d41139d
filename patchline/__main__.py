"""`python -m patchline`."""

from patchline.cli.main import main

main()
