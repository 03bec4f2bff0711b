"""Quantizers: features become codes and back. They stay float32 whatever the model's dtype."""
