"""Labels of many structures: baseline energies, their cache, and which labels are wrong."""
