"""Studies: a table of runs, variants x seeds with their controls, that ends in paired differences. Read `plan`, then `work`, `measures`, `table`."""
