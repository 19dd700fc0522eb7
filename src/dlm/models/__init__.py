"""Audio language models: pretrained, composed, adapters, quantization, generation."""
