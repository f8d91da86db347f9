"""Chat models behind one protocol: local transformers, any OpenAI-compatible server, the embedded model."""
