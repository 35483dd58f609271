"""Pre-training without labels: squares of each crop are hidden, and the network learns to fill them in.

Masked image modelling by plain reconstruction of pixels: Xie et al., SimMIM, a simple framework for masked image modeling
(CVPR 2022); Tian et al., Designing BERT for convolutional networks (SparK, ICLR 2023); He et al., Masked autoencoders are
scalable vision learners (CVPR 2022) for targets that are normalised by square.
"""
