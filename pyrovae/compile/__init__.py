"""A function of tensors as one compiled graph: captured, guarded, replayed, with one rule per optimiser."""
