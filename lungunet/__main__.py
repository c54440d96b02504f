"""``python -m lungunet``."""

from lungunet.cli import main

main()
