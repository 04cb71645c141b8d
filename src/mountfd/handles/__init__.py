"""LAYER 2: things that own exactly one descriptor. A method is one system call."""
