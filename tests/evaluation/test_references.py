"""References and subjects by index."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.evaluation.conftest import write_pictures
from visgen.data.images import read_image, resize_center_crop
from visgen.data.scenes import Scenes
from visgen.errors import InputError
from visgen.evaluation.references import open_reference
from visgen.evaluation.subjects import is_image_folder, open_subject, stack


def test_scenes_go_through_all_kinds():
    reference, scenes = open_reference("scenes:test_pairs"), Scenes("test_pairs", balanced=True)
    assert torch.equal(reference.images([7, 3], 64), scenes.batch([7, 3]).images)
    assert reference.captions([5]) == [scenes[5]["caption"]] and reference.scenes([5]) == [scenes[5]["scene"]]
    assert len({scene.kind for scene in open_reference("scenes:validation").scenes(range(4))}) == 4
    with pytest.raises(InputError, match="64×64"):
        reference.images([0], 32)


def test_a_folder_is_cropped_to_the_size_of_what_is_judged(pictures):
    reference = open_reference(str(pictures))
    assert reference.length == 12
    expected = np.asarray(resize_center_crop(read_image(pictures / "003.png"), 8))
    assert np.array_equal(reference.images([3], 8)[0].permute(1, 2, 0), expected)
    assert reference.captions([3]) == [(pictures / "003.txt").read_text()]
    with pytest.raises(InputError, match="scenes"):
        reference.scenes([0])


def test_a_folder_without_captions_needs_prompts(tmp_path):
    reference = open_reference(str(write_pictures(tmp_path, 2, (8, 8), captions=False)))
    assert reference.images([0, 1], 8).shape == (2, 3, 8, 8)
    with pytest.raises(InputError, match="--prompts"):
        reference.captions([0])


@pytest.mark.parametrize("name", ["scenes:", "scenes:nowhere", "scenes", "missing", "missing.npz"])
def test_unknown_references(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=name):
        open_reference(name)


def test_a_folder_of_images_is_judged_as_it_is(tmp_path):
    folder = write_pictures(tmp_path, 3, (10, 10))
    assert is_image_folder(str(folder))
    subject = open_subject(str(folder), batch_size=2)
    assert (subject.kind, subject.length, subject.image_size) == ("folder", 3, 10)
    made = subject.generate([2, 0], captions=list, seed=0)
    assert torch.equal(made, stack([read_image(folder / f"{i:03d}.png") for i in (2, 0)]))
    Image.new("RGB", (10, 12)).save(folder / "001.png")
    with pytest.raises(InputError, match=r"001\.png.*10×12"):
        subject.generate([1], captions=list, seed=0)


@pytest.mark.parametrize("kind", ["text", "class"])
def test_a_model_draws_image_i_from_seed_and_i(models, kind):
    subject = open_subject(str(models / kind), batch_size=4)
    assert subject.kind == kind and not is_image_folder(str(models / kind))

    def captions(indices):
        return ["a red circle" for _ in indices]

    together = subject.generate([0, 5, 6, 10], captions, seed=3)
    assert torch.equal(subject.generate([6], captions, seed=3), together[2:3])
    assert len(torch.unique(together, dim=0)) == 4  # one prompt, but four ordinals
    assert not torch.equal(subject.generate([6], captions, seed=4), together[2:3])
    assert len(subject.checkpoint_sha256) == 64 and subject.dtype == "float32"


def test_a_model_of_classes_draws_them_in_turn(models):
    subject = open_subject(str(models / "class"), batch_size=4)
    drawn = subject.generate([7], captions=None, seed=0)
    made = subject._pipe(7 % 5, seed=0, ordinals=[7]).images
    assert torch.equal(drawn, stack(made))


def test_reconstructions_are_those_of_the_pipeline(models, pictures):
    subject = open_subject(str(models / "tokenizer"), batch_size=4)
    real = open_reference(str(pictures)).images([0, 1], 16)
    made, tokens = subject.reconstruct(real)
    again, _ = subject.reconstruct(real[1:])
    assert made.shape == real.shape and made.dtype == torch.uint8 and torch.equal(made[1:], again)
    assert tokens.ids.shape == (2, 1 + 4 + 16) and tokens.ids.max() < subject.codebook_size == 32
    assert tokens.lengths.tolist() == [21, 21]
