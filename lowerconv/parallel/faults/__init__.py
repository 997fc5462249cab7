"""Ranks that fail, stall or die: how the others end, or go on."""
