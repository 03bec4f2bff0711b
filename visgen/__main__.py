"""`python -m visgen` is the `visgen` command."""

from visgen.cli.main import main

if __name__ == "__main__":
    main()
