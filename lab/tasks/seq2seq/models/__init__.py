"""Encoders, decoders and attention, and the network that joins them. Shape letters in every file: B samples (in a step,
samples times beam), S source tokens, T target tokens, C channels of the memory, E of embeddings, H of hidden states."""
