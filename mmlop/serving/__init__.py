"""Serving: many adapters behind one address, from names over loaded classifiers to predictions."""
