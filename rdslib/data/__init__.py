"""Pools: reading, formats, downloads, duplicates."""
