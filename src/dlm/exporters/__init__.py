"""What leaves the machine: snapshots, merged models, feature shards."""
