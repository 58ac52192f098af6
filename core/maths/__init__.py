"""The mathematics: noise paths and predictions, solvers, rollout, ReflexFlow, times. Knows nothing of models."""
