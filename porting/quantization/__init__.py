"""Schemes, calibration, and the files that carry ranges: one quantizer for every source."""
