"""Jobs larger than one machine: generation, tokenization and statistics as tasks, here or on Ray Data.

A task is a range of images and leaves a file or a part of a sum; `engines.py` says who does it. Importing
this package loads neither torch nor Ray.
"""
