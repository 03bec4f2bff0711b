"""The `visgen` command: a thin face that parses, calls the library and prints. One file per verb."""
