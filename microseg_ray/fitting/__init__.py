"""Fitting a model to a tile store: data order, steps, validation, state. Torch, but no Ray.

Everything random is a function of (seed, epoch, tile), so a fit that was killed and resumed, or that runs on another
number of workers, sees the same batches with the same augmentation. One worker is the reference: the loss of a step is
that of the whole global batch, and batch norms see the whole of it, however it is divided.
"""
