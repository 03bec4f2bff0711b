"""What the columns of a study are called, and what they mean, in one sentence each."""

from __future__ import annotations

TITLES = {
    "fid": "FID",
    "kid": "KID",
    "is": "Inception Score",
    "rfid": "rFID",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "l1": "L1 error",
    "l1_p90": "L1 error, 90th percentile",
    "codebook": "codebook used",
    "fd_dinov2": "FD-DINOv2",
    "cmmd": "CMMD",
    "clip_score": "CLIP score",
}
MEANINGS = {
    "fid": "Fréchet distance between the features of generated and of other real images.",
    "kid": "squared maximum mean discrepancy of the same features.",
    "fd_dinov2": "Fréchet distance between DINOv2 features of generated and of other real images.",
    "cmmd": "maximum mean discrepancy of CLIP embeddings of generated and of other real images, × 1,000.",
    "clip_score": "cosine of the CLIP embeddings of image and caption, × 100, not below 0.",
    "is": "how sure a classifier is of single images, and how various they are together.",
    "precision": "share of generated images that lie among real ones, by features.",
    "recall": "share of real images that lie among generated ones, by features.",
    "adherence": "share of images that show everything their caption says, as a trained checker sees them.",
    "rfid": "Fréchet distance between the features of reconstructions and of other real images.",
    "psnr": "peak signal-to-noise ratio of a reconstruction, mean over images.",
    "ssim": "structural similarity of a reconstruction and its original, mean over images.",
    "lpips": "perceptual distance of a reconstruction and its original, mean over images.",
    "l1": "mean absolute error of pixels in [0, 1].",
    "l1_p90": "the error that nine images in ten stay below.",
    "within": "share of images whose error is not above the wanted one.",
    "codebook": "share of the codes that occur at all.",
    "tokens": "tokens that stand for an image, mean over images.",
}
COSTS = {
    "seconds_per_image": (
        "s / image",
        "seconds that making an image took: the median batch, divided by its images. Decoding to pixels "
        "included, loading and judging not.",
    ),
    "nfe": (
        "NFE",
        "network evaluations for an image: passes of the generator and steps of a flow decoder. What a "
        "drafter does, and a decoder that needs one pass, is not counted.",
    ),
    "passes": ("passes", "forward passes of the generator for an image, mean over images."),
    "tokens": ("tokens", "tokens that stand for an image, mean over images."),
    "decoder_steps": ("decoder steps", "steps of a decoder that starts from noise."),
}


def sentence(text: str) -> str:
    """A text as a sentence begins."""
    return text[:1].upper() + text[1:] if text[:2].islower() else text  # not rFID, PSNR


def title(metric: str) -> str:
    """A metric's name for people."""
    return TITLES.get(metric, metric.replace("_", " "))
