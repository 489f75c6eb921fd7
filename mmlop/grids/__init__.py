"""Grids of measurements: what params.yaml says of them, measuring it, and comparing what came out."""
