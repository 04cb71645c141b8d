"""LAYER 1: pure values. Nothing here owns a descriptor or touches the kernel."""
