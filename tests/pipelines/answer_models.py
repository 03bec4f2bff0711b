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


def tiny_next_model() -> VisionLanguageModel:
    """A LLaVA-NeXT, whose pictures are a thumbnail and crops of 32 pixels."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
    )

    tiny, pinpoints = tiny_answer_model(), [[32, 64], [64, 32], [64, 64]]
    config = tiny.model.config
    torch.manual_seed(4)
    model = LlavaNextForConditionalGeneration(
        LlavaNextConfig(
            vision_config=CLIPVisionConfig(**config.vision_config.to_dict()),
            text_config=LlamaConfig(**{**config.text_config.to_dict(), "max_position_embeddings": 256}),
            image_token_index=config.image_token_id,
            image_grid_pinpoints=pinpoints,
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    model.generation_config = tiny.model.generation_config
    size = {"height": SIZES["image_size"], "width": SIZES["image_size"]}
    images = LlavaNextImageProcessor(
        size={"shortest_edge": SIZES["image_size"]}, crop_size=size, image_grid_pinpoints=pinpoints
    )
    processor = LlavaNextProcessor(
        image_processor=images,
        tokenizer=tiny.tokenizer,
        patch_size=SIZES["patch_size"],
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tiny.processor.chat_template,
    )
    return VisionLanguageModel(model, processor)
