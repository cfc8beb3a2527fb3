"""``python -m cascade`` is the ``cascade`` command."""

from cascade.cli import main

if __name__ == "__main__":
    main()
