"""A prompt drawn with a run's weights, the base model beside it, from the same noise. The last twelve tries stay with the run."""
