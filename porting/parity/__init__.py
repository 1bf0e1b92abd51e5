"""Proof that a port computes what its source computes: metrics, layers, limits, verdicts and reports."""
