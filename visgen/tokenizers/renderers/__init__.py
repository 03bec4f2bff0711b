"""Renderers: pictures of image embeddings (the registry is `visgen.tokenizers.RENDERERS`)."""
