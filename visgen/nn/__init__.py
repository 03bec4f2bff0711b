"""What knows nothing of images: attention, blocks, quantizers, noise, sampling laws."""
