"""Draft sources: what proposes the tokens that a pass verifies."""
