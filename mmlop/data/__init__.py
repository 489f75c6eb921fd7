"""Data sets, manifests, few-shot splits and pictures."""
