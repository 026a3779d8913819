"""Stochastic variational inference: its options, the loop over epochs, going on with a run, and what is said of it."""
