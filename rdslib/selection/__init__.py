"""Picking from score blocks."""
