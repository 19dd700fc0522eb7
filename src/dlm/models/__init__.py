"""Audio language models: pretrained, composed, adapters, generation."""
