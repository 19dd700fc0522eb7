"""Features: log-mel, the extractor and its caches, augmentation."""
