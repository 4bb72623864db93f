"""``python -m sharpscope`` is the command line."""

from sharpscope.cli import main

if __name__ == "__main__":
    main()
