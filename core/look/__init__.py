"""What can be seen of a model: drift, samples, previews."""
