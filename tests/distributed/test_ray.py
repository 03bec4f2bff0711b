"""Jobs on Ray: an actor is killed in the middle, errors come back as they are; slow: the driver too."""

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.prove_ray import actors_of
from tests.distributed.conftest import contents
from visgen.distributed.engines import Engine, do_tasks
from visgen.distributed.generation import _worker_elsewhere, generate_shards
from visgen.distributed.models import ModelSource
from visgen.distributed.statistics import image_statistics
from visgen.distributed.tokenization import tokenize_images
from visgen.errors import InputError

pytest.importorskip("ray")
pytest.importorskip("webdataset")
ROOT = Path(__file__).parents[2]
ROWS = [0, 1, 2, 3] * 3
OPTIONS = {"num_images": 2, "seed": 3, "batch_size": 2, "shard_size": 3}  # 24 images in 8 shards
ON_RAY = Engine("ray", workers=2)


@pytest.fixture(scope="module", autouse=True)
def address():
    """Of no cluster that happens to be there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        yield


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "one"
    generate_shards(model, ROWS, folder, **OPTIONS)
    return folder


def test_an_actor_that_is_killed_costs_nothing(model, whole, tmp_path):
    def kill(done, total):
        told.append(done)
        if len(told) == 2:
            killed.append(actors_of(os.getpid())[0])
            os.kill(killed[0], signal.SIGKILL)

    told, killed = [], []
    result = generate_shards(model, ROWS, tmp_path / "out", engine=ON_RAY, on_progress=kill, **OPTIONS)
    assert killed and result.made == 24 and told == list(range(0, 25, 3))
    assert contents(tmp_path / "out") == contents(whole)
    assert generate_shards(model, ROWS, tmp_path / "out", **OPTIONS).made == 0


@pytest.mark.slow
def test_an_error_of_a_worker_is_told_as_it_is(model):
    source = ModelSource.of("no-such-model", "class-to-image", offline=True)
    with pytest.raises(InputError, match="no-such-model"):
        list(do_tasks(functools.partial(_worker_elsewhere, source, "", None), [{"shard": 0}], ON_RAY))


@pytest.mark.slow
def test_tokens_are_those_of_one_process(model, tars, tmp_path):
    for name, engine in (("one", None), ("many", ON_RAY)):
        tokenize_images(model, tars, tmp_path / name, engine=engine, shard_size=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "many")


@pytest.mark.slow
def test_statistics_are_those_of_one_process(folder):
    one, many = (image_statistics(folder, "scenes", engine=engine, part_size=2) for engine in (None, ON_RAY))
    assert one.images_sha256 == many.images_sha256 and one.weights_sha256 == many.weights_sha256
    assert (one.statistics.mean == many.statistics.mean).all()
    assert (one.statistics.covariance == many.statistics.covariance).all()


@pytest.mark.slow
def test_killed_actors_and_a_killed_driver(tmp_path):
    words = ["-n", 48, "--shard-size", 3, "--batch-size", 3, "-o", tmp_path]
    command = [sys.executable, ROOT / "scripts" / "prove_ray.py", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    told = subprocess.run(
        [str(word) for word in command], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert "48 of 48 images bit-identical" in told.stdout and told.stdout.count("kill -9") == 3
