"""The trend T: a size-extensive sum over atoms, and the least-squares problem behind it."""
