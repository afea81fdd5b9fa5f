"""Training under Lightning: the module, batches, checkpoints, optimizers and schedules."""
