"""The k-NN term K: what the trend left over at the nearest training structures."""
