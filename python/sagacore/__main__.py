"""`python -m sagacore` is the command `sagacore`."""

from sagacore.cli import main

if __name__ == "__main__":
    main()
