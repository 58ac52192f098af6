"""The checks before a start, one file per subject. Each takes a `Situation` and gives findings; `preflight.CHECKS` lists them."""
