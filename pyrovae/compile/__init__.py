"""Functions of tensors as one compiled graph: capture, guards, replay, and one rule per optimiser."""
