"""Models are densities: torch and Pyro only, no data set, device, optimiser, print, path or figure."""
