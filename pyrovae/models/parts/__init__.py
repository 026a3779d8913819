"""Likelihoods, priors and posteriors, one file each, registered where they are defined."""
