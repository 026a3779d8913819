"""Models: densities on torch and Pyro alone, with no data set, device, optimiser, print, path or figure."""
