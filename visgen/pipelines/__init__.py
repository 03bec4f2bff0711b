"""What a user calls. Listing the names imports nothing heavy."""

from visgen.registry import Registry

PIPELINES = Registry(
    "pipeline",
    {
        "TextToImagePipeline": "visgen.pipelines.text_to_image:TextToImagePipeline",
        "ClassToImagePipeline": "visgen.pipelines.class_to_image:ClassToImagePipeline",
        "EditPipeline": "visgen.pipelines.edit:EditPipeline",
        "ReconstructPipeline": "visgen.pipelines.reconstruct:ReconstructPipeline",
        "InterleavedPipeline": "visgen.pipelines.interleaved:InterleavedPipeline",
        "CaptionPipeline": "visgen.pipelines.interleaved:CaptionPipeline",
        "AnswerPipeline": "visgen.pipelines.answer:AnswerPipeline",
    },
)

# What turns prompts into a condition
TEXTS = Registry(
    "text component",
    {
        "WordVocabulary": "visgen.pipelines.prompts:WordVocabulary",
        "TextFeatures": "visgen.pipelines.text_features:TextFeatures",
        "JanusPrompts": "visgen.pipelines.transformers_prompts:JanusPrompts",
        "Emu3Prompts": "visgen.pipelines.transformers_prompts:Emu3Prompts",
        "ChameleonPrompts": "visgen.pipelines.transformers_prompts:ChameleonPrompts",
    },
)

# Language models with images in their vocabulary
LANGUAGE_MODELS = Registry("language model", {"SeedLlama": "visgen.pipelines.language_models:SeedLlama"})

# Multimodal language models of the transformers library, which read images and write text
VISION_LANGUAGE_MODELS = Registry(
    "vision-language model",
    {"VisionLanguageModel": "visgen.pipelines.vision_language:VisionLanguageModel"},
)

# task → pipeline, and what else the components of a pipeline can do
TASKS = {
    "text-to-image": "TextToImagePipeline",
    "class-to-image": "ClassToImagePipeline",
    "edit": "EditPipeline",
    "reconstruct": "ReconstructPipeline",
    "caption": "CaptionPipeline",
    "interleaved": "InterleavedPipeline",
    "answer": "AnswerPipeline",
}
TASKS_OF = {
    "TextToImagePipeline": ("text-to-image", "edit", "reconstruct"),
    "ClassToImagePipeline": ("class-to-image", "edit", "reconstruct"),
    "EditPipeline": ("edit", "reconstruct"),
    "ReconstructPipeline": ("reconstruct",),
    "CaptionPipeline": ("caption", "reconstruct"),
    "InterleavedPipeline": ("interleaved", "caption", "text-to-image", "reconstruct"),
    "AnswerPipeline": ("answer",),
}

__all__ = ["LANGUAGE_MODELS", "PIPELINES", "TASKS", "TASKS_OF", "TEXTS", "VISION_LANGUAGE_MODELS"]
