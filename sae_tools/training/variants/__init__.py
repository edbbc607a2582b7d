"""Architectures of our own: each module registers one with SAELens when it is imported."""
