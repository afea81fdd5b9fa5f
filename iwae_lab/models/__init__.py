"""Models beyond the paper's architectures, one file each."""
