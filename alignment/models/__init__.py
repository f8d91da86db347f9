"""Chat models behind one protocol, the embedded chat model, and the sentence embedder."""
