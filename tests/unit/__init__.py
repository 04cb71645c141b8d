"""Tests that need no privilege: values, numbers, words."""
