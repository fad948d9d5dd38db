"""What a model is used for: ranking, membership, explanation, binding, thermochemistry."""
