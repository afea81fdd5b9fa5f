"""Train, measure and compare importance weighted autoencoders (Burda et al., arXiv 1509.00519)."""
