"""LAYER 3: what a user would say: several calls that belong together, with the routes that do them."""
