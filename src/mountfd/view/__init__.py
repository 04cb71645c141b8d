"""LAYER 4: values become characters. Pure: no kernel, no terminal."""
