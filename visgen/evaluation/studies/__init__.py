"""Studies: many evaluations side by side, in a folder with one record per cell, and a report of it."""
