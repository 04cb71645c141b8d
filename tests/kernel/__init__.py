"""Tests that ask this machine's kernel."""
