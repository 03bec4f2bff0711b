"""A tiny model that answers questions, with random weights that are always the same."""

import torch
from PIL import Image

from visgen.data.scenes import question_words, render, sample_scene
from visgen.pipelines.answer import AnswerPipeline
from visgen.pipelines.vision_language import VisionLanguageModel, VisionLanguageSizes

SIZES = {
    "image_size": 32,
    "patch_size": 8,
    "vision_width": 16,
    "vision_depth": 2,
    "vision_heads": 2,
    "vision_mlp": 16,
    "hidden_size": 16,
    "depth": 3,
    "num_heads": 2,
    "mlp_size": 16,
    "max_length": 96,
}
TOKENS = 16


def tiny_answer_model() -> VisionLanguageModel:
    torch.manual_seed(3)
    model = VisionLanguageModel.build(VisionLanguageSizes(**SIZES), question_words()).eval()
    with torch.no_grad():  # weights so large that pictures matter and answers differ
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(8 if "language_model" in name else 4)
    return model


def tiny_answer_pipeline() -> AnswerPipeline:
    pipe = AnswerPipeline(tiny_answer_model())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pictures(count: int, size: int = 32) -> list[Image.Image]:
    scenes = [sample_scene("train", i) for i in range(count)]
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in render(scenes, size)]
