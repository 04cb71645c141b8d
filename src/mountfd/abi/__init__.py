"""LAYER 0: what Linux says. Numbers, flags, layouts, the one door to the kernel, feature probes, trace."""
