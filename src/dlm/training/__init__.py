"""Training: loop, loss, distillation, optimizer, checkpoints, events."""
