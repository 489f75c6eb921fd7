"""A small rendered world, a small CLIP that knows it, and a few-shot benchmark with a shift away from it.

Everything here is made on the spot: nothing is downloaded. `world` draws captioned pictures, `pretrain` fits a CLIP of
1.7 M parameters to them, `clip` loads the weights shipped with the package, and `benchmark` renders the few-shot data
sets, whose pictures look different from what that CLIP was trained on.
"""
