"""Stochastic variational inference: its options, the loop over epochs, resumed runs, and the diagnosis of failures."""
