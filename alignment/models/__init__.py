"""Chat models behind one protocol, the embedded model, and the sentence embedder."""
