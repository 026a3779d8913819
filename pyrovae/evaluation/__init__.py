"""Evaluation says what a fitted pair is worth: bounds on log p(x), and statistics of its code space."""
