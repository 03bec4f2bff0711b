"""How fast: benchmarks whose baseline is a row of the same run. Importing this package loads no torch."""
