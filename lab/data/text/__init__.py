"""Pairs of source and target texts: data sets, formats (one per file), vocabularies and tokenizers. No torch."""
